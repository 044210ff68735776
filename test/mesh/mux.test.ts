// Many connections over one, between two services of this library.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type TestContext, describe, it } from 'node:test'
import type { ListenOptions, Listener, MeshSocket, Service } from '../../src/index.js'
import { type TestMesh, portOf, startMesh, until } from '../fixtures/mesh.js'

interface Pair extends TestMesh {
  readonly api: Service
  readonly web: Service
  readonly listener: Listener
  readonly accepted: MeshSocket[]
  /** The number of TLS handshakes of `api`. */
  readonly handshakes: () => number
}

/** Starts two services whose connections share sessions. */
async function start(
  t: TestContext,
  options: Partial<ListenOptions> = {},
  handler: (socket: MeshSocket) => void = (socket) => socket.pipe(socket),
  { mux = [true, true] as readonly [boolean, boolean] } = {},
): Promise<Pair> {
  const mesh = await startMesh(t)
  const [api, web] = [mesh.join('api', { mux: mux[0] }), mesh.join('web', { mux: mux[1] })]
  const accepted: MeshSocket[] = []
  const listener = await api.listen({ port: 0, host: '127.0.0.1', ...options }, (socket) => {
    accepted.push(socket)
    handler(socket)
  })
  await api.register({ port: portOf(listener), address: '127.0.0.1' })
  return { ...mesh, api, web, listener, accepted, handshakes: () => countHandshakes(accepted) }
}

function countHandshakes(accepted: readonly MeshSocket[]): number {
  return new Set(accepted.map(({ remotePort }) => remotePort)).size
}

describe('services whose connections share a session', () => {
  it('make one handshake for many connections, each with its peer and addresses', async (t) => {
    const { web, api, accepted, handshakes } = await start(t)
    const sockets = await Promise.all(Array.from({ length: 50 }, () => web.dial('api')))
    for (const [i, socket] of sockets.entries()) {
      socket.write(`hello ${i}`)
      assert.equal(String(((await once(socket, 'data')) as [Buffer])[0]), `hello ${i}`)
    }
    assert.equal(handshakes(), 1)
    assert.equal(api.stats().connections, 50)
    assert.deepEqual([sockets[7]!.peer.service, accepted[7]!.peer.service], ['api', 'web'])
    assert.equal(sockets[7]!.remotePort, accepted[7]!.localPort)
    assert.equal(sockets[7]!.localPort, accepted[7]!.remotePort)
    for (const socket of sockets) socket.destroy()
    await until('no connection is left', () => api.stats().connections === 0)
  })
})
