import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type Socket, connect as tcpConnect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import type { ListenOptions, MeshSocket } from '../../src/index.js'
import { nextEvent, portOf, rejection, startMesh, until } from '../fixtures/mesh.js'

/** A service that listens with these options, and another that dials it. */
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
    /** Connects and sends nothing: the handshake does not end. */
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
  it('accepts clients beside forty stalled handshakes', async (t) => {
    const { stall, dial } = await start(t, { maxHandshakes: 10 })
    const stalled = await Promise.all(Array.from({ length: 40 }, stall))
    let ended = 0
    for (const socket of stalled) socket.once('close', () => (ended += 1))
    await dial()
    // At most ten handshakes may be pending at the same time as that of the client.
    assert.ok(ended >= 30, `${ended} have ended`)
    await dial()
    assert.equal(stalled.at(-1)?.destroyed, false)
  })

  it('ends the oldest handshake', async (t) => {
    const { stall } = await start(t, { maxHandshakes: 2 })
    const first = await stall()
    const second = await stall()
    const closed = once(first, 'close')
    const third = await stall()
    await closed
    assert.deepEqual([second.destroyed, third.destroyed], [false, false])
  })

  it('does not count completed handshakes', async (t) => {
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

describe('a listener with allowHalfOpen', () => {
  it('closes a connection that ends during its handshake', async (t) => {
    const { stall } = await start(t, { allowHalfOpen: true })
    const socket = await stall()
    const closed = once(socket, 'close')
    socket.resume().end()
    await closed
  })
})

describe('a listener with maxConnections', () => {
  it('rejects a connection beyond the limit until another one has ended', async (t) => {
    const { api, dial, listener } = await start(t, { maxConnections: 2 })
    const [first] = [await dial(), await dial()]
    const rejected = nextEvent(api, 'rejected')
    await rejection(dial())
    const [error] = await rejected
    assert.equal((error as { code?: string }).code, 'ERR_CONNECT_LIMIT')
    assert.match(error.message, /^api: connection limit reached \(2\)/)
    assert.equal(listener.connections, 2)
    first.destroy()
    await until('a connection has ended', () => listener.connections === 1)
    await dial()
    assert.equal(listener.connections, 2)
  })

  it('reports no rejection for connections without data, such as TCP checks', async (t) => {
    const { api, stall } = await start(t, {})
    const rejected: Error[] = []
    api.on('rejected', (error) => rejected.push(error))
    for (const end of ['end', 'destroy', 'resetAndDestroy'] as const) {
      const socket = await stall()
      socket[end]()
      await once(socket, 'close')
    }
    // Rejections are reported in the order in which the connections end.
    const last = nextEvent(api, 'rejected')
    ;(await stall()).end('no TLS\r\n')
    await last
    assert.equal(rejected.length, 1)
  })

  it('counts handshakes that complete at the same time', async (t) => {
    const { dial, listener } = await start(t, { maxConnections: 3 })
    const dials = await Promise.allSettled(Array.from({ length: 12 }, dial))
    assert.equal(dials.filter(({ status }) => status === 'fulfilled').length, 3)
    assert.equal(listener.connections, 3)
  })
})
