// Misbehaving clients, peers, and applications. After each test, no connection and no extra descriptor is open.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, readdirSync, readlinkSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { confirmEnd } from '../../src/base/node-internals.js'
import { cut } from '../../src/sockets/pump.js'
import type { TestAgent } from '../../src/testing/index.js'
import { freePort } from '../fixtures/free-ports.js'
import { WAIT_MS, readAll, startMesh, until } from '../fixtures/mesh.js'
import {
  type Pair,
  type RunningProxy,
  configFile,
  connectEcho,
  echo,
  expectEcho,
  localConnect,
  startApplication,
  startPair,
  startProxy,
} from './connect-proxy.js'

interface Started extends Pair {
  readonly agent: string
  /** Checks that a new connection works. */
  readonly works: () => Promise<void>
  /** Waits until both proxies have no connections and no more descriptors than at the start. */
  readonly settled: () => Promise<void>
}

interface Options {
  /** Whether the two proxies use sessions. */
  readonly mux: boolean
  readonly handler?: (socket: Socket) => void
  readonly inbound?: readonly string[]
  readonly outbound?: readonly string[]
}

/** How many sessions may be open for a while after the connections. */
const SESSIONS = 4

async function start(t: TestContext, { mux, handler = echo, ...given }: Options): Promise<Started> {
  const { agent } = await startMesh(t)
  const application = await startApplication(t, handler)
  const flags = {
    inbound: [`-mux=${mux}`, ...(given.inbound ?? [])],
    outbound: [`-mux=${mux}`, ...(given.outbound ?? [])],
  }
  const pair = await startPair(t, agent.address, application.port, flags)
  const works = async (): Promise<void> => {
    const socket = await connectEcho(t, pair.port)
    socket.end()
    await readAll(socket)
  }
  if (handler === echo) await works()
  const proxies = [pair.inbound, pair.outbound]
  const before = await Promise.all(proxies.map((proxy) => idleDescriptors(proxy, agent)))
  return {
    ...pair,
    agent: agent.address,
    works,
    settled: async () => {
      for (const [i, proxy] of proxies.entries()) {
        await until(
          'no descriptor is left open',
          async () => (await idleDescriptors(proxy, agent)) <= before[i]! + (mux ? SESSIONS : 0),
        )
      }
    },
  }
}

/** Waits until a proxy has no connections. Returns its number of descriptors, without the varying number to the agent. */
async function idleDescriptors(proxy: RunningProxy, agent: TestAgent): Promise<number> {
  await until('no connection is open', async () => (await proxy.metric('connections_open')) === 0)
  const agentPort = Number(new URL(agent.url).port).toString(16).toUpperCase().padStart(4, '0')
  // See proc(5): the fields of a TCP socket are its slot, the local and the remote address, and so on up to the inode.
  const toAgent = readFileSync(`/proc/${proxy.pid}/net/tcp`, 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , remote]) => remote?.endsWith(`:${agentPort}`))
    .map((fields) => `socket:[${fields[9]}]`)
  return readdirSync(`/proc/${proxy.pid}/fd`).filter(
    (descriptor) => !toAgent.includes(linkOf(`/proc/${proxy.pid}/fd/${descriptor}`)),
  ).length
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    // Closed meanwhile.
    return ''
  }
}

const MIB = randomBytes(1 << 20)

/** What either end of a connection may do, in any order and repeatedly. */
const ACTIONS: Readonly<Record<string, (socket: Socket) => unknown>> = {
  write: (socket) => socket.writable && socket.write(MIB.subarray(0, 1000)),
  'write 1 MiB': (socket) => socket.writable && socket.write(MIB),
  end: (socket) => socket.end(),
  'end with 1 MiB': (socket) => socket.writable && socket.end(MIB),
  reset: cut,
  close: (socket) => socket.destroy(),
  'stop reading': (socket) => socket.pause(),
  read: (socket) => socket.resume(),
  'wait a turn': () => turn(),
  'wait 1 ms': () => delay(1),
  'wait 50 ms': () => delay(50),
}

/** Performs actions one after the other, and resets the connection. */
async function perform(socket: Socket, actions: readonly string[]): Promise<void> {
  socket.on('error', () => undefined)
  for (const action of actions) {
    if (socket.destroyed) return
    await ACTIONS[action]!(socket)
  }
  cut(socket)
}

/** Connects to a public listener without TLS, and ignores errors. */
function connectPlain(t: TestContext, port: number): Socket {
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  return socket.on('error', () => undefined).resume()
}

async function closed(socket: Socket): Promise<void> {
  await until('the connection is closed', () => socket.closed)
}

for (const mux of [false, true])
  describe(`a sidecar ${mux ? 'with' : 'without'} sessions keeps working`, () => {
    it('during 600 stalled handshakes, and serves other clients', async (t) => {
      const { publicPort, works, settled } = await start(t, { mux })
      const stalled = Array.from({ length: 600 }, () => connectPlain(t, publicPort))
      await Promise.all(stalled.map((socket) => once(socket, 'connect')))
      await works()
      // At most 512 handshakes may be pending.
      const count = (): number => stalled.filter(({ closed }) => closed).length
      await until('the oldest are closed', () => count() >= 600 - 512)
      for (const socket of stalled) socket.destroy()
      await settled()
    })

    it('after bytes that are not TLS, of every size', async (t) => {
      const { publicPort, works, settled, inbound } = await start(t, { mux })
      const inputs = [
        Buffer.from('GET / HTTP/1.1\r\n\r\n'),
        Buffer.alloc(1),
        randomBytes(16_384),
        randomBytes(1 << 20),
        // A TLS record with a length above the maximum.
        Buffer.from([0x16, 0x03, 0x01, 0xff, 0xff, ...randomBytes(64)]),
        // The start of a ClientHello, followed by random bytes.
        Buffer.concat([Buffer.from([0x16, 0x03, 0x01, 0x00, 0x20, 0x01, 0x00, 0x00, 0x1c]), randomBytes(64)]),
      ]
      for (const bytes of inputs) {
        const socket = connectPlain(t, publicPort)
        socket.end(bytes)
        await closed(socket)
      }
      assert.ok((await inbound.metric('rejections_total')) >= 4)
      await works()
      await settled()
    })

    it('after resets during handshakes, before answers, and during answers', async (t) => {
      const { publicPort, port, works, settled } = await start(t, { mux })
      for (let i = 0; i < 50; i += 1) {
        const early = connectPlain(t, publicPort)
        await once(early, 'connect')
        early.resetAndDestroy()
        const local = localConnect(t, port)
        local.on('error', () => undefined)
        await once(local, 'connect')
        local.write(randomBytes(65_536))
        if (i % 2 === 0) await once(local, 'data')
        local.resetAndDestroy()
      }
      await works()
      await settled()
    })

    it('over 500 short connections', async (t) => {
      const { port, works, settled, outbound } = await start(t, { mux })
      let remaining = 500
      const client = async (): Promise<void> => {
        while ((remaining -= 1) >= 0) {
          const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
          socket.end('hello')
          assert.equal(await readAll(socket), 'hello')
        }
      }
      await Promise.all(Array.from({ length: 8 }, client))
      assert.equal(await outbound.metric('connections_closed_total', { reason: 'ended' }), 501)
      await works()
      await settled()
    })

    it('over 2,000 connections with random actions at both ends', async (t) => {
      const actions = fc.array(fc.constantFrom(...Object.keys(ACTIONS)), { maxLength: 7 })
      const [clients, servers] = [1, 2].map((seed) => fc.sample(actions, { numRuns: 2000, seed }))
      const { port, settled, inbound } = await start(t, {
        mux,
        handler: (socket) => void perform(socket, servers!.pop() ?? []),
      })
      const client = async (): Promise<void> => {
        for (let sample = clients!.pop(); sample !== undefined; sample = clients!.pop()) {
          const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
          await once(socket, 'connect')
          await perform(socket, sample)
        }
      }
      await Promise.all(Array.from({ length: 24 }, client))
      await settled()
      // Some clients reset the connection before it reached the application.
      const opened = await inbound.metric('connections_opened_total')
      assert.ok(opened > 1000 && opened <= 2000, `${opened} were opened`)
    })

    it('with 250 slow readers, in bounded memory', async (t) => {
      const { port, inbound, outbound, settled } = await start(t, {
        mux,
        handler: (socket) => {
          const write = (): void => {
            while (!socket.destroyed && socket.write(MIB));
          }
          socket.on('drain', write).resume()
          write()
        },
      })
      const slow: Socket[] = []
      /** Opens connections, and returns the resident memory of both proxies when all buffers are full. */
      const open = async (count: number): Promise<number> => {
        // In batches: on a busy machine, 200 handshakes at once take longer than the timeout of a dial.
        for (let opened = 0; opened < count; opened += 10) {
          const batch = Array.from({ length: 10 }, () => localConnect(t, port))
          slow.push(...batch)
          await Promise.all(batch.map((socket) => once(socket, 'readable')))
        }
        let before = -1
        await until('no bytes move', async () => {
          const sent = await inbound.metric('bytes_total', { way: 'sent' })
          const isStalled = sent === before
          before = sent
          return isStalled
        })
        return residentBytes(inbound) + residentBytes(outbound)
      }
      // The first connections grow the heap once.
      const baseline = await open(50)
      const perConnection = ((await open(200)) - baseline) / 200
      assert.ok(perConnection < 1 << 20, `${Math.round(perConnection / 1024)} KiB per connection`)
      for (const socket of slow) socket.destroy()
      await settled()
    })

    it('at max_inbound_connections, and refuses only further connections', async (t) => {
      const inbound = ['-config-file', configFile(t, { max_inbound_connections: 2 })]
      const { port, settled, ...proxies } = await start(t, { mux, inbound })
      const open = [localConnect(t, port), localConnect(t, port)]
      for (const socket of open) await expectEcho(socket)
      await closed(localConnect(t, port).on('error', () => undefined))
      assert.equal(await proxies.inbound.metric('rejections_total', { code: 'ERR_CONNECT_LIMIT' }), 1)
      for (const socket of open) await expectEcho(socket)
      open[0]!.destroy()
      await until(
        'one connection is left',
        async () => (await proxies.inbound.metric('connections_open')) === 1,
      )
      open.push(localConnect(t, port))
      await expectEcho(open[2]!)
      for (const socket of open) socket.destroy()
      await settled()
    })

    for (const side of ['public listener', 'upstream'] as const) {
      it(`with idle clients: the ${side} ends them after idle_timeout_ms, and keeps active connections`, async (t) => {
        const limit = { idle_timeout_ms: 400 }
        const inbound = side === 'public listener' ? ['-config-file', configFile(t, limit)] : []
        const pair = await start(t, { mux, inbound })
        let [port, proxy] = [pair.port, pair.inbound]
        if (side === 'upstream') {
          port = await freePort()
          const upstreams = [{ destination_name: 'api', local_bind_port: port, ...limit }]
          const config = configFile(t, { service: 'web', upstreams })
          proxy = await startProxy(t, pair.agent, ['-config-file', config, `-mux=${mux}`], {
            ready: ['upstream is open'],
          })
        }
        const idle = Array.from({ length: 20 }, () => localConnect(t, port).on('error', () => undefined))
        const active = localConnect(t, port)
        for (const socket of [...idle, active]) await expectEcho(socket)
        const deadline = AbortSignal.timeout(WAIT_MS)
        while (idle.some(({ readableEnded, closed }) => !readableEnded && !closed)) {
          deadline.throwIfAborted()
          await expectEcho(active)
        }
        assert.equal(await proxy.metric('connections_closed_total', { reason: 'idle' }), 20)
        await expectEcho(active)
        for (const socket of [...idle, active]) socket.destroy()
        await pair.settled()
      })
    }
  })

describe('a sidecar without sessions keeps working', () => {
  it('after it runs out of descriptors', async (t) => {
    const { port, outbound, works, settled } = await start(t, { mux: false })
    const flood = async (
      spare: number,
      exhausted: (locals: readonly Socket[], earlierLines: number) => Promise<unknown>,
    ): Promise<void> => {
      await settled()
      limitDescriptors(outbound, spare)
      const earlierLines = outbound.lines.length
      const locals = Array.from({ length: 60 }, () =>
        localConnect(t, port)
          .on('error', () => undefined)
          .resume(),
      )
      await exhausted(locals, earlierLines)
      for (const local of locals) local.destroy()
      limitDescriptors(outbound, 1_000)
      await works()
    }
    // libuv closes connections that it cannot accept for lack of a descriptor, without an error.
    await flood(20, (locals) =>
      until('some connections are refused', () => locals.some(({ readableEnded }) => readableEnded)),
    )
    // One connection is accepted, and there is no descriptor for its dial.
    // The warning is limited to one per second, so that only the log line of the connection may name the cause.
    await flood(1, (_locals, earlierLines) =>
      outbound.logged((line) => JSON.stringify(line).includes('EMFILE'), earlierLines),
    )
    assert.equal(outbound.hasEnded, false)
    await settled()
  })
})

function residentBytes({ pid }: RunningProxy): number {
  const pages = Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1])
  return pages * 4_096
}

/** Allows a running process `spare` more descriptors, by prlimit(1). The limit applies to their numbers, which have gaps. */
function limitDescriptors({ pid }: RunningProxy, spare: number): void {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number))
  let limit = 0
  for (let free = 0; free < spare; limit += 1) if (!open.has(limit)) free += 1
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${limit}:20000`])
}

/** Endless bytes, the same on every connection. */
const PATTERN = Buffer.from(Uint32Array.from({ length: 1 << 14 }, (_, i) => i).buffer)

/** Whether bytes that were read in pieces are the beginning of the pattern; how many; and how the connection ended. */
interface Received {
  bytes: number
  isRight: boolean
  end?: 'in order' | 'by an error'
}

function receive(socket: Socket): Received {
  const received: Received = { bytes: 0, isRight: true }
  // Older versions of libuv report a reset that follows bytes as an end.
  confirmEnd(socket)
  socket.on('data', (chunk: Buffer) => {
    for (let at = 0; at < chunk.length;) {
      const from = (received.bytes + at) % PATTERN.length
      const length = Math.min(chunk.length - at, PATTERN.length - from)
      received.isRight &&= chunk.subarray(at, at + length).equals(PATTERN.subarray(from, from + length))
      at += length
    }
    received.bytes += chunk.length
  })
  socket.on('end', () => (received.end ??= 'in order')).on('error', () => (received.end ??= 'by an error'))
  return received
}

/** Sends the pattern once, or without an end. */
function send(socket: Socket, isEndless: boolean): void {
  const write = (): void => {
    while (socket.write(PATTERN) && isEndless && !socket.destroyed);
  }
  if (isEndless) socket.on('drain', write)
  write()
}

describe('a sidecar with a thousand connections in sessions that is killed', () => {
  for (const victim of ['inbound', 'outbound'] as const)
    it(`cuts each of them with an error, after the bytes that it has passed on (${victim})`, async (t) => {
      const inApplication: Received[] = []
      let count = 0
      const { port, ...proxies } = await start(t, {
        mux: true,
        handler: (socket) => {
          inApplication.push(receive(socket))
          send(socket, (count += 1) % 50 === 0)
        },
      })
      const clients: Received[] = []
      for (let i = 0; i < 20; i += 1) {
        const batch = Array.from({ length: 50 }, () => localConnect(t, port))
        clients.push(...batch.map(receive))
        for (const socket of batch) send(socket, false)
        await Promise.all(batch.map((socket) => once(socket, 'readable')))
      }
      const both = (): Received[] => [...clients, ...inApplication]
      await until('all bytes have passed', () => both().every(({ bytes }) => bytes >= PATTERN.length))
      await proxies[victim].stop('SIGKILL')
      await until('all are cut', () => both().every(({ end }) => end !== undefined))
      assert.deepEqual([clients.length, inApplication.length], [1_000, 1_000])
      assert.ok(both().every(({ isRight }) => isRight))
      // The kernel ends the connections of the killed process.
      const ofOther = victim === 'inbound' ? clients : inApplication
      for (const { end } of ofOther) assert.equal(end, 'by an error')
    })
})

describe('a sidecar on SIGTERM', () => {
  for (const mux of [false, true])
    it(`completes large transfers ${mux ? 'in sessions' : 'without sessions'}`, async (t) => {
      const { port, inbound, outbound } = await start(t, { mux })
      const bytes = randomBytes(64 << 20)
      const transfers = Array.from({ length: 3 }, async () => {
        const socket = localConnect(t, port)
        const hash = createHash('sha256')
        socket.on('data', (chunk: Buffer) => hash.update(chunk))
        const begun = once(socket, 'data')
        socket.end(bytes)
        await begun
        return { hash, ended: once(socket, 'end', { signal: AbortSignal.timeout(2 * WAIT_MS) }) }
      })
      const pending = await Promise.all(transfers)
      for (const proxy of [inbound, outbound]) proxy.signal('SIGTERM')
      await Promise.all(pending.map(({ ended }) => ended))
      const expected = createHash('sha256').update(bytes).digest('hex')
      for (const { hash } of pending) assert.equal(hash.digest('hex'), expected)
      assert.deepEqual(await Promise.all([inbound.ended(), outbound.ended()]), [0, 0])
    })
})
