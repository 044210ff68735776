import { once } from 'node:events'
import { authorizeAny, type MeshSocket, service } from '../src/index.js'
import { TestAgent } from '../src/testing/index.js'
import { heapUsed } from './heap.js'
import { type Benchmark, round } from './measure.js'

const COUNT = 10_000
const CONCURRENCY = 50
const KIB = 1024

/** Both ends run in this process, so that memory and time are those of both. */
const benchmark: Benchmark = {
  question: `What do ${COUNT} open connections of one process cost, in sessions and without?`,
  async run() {
    const rows: Record<string, Record<string, number>> = {}
    for (const mux of [true, false]) rows[mux ? 'in sessions' : 'mux: false'] = await measure(mux)
    return rows
  },
}
export default benchmark

async function measure(mux: boolean): Promise<Record<string, number>> {
  await using agent = await TestAgent.start()
  const options = { agent: { address: agent.address, env: {} }, mux }
  await using api = service('api', { ...options, authorize: authorizeAny })
  await using web = service('web', { ...options, dialTimeoutMs: 60_000 })
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.pipe(socket))
  const { port } = listener.address() as { readonly port: number }
  await api.register({ port, address: '127.0.0.1' })
  // The first connections load what is loaded once.
  const open = await dialMany(() => web.dial('api'), CONCURRENCY)
  const heap = heapUsed()
  const { rss } = process.memoryUsage()
  const begin = performance.now()
  open.push(...(await dialMany(() => web.dial('api'), COUNT)))
  const openMs = performance.now() - begin
  const row = {
    'ms to open': round(openMs, 0),
    'KiB of heap per connection': round((heapUsed() - heap) / KIB / COUNT, 1),
    'KiB resident per connection': round((process.memoryUsage().rss - rss) / KIB / COUNT, 1),
    sessions: web.stats().sessions.outbound,
  }
  const echoBegin = performance.now()
  await Promise.all(open.map(exchange))
  const echoMs = performance.now() - echoBegin
  for (const socket of open) socket.destroy()
  return { ...row, 'ms for a byte there and back on each': round(echoMs, 0) }
}

/** Opens connections, and waits for a byte on each, so that it is open at both ends. */
async function dialMany(dial: () => Promise<MeshSocket>, count: number): Promise<MeshSocket[]> {
  const open: MeshSocket[] = []
  let left = count
  const worker = async (): Promise<void> => {
    for (; left > 0;) {
      left -= 1
      const socket = await dial()
      open.push(socket.on('error', () => undefined))
      await exchange(socket)
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, worker))
  return open
}

async function exchange(socket: MeshSocket): Promise<void> {
  socket.write('x')
  await once(socket, 'data')
}
