import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DialError, VerificationError } from '../../src/index.js'
import { greet, portOf, rejection } from '../fixtures/mesh.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, hear, instances, joiner, register, until } from './service-mesh.js'

test('a proxy that somebody else has registered', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')
  // Our listeners stand in for proxies: a proxy has the certificate of the service it stands before.
  const port = portOf(await join('svc').listen({ port: 0, host: '127.0.0.1' }, greet))
  const impostor = portOf(await join('impostor').listen({ port: 0, host: '127.0.0.1' }, greet))

  t.afterEach(async () => {
    for (const id of Object.keys(await agentJson<object>(consul, '/v1/agent/services'))) {
      await agentJson(consul, `/v1/agent/service/deregister/${id}`, { method: 'PUT' })
    }
  })

  await t.test('is found by the name of its destination, whose identity it must have', async () => {
    await register(consul, proxy({ ID: 'p1', Port: port }))
    const socket = await web.dial('svc')
    assert.equal(socket.peer.service, 'svc')
    socket.destroy()
    assert.equal(await hear(web, 'svc'), 'hello web')
    // By its own name it is nobody.
    assert.equal((await rejection(web.dial('svc-proxy'))).code, 'ERR_CONNECT_NO_INSTANCES')
  })

  await t.test('is found without an address of its own: at its node’s', async () => {
    await register(consul, { ...proxy({ ID: 'p1', Port: port }), Address: undefined })
    await until('it is passing', async () => (await web.resolve('svc')).length === 1)
    const socket = await web.dial('svc')
    assert.equal(socket.remoteAddress, '127.0.0.1')
    socket.destroy()
  })

  await t.test('is found as a sidecar, with everything that Consul fills in for one', async () => {
    // Its own checks stand in for the default one, which takes up to ten seconds to pass.
    const Checks = [{ Name: 'follows its service', AliasService: 'svc' }]
    const SidecarService = { Port: port, Address: '127.0.0.1', Checks }
    await register(consul, { Name: 'svc', Port: 1, Address: '127.0.0.1', Connect: { SidecarService } })
    await until('it is passing', async () => (await instances(consul, 'svc')) === 1)
    const services = await agentJson<Record<string, { Kind?: string }>>(consul, '/v1/agent/services')
    assert.equal(services['svc-sidecar-proxy']?.Kind, 'connect-proxy')
    assert.equal(await hear(web, 'svc'), 'hello web')
  })

  await t.test('is refused with a certificate of its own or of anybody else', async () => {
    await register(consul, proxy({ ID: 'p1', Port: impostor }))
    const error = await until('the impostor is dialled', async () => {
      const thrown = await rejection(web.dial('svc'))
      return thrown.code === 'ERR_CONNECT_PEER_IDENTITY' && thrown
    })
    assert.ok(error instanceof DialError)
    assert.ok(error.cause instanceof VerificationError)
    assert.deepEqual([error.cause.expected, error.cause.actual], ['service "svc"', 'service "impostor"'])
    // With a good one beside it, every dial ends there.
    await register(consul, proxy({ ID: 'p2', Port: port }))
    // The agent brings what is registered to the catalog a moment later.
    await until('both are there', async () => (await instances(consul, 'svc')) === 2)
    for (let i = 0; i < 8; i += 1) assert.equal(await hear(web, 'svc'), 'hello web')
  })

  await t.test('stands beside native instances of the same service', async () => {
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
    // Each is as likely as the other: 64 times the same has one chance in 2^63.
    for (let i = 0; i < 64 && ports.size < 2; i += 1) {
      const socket = await web.dial('svc')
      ports.add(socket.remotePort)
      socket.destroy()
    }
    assert.deepEqual(ports, new Set([port, native]))
  })

  await t.test('is found in the shape of 1.2, where the agent still takes it', async () => {
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
    const said = await response.text()
    if (response.ok) assert.equal(await hear(web, 'svc'), 'hello web')
    // Gone in 1.8.7 already.
    else
      assert.deepEqual(
        [response.status, said],
        [400, 'Request decode failed: json: unknown field "ProxyDestination"'],
      )
  })
})

function proxy(where: { ID: string; Port: number }): object {
  return {
    Kind: 'connect-proxy',
    Name: 'svc-proxy',
    Address: '127.0.0.1',
    ...where,
    Proxy: { DestinationServiceName: 'svc' },
  }
}
