import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DialError, VerificationError } from '../../src/index.js'
import { greet, portOf, rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, deregister, dialAndRead, instances, joiner, register, until } from './service-mesh.js'

test('a proxy that is registered without the library', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')
  // Listeners of the library act as proxies: a proxy has the certificate of its destination service.
  const port = portOf(await join('svc').listen({ port: 0, host: '127.0.0.1' }, greet))
  const impostor = portOf(await join('impostor').listen({ port: 0, host: '127.0.0.1' }, greet))

  t.afterEach(async () => {
    for (const id of Object.keys(await agentJson<object>(consul, '/v1/agent/services'))) {
      await deregister(consul, id)
    }
  })

  await t.test('is found by the name of its destination, and must have that identity', async () => {
    await register(consul, proxy({ ID: 'p1', Port: port }))
    const socket = await web.dial('svc')
    assert.equal(socket.peer.service, 'svc')
    socket.destroy()
    assert.equal(await dialAndRead(web, 'svc'), 'hello web')
    assert.equal((await rejection(web.dial('svc-proxy'))).code, 'ERR_CONNECT_NO_INSTANCES')
  })

  await t.test('is found at the address of its node', async () => {
    await register(consul, { ...proxy({ ID: 'p1', Port: port }), Address: undefined })
    await until('the proxy is passing', async () => (await web.resolve('svc')).length === 1)
    const socket = await web.dial('svc')
    assert.equal(socket.remoteAddress, '127.0.0.1')
    socket.destroy()
  })

  await t.test('is found as a sidecar with the defaults of Consul', async () => {
    // This check replaces the default TCP check, which takes up to ten seconds to pass.
    const Checks = [{ Name: 'follows its service', AliasService: 'svc' }]
    const SidecarService = { Port: port, Address: '127.0.0.1', Checks }
    await register(consul, { Name: 'svc', Port: 1, Address: '127.0.0.1', Connect: { SidecarService } })
    await until('the proxy is passing', async () => (await instances(consul, 'svc')) === 1)
    const services = await agentJson<Record<string, { Kind?: string }>>(consul, '/v1/agent/services')
    assert.equal(services['svc-sidecar-proxy']?.Kind, 'connect-proxy')
    assert.equal(await dialAndRead(web, 'svc'), 'hello web')
  })

  await t.test('is rejected with the identity of another service', async () => {
    await register(consul, proxy({ ID: 'p1', Port: impostor }))
    const error = await until('the impostor is dialed', async () => {
      const rejected = await rejection(web.dial('svc'))
      return rejected.code === 'ERR_CONNECT_PEER_IDENTITY' && rejected
    })
    assert.ok(error instanceof DialError)
    assert.ok(error.cause instanceof VerificationError)
    assert.deepEqual([error.cause.expected, error.cause.actual], ['service "svc"', 'service "impostor"'])
    // With a valid proxy beside it, every dial succeeds.
    await register(consul, proxy({ ID: 'p2', Port: port }))
    await until('both proxies are in the catalog', async () => (await instances(consul, 'svc')) === 2)
    for (let i = 0; i < 8; i += 1) assert.equal(await dialAndRead(web, 'svc'), 'hello web')
  })

  await t.test('is dialed like native instances of the same service', async () => {
    const native = portOf(await join('svc').listen({ port: 0, host: '127.0.0.1' }, greet))
    await register(consul, {
      Name: 'svc',
      ID: 'n1',
      Port: native,
      Address: '127.0.0.1',
      Connect: { Native: true },
    })
    await register(consul, proxy({ ID: 'p1', Port: port }))
    const ports = new Set<number | undefined>()
    // Both are equally likely: 64 times the same one has a chance of 1 in 2^63.
    for (let i = 0; i < 64 && ports.size < 2; i += 1) {
      const socket = await web.dial('svc')
      ports.add(socket.remotePort)
      socket.destroy()
    }
    assert.deepEqual(ports, new Set([port, native]))
  })

  await t.test('is found with a registration of Consul 1.2, if the agent accepts it', async () => {
    const body = {
      Kind: 'connect-proxy',
      Name: 'old-proxy',
      Port: port,
      Address: '127.0.0.1',
      ProxyDestination: 'svc',
    }
    const response = await consul.http('/v1/agent/service/register', {
      method: 'PUT',
      body: JSON.stringify(body),
    })
    const text = await response.text()
    if (response.ok) assert.equal(await dialAndRead(web, 'svc'), 'hello web')
    // Consul 1.8.7 rejects the field.
    else
      assert.deepEqual(
        [response.status, text],
        [400, 'Request decode failed: json: unknown field "ProxyDestination"'],
      )
  })
})

function proxy(instance: { ID: string; Port: number }): object {
  return {
    Kind: 'connect-proxy',
    Name: 'svc-proxy',
    Address: '127.0.0.1',
    ...instance,
    Proxy: { DestinationServiceName: 'svc' },
  }
}
