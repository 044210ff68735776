// Where managed proxies listen when no address is configured.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { IDLE, managed, servicesOf, settings, startHost } from './connect-supervisor.js'

async function unbound(bindAddress?: string): Promise<object> {
  const { bind_addr: _, ...rest } = (await settings()) as { bind_addr: string }
  return { ...rest, ...(bindAddress !== undefined && { bind_addr: bindAddress }) }
}

for (const [what, bindAddress] of [
  ['without bind_addr', undefined],
  ['with a template as bind_addr', '{{ GetPrivateIP }}'],
] as const) {
  test(`proxies listen on the bind address of the agent ${what}`, async (t) => {
    const { agent, host } = await startHost(t, {
      'agent.json': await unbound(bindAddress),
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

test('a template that the agent does not show starts no proxy', async (t) => {
  const acl = {
    enabled: true,
    defaultPolicy: 'deny',
    managementToken: 'a2b1c0d9-0000-4000-8000-00000000beef',
  } as const
  const { agent, host } = await startHost(
    t,
    { 'agent.json': await unbound('{{ GetPrivateIP }}'), 'a.json': managed('a', IDLE) },
    { env: { CONSUL_HTTP_TOKEN: 'b2b1c0d9-0000-4000-8000-00000000beef' } },
    { acl },
  )
  const secret = 'b2b1c0d9-0000-4000-8000-00000000beef'
  const created = await fetch(`${agent.url}/v1/acl/token`, {
    method: 'PUT',
    headers: { 'X-Consul-Token': acl.managementToken },
    body: JSON.stringify({ SecretID: secret, ServiceIdentities: [{ ServiceName: 'a' }] }),
  })
  assert.equal(created.status, 200)
  const supervisor = await host.start()
  await supervisor.logged('cannot read the agent’s bind address, so no proxy is started')
  const { problem } = await host.row('a', ({ state }) => state === 'refused')
  assert.match(problem ?? '', /bind_addr: a template .*; set bind_addr to an IP address$/)
})
