import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'

const proxy = { name: 'web-proxy', kind: 'connect-proxy', port: 8443 }
const upstream = { destination_name: 'db', local_bind_port: 1 }

async function start(t: TestContext): Promise<TestAgent> {
  const agent = await TestAgent.start()
  t.after(() => agent.close())
  return agent
}

function put(agent: TestAgent, body: object): Promise<Response> {
  return fetch(`${agent.url}/v1/agent/service/register`, { method: 'PUT', body: JSON.stringify(body) })
}

async function settings(agent: TestAgent, body: object): Promise<unknown> {
  const answer = await put(agent, { ...proxy, proxy: body })
  assert.equal(answer.status, 200, await answer.text())
  const service = await fetch(`${agent.url}/v1/agent/service/web-proxy`)
  return ((await service.json()) as { Proxy: unknown }).Proxy
}

// test/consul/embedded-agent.test.ts compares registrations with a real agent. These tests run without one.
void describe('a registration', () => {
  it('accepts snake_case and the spelling of Consul', async (t) => {
    const agent = await start(t)
    const own = await settings(agent, {
      DestinationServiceName: 'web',
      DestinationServiceID: 'web-1',
      LocalServiceAddress: '127.0.0.2',
      LocalServicePort: 8080,
      Upstreams: [{ DestinationName: 'db', LocalBindAddress: '127.0.0.3', LocalBindPort: 1 }],
    })
    const snake = await settings(agent, {
      destination_service_name: 'web',
      destination_service_id: 'web-1',
      local_service_address: '127.0.0.2',
      local_service_port: 8080,
      upstreams: [{ ...upstream, local_bind_address: '127.0.0.3' }],
    })
    assert.deepEqual(snake, own)
  })

  const invalid: Record<string, { body: object; words: RegExp }> = {
    'an unknown field': { body: { name: 'web', bogus: 1 }, words: /unknown field "bogus"/ },
    'a value of another type': {
      body: { name: 'web', enable_tag_override: 'yes' },
      words: /EnableTagOverride: expected a boolean, got the string "yes"/,
    },
    'a sidecar that Consul would register': {
      body: { name: 'web', connect: { sidecar_service: {} } },
      words: /unknown field "sidecar_service"; the embedded agent does not support it/,
    },
  }
  for (const [name, { body, words }] of Object.entries(invalid)) {
    it(`is rejected with ${name}`, async (t) => {
      const answer = await put(await start(t), body)
      assert.equal(answer.status, 400)
      assert.match(await answer.text(), words)
    })
  }
})
