import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { once } from 'node:events'
import { type TestContext, describe, it } from 'node:test'
import { dialLocal } from '../../src/proxy.js'
import { portOf, startMesh, until } from '../fixtures/mesh.js'

/**
 * Whether each end of the connections to a local port has a keep-alive timer that is due within 15 s. Reads
 * /proc/net/tcp, where `tr` is 2 for keep-alive timers, and `when` is in 1/100 s.
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

async function assertKeptAlive(port: number): Promise<void> {
  await until('both ends have a keep-alive timer', async () => {
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

// Without keep-alive probes the kernel would not notice a peer whose machine has lost power.
describe('TCP keep-alive after 15 s', () => {
  it('is enabled on both ends of mesh connections', async (t) => {
    const { join } = await startMesh(t)
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, () => undefined)
    const port = portOf(listener)
    await join('web').dial({ address: `127.0.0.1:${port}`, service: 'api' })
    await assertKeptAlive(port)
  })

  it('is enabled on connections of dialLocal', async (t) => {
    const port = await startServer(t)
    const socket = await dialLocal({ host: '127.0.0.1', port })
    t.after(() => socket.destroy())
    await assertKeptAlive(port)
  })

  it('is enabled on connections to a forward', async (t) => {
    const { join } = await startMesh(t)
    const listener = await join('api').listen({ port: 0, host: '127.0.0.1' }, () => undefined)
    const address = `127.0.0.1:${portOf(listener)}`
    const forward = await join('web').forward({ address, service: 'api' }, { port: 0 })
    const { port } = forward.address() as AddressInfo
    const socket = connect({ port, host: '127.0.0.1', keepAlive: true, keepAliveInitialDelay: 15_000 })
    // The end of the mesh resets it.
    socket.on('error', () => undefined)
    t.after(() => socket.destroy())
    await assertKeptAlive(port)
    assert.equal(socket.destroyed, false)
  })
})
