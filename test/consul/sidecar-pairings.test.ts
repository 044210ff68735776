// connect-proxy and the built-in proxy of Consul in every pairing, with real applications.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, type IncomingMessage, createServer as createHttpServer, request } from 'node:http'
import { connect as connectHttp2, createServer as createHttp2Server } from 'node:http2'
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net'
import { type TestContext, test } from 'node:test'
import { WebSocket, WebSocketServer } from 'ws'
import { freePort } from '../fixtures/free-ports.js'
import { readAll } from '../fixtures/mesh.js'
import { unlessThere } from '../fixtures/programs.js'
import { startProxy } from '../proxy/connect-proxy.js'
import { proxyInbound, proxyOutbound } from './built-in-proxy.js'
import { psql, startPostgres } from './postgres.js'
import { type RealAgent, skip as skipConsul, startConsul } from './real-agent.js'
import { WAIT_MS, instances, until } from './service-mesh.js'

const skip = skipConsul || unlessThere('initdb', 'psql')

const GIB = 1 << 30
const PIECE = randomBytes(1 << 20)

/** An application behind a proxy, and its client. */
interface Application {
  readonly name: string
  readonly start: (t: TestContext) => Promise<number>
  readonly use: (port: number) => Promise<void>
}

const APPLICATIONS: readonly Application[] = [
  { name: 'postgres', start: startPostgres, use: useDatabase },
  { name: 'http', start: startHttp, use: useHttp },
  { name: 'websocket', start: startWebSocket, use: useWebSocket },
  { name: 'http2', start: startHttp2, use: useHttp2 },
  { name: 'bulk', start: startBulk, use: useBulk },
]

/** The two sides of a proxy. */
interface Kind {
  readonly inbound: (t: TestContext, consul: RealAgent, service: string, port: number) => Promise<unknown>
  readonly outbound: (
    t: TestContext,
    consul: RealAgent,
    services: readonly string[],
  ) => Promise<{
    readonly ports: readonly number[]
    /** How many connections were opened in sessions. */
    readonly inSessions: () => Promise<number>
  }>
}

const KINDS: Readonly<Record<'ours' | 'mux' | 'theirs', Kind>> = {
  ours: ours(),
  mux: ours('-mux'),
  theirs: {
    inbound: proxyInbound,
    outbound: async (t, consul, services) => {
      const ports: number[] = []
      for (const service of services)
        ports.push((await proxyOutbound(t, consul, 'their-client', service)).port)
      return { ports, inSessions: () => Promise.resolve(0) }
    },
  },
}

function ours(...more: readonly string[]): Kind {
  return {
    inbound: async (t, consul, service, port) => {
      const flags = ['-service', service, '-service-addr', `127.0.0.1:${port}`, '-register', ...more]
      return startProxy(t, consul.address, [...flags, '-listen', `127.0.0.1:${await freePort()}`])
    },
    outbound: async (t, consul, services) => {
      const ports = await Promise.all(services.map(() => freePort()))
      const upstreams = services.flatMap((service, i) => ['-upstream', `${service}:${ports[i] ?? 0}`])
      const flags = ['-service', 'our-client', ...upstreams, ...more]
      const proxy = await startProxy(t, consul.address, flags)
      return { ports, inSessions: () => proxy.metric('session_connections_opened_total') }
    },
  }
}

test('pairings of connect-proxy and the built-in proxy', { skip }, async (t) => {
  const consul = await startConsul(t)
  const ports = new Map<string, number>()
  for (const { name, start } of APPLICATIONS) ports.set(name, await start(t))
  for (const [before, { inbound }] of Object.entries(KINDS)) {
    for (const { name } of APPLICATIONS) {
      const service = `${before}-${name}`
      await inbound(t, consul, service, ports.get(name) ?? 0)
      await until(`${service} is known`, async () => (await instances(consul, service)) === 1)
    }
  }
  for (const [from, { outbound }] of Object.entries(KINDS)) {
    for (const to of Object.keys(KINDS)) {
      if (from === 'theirs' && to === 'theirs') continue
      const { ports: locals, inSessions } = await outbound(
        t,
        consul,
        APPLICATIONS.map(({ name }) => `${to}-${name}`),
      )
      for (const [i, { name, use }] of APPLICATIONS.entries()) {
        await t.test(`${from} to ${to}: ${name}`, () => use(locals[i] ?? 0))
      }
      const count = await inSessions()
      const areExpected = from === 'mux' && to === 'mux'
      assert.ok(areExpected ? count >= APPLICATIONS.length : count === 0, `${count} connections in sessions`)
    }
  }
})

async function useDatabase(port: number): Promise<void> {
  const output = await psql(
    port,
    'create temporary table numbers (n int, words text)',
    'begin; insert into numbers select i, repeat(i::text, 100) from generate_series(1, 20000) i; commit',
    'select count(*), sum(n) from numbers',
    'copy (select words from numbers order by n) to stdout',
    "select pg_backend_pid() = pg_backend_pid(), inet_client_addr() = '127.0.0.1'",
  )
  const lines = output.trimEnd().split('\n')
  assert.equal(lines[0], '20000|200010000')
  assert.equal(lines.length, 1 + 20_000 + 1)
  assert.equal(lines[20_000], '20000'.repeat(100))
  assert.equal(lines.at(-1), 't|t')
}

async function startHttp(t: TestContext): Promise<number> {
  const server = createHttpServer((incoming, response) => {
    response.setHeader('client-port', String(incoming.socket.remotePort))
    incoming.pipe(response)
  })
  return listen(t, server)
}

async function useHttp(port: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const connections = new Set<string>()
  for (let i = 0; i < 50; i += 1) {
    const body = PIECE.subarray(0, i * 1_000)
    const sent = request({ port, host: '127.0.0.1', agent, method: 'POST' })
    sent.end(body)
    const [response] = (await once(sent, 'response', bound())) as [IncomingMessage]
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    assert.equal(Buffer.concat(chunks).equals(body), true)
    connections.add(String(response.headers['client-port']))
  }
  agent.destroy()
  assert.equal(connections.size, 1)
}

async function startWebSocket(t: TestContext): Promise<number> {
  const server = createHttpServer()
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket) => {
    socket.on('message', (message, isBinary) => {
      socket.send(message as Buffer, { binary: isBinary })
    })
  })
  return listen(t, server)
}

async function useWebSocket(port: number): Promise<void> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`)
  await once(socket, 'open', bound())
  for (const message of [Buffer.from('a'), PIECE.subarray(0, 70_000), PIECE]) {
    const answer = once(socket, 'message', bound())
    socket.send(message)
    const [echoed] = (await answer) as [Buffer]
    assert.equal(echoed.equals(message), true)
  }
  const closed = once(socket, 'close', bound())
  socket.close(1000)
  assert.equal((await closed)[0], 1000)
}

async function startHttp2(t: TestContext): Promise<number> {
  const server = createHttp2Server()
  server.on('stream', (stream) => {
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  })
  return listen(t, server)
}

async function useHttp2(port: number): Promise<void> {
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  const streams = Array.from({ length: 20 }, async (_, i) => {
    const body = PIECE.subarray(0, 10_000 * i)
    const stream = session.request({ ':method': 'POST' })
    stream.end(body)
    const chunks: Buffer[] = []
    for await (const chunk of stream) chunks.push(chunk as Buffer)
    assert.equal(Buffer.concat(chunks).equals(body), true)
  })
  await Promise.all(streams)
  const closed = once(session, 'close', bound())
  session.close()
  await closed
}

/** Receives a gibibyte, sends a gibibyte, and ends with the hashes of both. */
async function startBulk(t: TestContext): Promise<number> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    const serve = async (): Promise<void> => {
      const received = await receive(socket, GIB)
      const sent = await send(socket, GIB)
      socket.end(received + sent)
    }
    // The built-in proxy connects to the application before it has authenticated its peer.
    serve().catch(() => socket.destroy())
  })
  return listen(t, server)
}

async function useBulk(port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1')
  const sent = await send(socket, GIB)
  const received = await receive(socket, GIB)
  assert.equal(await readAll(socket), sent + received)
}

/** Sends bytes. Returns their hash. */
async function send(socket: Socket, bytes: number): Promise<string> {
  const hash = createHash('sha256')
  for (let i = 0; i < bytes / PIECE.length; i += 1) {
    // All pieces differ, so that a changed order changes the hash.
    const piece = Buffer.from(PIECE)
    piece.writeUInt32BE(i)
    hash.update(piece)
    if (!socket.write(piece)) await once(socket, 'drain', bound())
  }
  return hash.digest('hex')
}

/** Receives bytes, and leaves the following ones in the socket. Returns their hash. */
async function receive(socket: Socket, bytes: number): Promise<string> {
  const hash = createHash('sha256')
  for (let remaining = bytes; remaining > 0;) {
    const chunk = socket.read() as Buffer | null
    if (chunk === null) {
      if (socket.readableEnded) throw new Error(`${remaining} bytes are missing`)
      await once(socket, 'readable', bound())
      continue
    }
    hash.update(chunk.subarray(0, remaining))
    if (chunk.length > remaining) socket.unshift(chunk.subarray(remaining))
    remaining -= chunk.length
  }
  return hash.digest('hex')
}

async function listen(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return (server.address() as AddressInfo).port
}

function bound(): { signal: AbortSignal } {
  return { signal: AbortSignal.timeout(WAIT_MS) }
}
