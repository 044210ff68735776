// Where managed proxies listen when no address is configured.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { IDLE, managed, servicesOf, settings, startHost } from './connect-supervisor.js'

/** The settings of the agent with another `bind_addr`, or without one. */
async function settingsWith(bindAddress: string | undefined): Promise<object> {
  return { ...(await settings()), bind_addr: bindAddress }
}

for (const [condition, bindAddress] of [
  ['without bind_addr', undefined],
  ['with a template as bind_addr', '{{ GetPrivateIP }}'],
] as const) {
  test(`proxies listen on the bind address of the agent ${condition}`, async (t) => {
    const { agent, host } = await startHost(t, {
      'agent.json': await settingsWith(bindAddress),
      'a.json': managed('a', IDLE),
    })
    await host.start()
    await host.running('a')
    const { Proxy: proxy, Address } = (await servicesOf(agent))['a-proxy'] as {
      Proxy: { Config: { bind_address: string } }
      Address: string
    }
    assert.deepEqual([proxy.Config.bind_address, Address], ['127.0.0.1', '127.0.0.1'])
  })
}

test('refuses to start a proxy when bind_addr is a template and the token may not read the address of the agent', async (t) => {
  const managementToken = 'a2b1c0d9-0000-4000-8000-00000000beef'
  const secret = 'b2b1c0d9-0000-4000-8000-00000000beef'
  const { agent, host } = await startHost(
    t,
    { 'agent.json': await settingsWith('{{ GetPrivateIP }}'), 'a.json': managed('a', IDLE) },
    { env: { CONSUL_HTTP_TOKEN: secret } },
    { acl: { enabled: true, defaultPolicy: 'deny', managementToken } },
  )
  const created = await fetch(`${agent.url}/v1/acl/token`, {
    method: 'PUT',
    headers: { 'X-Consul-Token': managementToken },
    body: JSON.stringify({ SecretID: secret, ServiceIdentities: [{ ServiceName: 'a' }] }),
  })
  assert.equal(created.status, 200)
  const supervisor = await host.start()
  await supervisor.logged('cannot read the agent’s bind address, so no proxy is started')
  const { problem } = await host.row('a', ({ state }) => state === 'refused')
  assert.match(problem ?? '', /bind_addr: a template .*; set bind_addr to an IP address$/)
})
