import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { type DeniedError, DialError, type Peer, peer } from '../../src/index.js'
import { freePort } from '../fixtures/free-ports.js'
import { offer, rejection } from '../fixtures/mesh.js'
import { ending } from '../fixtures/ways.js'
import { proxyInbound, proxyOutbound } from './built-in-proxy.js'
import { skip, startConsul } from './real-agent.js'
import { assertExchanges, assertIntact, echo, exchange, plainConnect, plainEcho } from './service-echo.js'
import {
  WAIT_MS,
  dialAndRead,
  instances,
  intend,
  joiner,
  nextEvent,
  spiffeIds,
  until,
} from './service-mesh.js'

/** Around the sizes of a TLS record and of a pipe buffer, and above those of socket buffers. */
const SIZES = [1, 16_384, 16_385, 65_537, 1 << 20, 4 << 20]

test('the built-in proxy of Consul', { skip }, async (t) => {
  const consul = await startConsul(t)
  const idOf = await spiffeIds(consul)

  await t.test('accepts connections of dial', async (t) => {
    const application = await plainEcho(t)
    const proxy = await proxyInbound(t, consul, 'svc', application.port)
    const client = joiner(t, consul)('client')
    await until('the proxy is passing', async () => (await instances(consul, 'svc')) === 1)

    await t.test('without a lost byte, with the identity of its service', async () => {
      for (const size of SIZES) {
        const socket = await client.dial('svc')
        assert.equal(socket.peer.spiffeId, idOf('svc'))
        assert.equal(socket.remotePort, proxy.port)
        assertIntact(await exchange(socket, size))
      }
      await Promise.all(Array.from({ length: 32 }, () => assertExchanges(() => client.dial('svc'), [65_537])))
    })

    await t.test('at its address, only with the expected identity', async () => {
      const address = `127.0.0.1:${proxy.port}`
      await assertExchanges(() => client.dial({ address, service: 'svc' }), [1])
      const error = await rejection(client.dial({ address, service: 'svc-proxy' }))
      assert.equal(error.code, 'ERR_CONNECT_PEER_IDENTITY')
    })

    await t.test('and forwards no byte when an intention denies them', async () => {
      await intend(consul, 'deny', 'client', 'svc')
      await until('client is denied', async () => {
        const error = await rejection(dialAndRead(client, 'svc'))
        if (error.code !== 'ERR_CONNECT_REJECTED') throw error
        return true
      })
      const before = application.bytes()
      for (let i = 0; i < 5; i += 1) {
        const socket = await client.dial('svc')
        const codes: unknown[] = []
        // The proxy sends an alert in the handshake, which must cause exactly one error.
        socket.on('error', ({ code }: NodeJS.ErrnoException) => codes.push(code))
        socket.write('denied')
        await once(socket.resume(), 'close', { signal: AbortSignal.timeout(WAIT_MS) }).catch(() => undefined)
        assert.deepEqual(codes, ['ERR_CONNECT_REJECTED'])
      }
      assert.equal(application.bytes(), before)
      // Other sources are still allowed.
      const batch = joiner(t, consul)('batch')
      await assertExchanges(() => batch.dial('svc'), [1_000])
    })
  })

  await t.test('fails dials when its application is down', async (t) => {
    await proxyInbound(t, consul, 'hollow', await freePort())
    await until('the proxy is passing', async () => (await instances(consul, 'hollow')) === 1)
    // The proxy connects to the application before the TLS handshake, and closes the connection when that fails.
    const error = await rejection(dialAndRead(joiner(t, consul)('client'), 'hollow'))
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
    assert.equal(error.attempts.length, 1)
  })

  await t.test('reaches a listener', async (t) => {
    const join = joiner(t, consul)
    const api = join('api')
    const callers: Peer[] = []
    await offer(api, (socket) => {
      callers.push(socket.peer)
      assert.equal(peer(socket), socket.peer)
      echo(socket)
    })
    const { port } = await proxyOutbound(t, consul, 'gopher', 'api')

    await t.test('without a lost byte, with the identity of its service', async () => {
      await assertExchanges(() => plainConnect(port), SIZES)
      assert.deepEqual(new Set(callers.map(({ spiffeId }) => spiffeId)), new Set([idOf('gopher')]))
      assert.equal(callers.length, SIZES.length)
      await Promise.all(Array.from({ length: 32 }, () => assertExchanges(() => plainConnect(port), [65_537])))
      const [first] = callers
      assert.deepEqual([first?.service, first?.namespace, first?.datacenter], ['gopher', 'default', 'dc1'])
    })

    await t.test('and no handler when an intention denies it', async () => {
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
        const deniedNext = nextEvent(api, 'denied')
        const socket = await plainConnect(port)
        // With a reset if the listener has not read the data.
        const ended = ending(socket.on('error', () => undefined))
        socket.write('denied')
        let received = 0
        socket.on('data', (chunk: Buffer) => (received += chunk.length))
        await ended
        assert.equal(received, 0)
        const [error] = await deniedNext
        assert.equal(error.peer.spiffeId, idOf('gopher'))
        assert.notEqual(error.reason, '')
      }
      assert.equal(callers.length, before)
      // Other sources are still allowed.
      const batch = join('batch')
      await assertExchanges(() => batch.dial('api'), [1_000])
    })
  })
})
