import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { freePort } from '../fixtures/free-ports.js'
import { type DeniedError, DialError, type Peer, peer } from '../../src/index.js'
import { offer, rejection } from '../fixtures/mesh.js'
import { ending } from '../fixtures/ways.js'
import { proxyInbound, proxyOutbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { echo, exchange, plainConnect, plainEcho } from './service-echo.js'
import {
  type Join,
  WAIT_MS,
  agentJson,
  hear,
  instances,
  intend,
  joiner,
  nextEvent,
  until,
} from './service-mesh.js'

/** Around the sizes of a TLS record, of a pipe's buffer, and beyond any socket's. */
const SIZES = [1, 16_384, 16_385, 65_537, 1 << 20, 4 << 20]

test('the built-in proxy of a real Consul', { skip }, async (t) => {
  const consul = await startConsul(t)
  const { TrustDomain } = await agentJson<{ TrustDomain: string }>(consul, '/v1/agent/connect/ca/roots')
  const idOf = (name: string): string => `spiffe://${TrustDomain}/ns/default/dc/dc1/svc/${name}`

  await t.test('lets our dial in to its application', async (t) => {
    const application = await plainEcho(t)
    const proxy = await proxyInbound(t, consul, 'svc', application.port)
    const client = joiner(t, consul)('client')
    await until('the proxy is passing', async () => (await instances(consul, 'svc')) === 1)

    await t.test('byte for byte, and as the service it stands before', async () => {
      for (const size of SIZES) {
        const socket = await client.dial('svc')
        assert.equal(socket.peer.spiffeId, idOf('svc'))
        assert.equal(socket.remotePort, proxy.port)
        assertWhole(await exchange(socket, size), size)
      }
    })

    await t.test('also many at once', async () => {
      const exchanges = Array.from({ length: 32 }, async () => exchange(await client.dial('svc'), 65_537))
      for (const each of await Promise.all(exchanges)) assertWhole(each, 65_537)
    })

    await t.test('at an address of its own, when it is that service', async () => {
      const address = `127.0.0.1:${proxy.port}`
      assertWhole(await exchange(await client.dial({ address, service: 'svc' }), 1), 1)
      const error = await rejection(client.dial({ address, service: 'svc-proxy' }))
      assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    })

    await t.test('unless an intention denies: not a byte gets through', async () => {
      await intend(consul, 'deny', 'client', 'svc')
      await until('client is denied', async () => {
        const error = await rejection(hear(client, 'svc'))
        if (error.code !== 'ERR_CONNECT_REJECTED') throw error
        return true
      })
      const before = application.bytes()
      for (let i = 0; i < 5; i += 1) {
        const socket = await client.dial('svc')
        const codes: unknown[] = []
        // It refuses in the handshake, with an alert: one error must come of it, and not the raw one besides.
        socket.on('error', ({ code }: NodeJS.ErrnoException) => codes.push(code))
        socket.write('not for you')
        await once(socket.resume(), 'close', { signal: AbortSignal.timeout(WAIT_MS) }).catch(() => undefined)
        assert.deepEqual(codes, ['ERR_CONNECT_REJECTED'])
      }
      assert.equal(application.bytes(), before)
      // Everybody else still is.
      const other = joiner(t, consul)('other')
      assertWhole(await exchange(await other.dial('svc'), 1000), 1000)
    })
  })

  await t.test('fails our dial when its application is away', async (t) => {
    const nobody = await freePort()
    await proxyInbound(t, consul, 'hollow', nobody)
    await until('the proxy is passing', async () => (await instances(consul, 'hollow')) === 1)
    // It calls the application before it shakes hands, and hangs up on us when it gets no answer.
    const error = await rejection(hear(joiner(t, consul)('client'), 'hollow'))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
    assert.equal(error.attempts.length, 1)
  })

  await t.test('reaches our listener', async (t) => {
    const join: Join = joiner(t, consul)
    const api = join('api')
    const callers: Peer[] = []
    await offer(api, (socket) => {
      callers.push(socket.peer)
      assert.equal(peer(socket), socket.peer)
      echo(socket)
    })
    const { port } = await proxyOutbound(t, consul, 'gopher', 'api')

    await t.test('byte for byte, and is known by its service', async () => {
      for (const size of SIZES) assertWhole(await exchange(await plainConnect(port), size), size)
      assert.deepEqual(new Set(callers.map(({ spiffeId }) => spiffeId)), new Set([idOf('gopher')]))
      assert.equal(callers.length, SIZES.length)
      const [first] = callers
      assert.deepEqual([first?.service, first?.namespace, first?.datacenter], ['gopher', 'default', 'dc1'])
    })

    await t.test('also many at once', async () => {
      const exchanges = Array.from({ length: 32 }, async () => exchange(await plainConnect(port), 65_537))
      for (const each of await Promise.all(exchanges)) assertWhole(each, 65_537)
    })

    await t.test('unless an intention denies: the handler never runs', async () => {
      await intend(consul, 'deny', 'gopher', 'api')
      const denied: DeniedError[] = []
      api.on('denied', (error) => denied.push(error))
      await until('gopher is denied', async () => {
        const socket = await plainConnect(port)
        socket.destroy()
        await once(socket, 'close')
        return denied.length > 0
      })
      const before = callers.length
      for (let i = 0; i < 5; i += 1) {
        const told = nextEvent(api, 'denied')
        const socket = await plainConnect(port)
        // By a reset, when what was written has not been read.
        const ended = ending(socket.on('error', () => undefined))
        socket.write('not for you')
        let heard = 0
        socket.on('data', (chunk: Buffer) => (heard += chunk.length))
        await ended
        assert.equal(heard, 0)
        const [error] = await told
        assert.equal(error.peer.spiffeId, idOf('gopher'))
        assert.notEqual(error.reason, '')
      }
      assert.equal(callers.length, before)
      // Our own client, which is somebody else, still gets in.
      assertWhole(await exchange(await join('other').dial('api'), 1000), 1000)
    })
  })

  await t.test('on both ends of a way through our own processes', async (t) => {
    // A plain client, the Go proxy, our listener, our dial, the Go proxy, and a plain application.
    const join = joiner(t, consul)
    const application = await plainEcho(t)
    await proxyInbound(t, consul, 'backend', application.port)
    await until('the proxy is passing', async () => (await instances(consul, 'backend')) === 1)
    const middle = join('middle')
    await offer(middle, async (socket) => {
      const onward = await middle.dial('backend')
      socket.on('close', () => onward.destroy()).on('error', () => undefined)
      onward.on('close', () => socket.destroy()).on('error', () => undefined)
      socket.pipe(onward).pipe(socket)
    })
    const { port } = await proxyOutbound(t, consul, 'front', 'middle')
    for (const size of SIZES) assertWhole(await exchange(await plainConnect(port), size), size)
  })
})

function assertWhole(
  { sent, told, received }: { sent: string; told: string; received: string },
  size: number,
): void {
  assert.deepEqual({ told, received }, { told: sent, received: sent }, `${size} bytes`)
}
