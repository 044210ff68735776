import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { type Socket, connect as tcpConnect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import type { HandshakeMessage, ListenOptions, MeshSocket } from '../../src/index.js'
import { nextEvent, portOf, rejection, startMesh, until } from '../fixtures/mesh.js'

/** A service that listens within limits, and another that dials it. */
async function start(t: TestContext, limits: Partial<ListenOptions>) {
  const { join } = await startMesh(t)
  const [api, web] = [join('api'), join('web')]
  const options = { port: 0, host: '127.0.0.1', ...limits } as ListenOptions
  const listener = await api.listen(options, (socket: MeshSocket) => socket.write('x'))
  const port = portOf(listener)
  return {
    api,
    web,
    listener,
    /** Connects and says nothing: a handshake that never ends. */
    stall: async (): Promise<Socket> => {
      const socket = tcpConnect(port, '127.0.0.1')
      t.after(() => socket.destroy())
      socket.on('error', () => undefined)
      await once(socket, 'connect')
      return socket
    },
    dial: async (): Promise<MeshSocket> => {
      const socket = await web.dial({ address: `127.0.0.1:${port}`, service: 'api' })
      await once(socket, 'data')
      return socket
    },
  }
}

describe('a listener with maxHandshakes', () => {
  it('lets a real client through forty handshakes that never end', async (t) => {
    const { stall, dial } = await start(t, { maxHandshakes: 10 })
    const stalled = await Promise.all(Array.from({ length: 40 }, stall))
    let ended = 0
    for (const socket of stalled) socket.once('close', () => (ended += 1))
    await dial()
    // Ten may be under way, the client's own among them, which is over.
    assert.ok(ended >= 30, `${ended} have ended`)
    await dial()
    assert.equal(stalled.at(-1)?.destroyed, false)
  })

  it('ends the one that began first', async (t) => {
    const { stall } = await start(t, { maxHandshakes: 2 })
    const first = await stall()
    const second = await stall()
    const gone = once(first, 'close')
    const third = await stall()
    await gone
    assert.deepEqual([second.destroyed, third.destroyed], [false, false])
  })

  it('counts none that are over', async (t) => {
    const { dial, stall, listener } = await start(t, { maxHandshakes: 1 })
    const open = [await dial(), await dial(), await dial()]
    await stall()
    open.push(await dial())
    assert.equal(listener.connections, 4)
    assert.equal(
      open.some(({ destroyed }) => destroyed),
      false,
    )
  })
})

describe('a listener whose connections may be half-open', () => {
  it('lets go at once of one that ends in its handshake', async (t) => {
    const { stall } = await start(t, { allowHalfOpen: true })
    const socket = await stall()
    const gone = once(socket, 'close')
    socket.resume().end()
    await gone
  })
})

describe('a listener with maxConnections', () => {
  it('refuses one too many, says so, and takes another when one has ended', async (t) => {
    const { api, dial, listener } = await start(t, { maxConnections: 2 })
    const [first] = [await dial(), await dial()]
    const rejected = nextEvent(api, 'rejected')
    await rejection(dial())
    const [error] = await rejected
    assert.equal((error as { code?: string }).code, 'ERR_CONNECT_LIMIT')
    assert.match(error.message, /^api: connection limit reached \(2\)/)
    assert.equal(listener.connections, 2)
    first.destroy()
    await until('one has ended', () => listener.connections === 1)
    await dial()
    assert.equal(listener.connections, 2)
  })

  it('reports no rejection for a connection that ends before its first byte, as a TCP check does', async (t) => {
    const { api, stall } = await start(t, {})
    const rejected: Error[] = []
    api.on('rejected', (error) => rejected.push(error))
    for (const leave of ['end', 'destroy', 'resetAndDestroy'] as const) {
      const socket = await stall()
      socket[leave]()
      await once(socket, 'close')
    }
    // Errors of handshakes are reported in the order of the connections' ends.
    const last = nextEvent(api, 'rejected')
    ;(await stall()).end('no TLS\r\n')
    await last
    assert.equal(rejected.length, 1)
  })

  it('is not exceeded by handshakes that end at once', async (t) => {
    const { dial, listener } = await start(t, { maxConnections: 3 })
    const dials = await Promise.allSettled(Array.from({ length: 12 }, dial))
    assert.equal(dials.filter(({ status }) => status === 'fulfilled').length, 3)
    assert.equal(listener.connections, 3)
  })
})

describe('consul-connect:handshake', () => {
  it('tells of inbound handshakes, those that fail too', async (t) => {
    const { api, dial, stall } = await start(t, { handshakeTimeoutMs: 5_000 })
    const messages: HandshakeMessage[] = []
    const listener = (message: unknown): void => {
      messages.push(message as HandshakeMessage)
    }
    subscribe('consul-connect:handshake', listener)
    t.after(() => {
      unsubscribe('consul-connect:handshake', listener)
    })
    await dial()
    const rejected = nextEvent(api, 'rejected')
    ;(await stall()).end('this is no TLS\r\n')
    await rejected
    const [good, bad] = messages
    assert.equal(good?.peer?.service, 'web')
    assert.equal(good.error, undefined)
    assert.ok(good.durationMs !== undefined && good.durationMs > 0)
    assert.equal(bad?.peer, undefined)
    assert.match(bad?.error?.message ?? '', /SSL|TLS|wrong version|disconnected/i)
    assert.deepEqual(
      messages.map(({ service }) => service),
      ['api', 'api'],
    )
  })
})
