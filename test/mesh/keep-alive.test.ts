import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { once } from 'node:events'
import { type TestContext, describe, it } from 'node:test'
import { dialLocal } from '../../src/proxy.js'
import { portOf, startMesh, until } from '../fixtures/mesh.js'

/**
 * Whether the kernel has a keep-alive timer for each of the connections from and to a port of this machine, and that
 * within the time that was asked for. From /proc/net/tcp, where `tr` is 2 for such a timer, and `when` in 1/100 s.
 */
async function timersOf(port: number): Promise<boolean[]> {
  const table = await readFile('/proc/net/tcp', 'utf8')
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  return table
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(
      ([, local, remote, state]) => state === '01' && [local, remote].some((end) => end?.endsWith(`:${hex}`)),
    )
    .map(([, , , , , timer]) => {
      const [tr, when] = (timer ?? '').split(':')
      return tr === '02' && Number.parseInt(when ?? '', 16) <= 1_500
    })
}

async function areKeptAlive(port: number): Promise<void> {
  await until('both ends are kept alive', async () => {
    const timers = await timersOf(port)
    return timers.length === 2 && timers.every(Boolean)
  })
}

async function startServer(t: TestContext): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => sockets.add(socket.setKeepAlive(true, 15_000)))
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

// A peer whose machine has lost its power says nothing: only the kernel's questions find that out.
describe('TCP keep-alive, after 15 s of silence,', () => {
  it('is on both ends of a connection of the mesh', async (t) => {
    const { join } = await startMesh(t)
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, () => undefined)
    const port = portOf(listener)
    await join('web').dial({ address: `127.0.0.1:${port}`, service: 'api' })
    await areKeptAlive(port)
  })

  it('is on the connection to an application', async (t) => {
    const port = await startServer(t)
    const socket = await dialLocal({ host: '127.0.0.1', port })
    t.after(() => socket.destroy())
    await areKeptAlive(port)
  })

  it('is on what a forward has accepted', async (t) => {
    const { join } = await startMesh(t)
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, () => undefined)
    const address = `127.0.0.1:${portOf(listener)}`
    const forward = await join('web').forward({ address, service: 'api' }, { port: 0 })
    const { port } = forward.address() as AddressInfo
    const socket = connect({ port, host: '127.0.0.1', keepAlive: true, keepAliveInitialDelay: 15_000 })
    t.after(() => socket.destroy())
    await areKeptAlive(port)
    assert.equal(socket.destroyed, false)
  })
})
