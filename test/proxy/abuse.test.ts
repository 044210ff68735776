// What clients, peers and machines do to a proxy. After each, no connection is open and no descriptor is left over.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { cut } from '../../src/sockets/pump.js'
import { freePort } from '../fixtures/free-ports.js'
import { WAIT_MS, readAll, startMesh, until } from '../fixtures/mesh.js'
import {
  type Pair,
  type RunningProxy,
  configFile,
  echo,
  localConnect,
  nextData,
  settled,
  startApplication,
  startPair,
  startProxy,
} from './connect-proxy.js'

interface Started extends Pair {
  readonly agent: string
  /** Whether a new connection goes through, and an echo comes back. */
  readonly works: () => Promise<void>
  /** Waits until both are as they were at the start. */
  readonly settled: () => Promise<void>
}

interface Options {
  readonly handler?: (socket: Socket) => void
  readonly inbound?: readonly string[]
  readonly outbound?: readonly string[]
}

async function start(t: TestContext, { handler = echo, ...flags }: Options = {}): Promise<Started> {
  const { agent } = await startMesh(t)
  const application = await startApplication(t, handler)
  const pair = await startPair(t, agent.address, application.port, flags)
  const works = async (): Promise<void> => {
    const socket = localConnect(t, pair.port)
    socket.write('still there?')
    assert.equal(await nextData(socket), 'still there?')
    socket.end()
    await readAll(socket)
  }
  if (handler === echo) await works()
  const proxies = [pair.inbound, pair.outbound]
  const before = await Promise.all(proxies.map(atRest))
  return {
    ...pair,
    agent: agent.address,
    works,
    settled: async () => {
      await Promise.all(proxies.map((proxy, i) => settled(proxy, before[i]!)))
    },
  }
}

/** Says something, and waits for the echo. */
async function talk(socket: Socket): Promise<void> {
  socket.write('x')
  assert.equal(await nextData(socket), 'x')
}

/** How many descriptors it has when it has no connection. */
async function atRest(proxy: RunningProxy): Promise<number> {
  await until('it is at rest', async () => (await proxy.metric('connections_open')) === 0)
  return proxy.descriptors()
}

const MIB = randomBytes(1 << 20)

/** What either end of a connection may do, in any order and more than once. */
const DEEDS: Readonly<Record<string, (socket: Socket) => unknown>> = {
  say: (socket) => socket.writable && socket.write(MIB.subarray(0, 1000)),
  'say much': (socket) => socket.writable && socket.write(MIB),
  end: (socket) => socket.end(),
  'end with much': (socket) => socket.writable && socket.end(MIB),
  reset: cut,
  close: (socket) => socket.destroy(),
  'stop reading': (socket) => socket.pause(),
  read: (socket) => socket.resume(),
  'wait a turn': () => turn(),
  'wait 1 ms': () => delay(1),
  'wait 50 ms': () => delay(50),
}

/** Does all of it, and goes. */
async function misbehave(socket: Socket, deeds: readonly string[]): Promise<void> {
  socket.on('error', () => undefined)
  for (const deed of deeds) {
    if (socket.destroyed) return
    await DEEDS[deed]!(socket)
  }
  cut(socket)
}

/** Connects without TLS to a public listener, and takes whatever comes of it. */
function intrude(t: TestContext, port: number): Socket {
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  return socket.on('error', () => undefined).resume()
}

async function closed(socket: Socket): Promise<void> {
  await until('it is closed', () => socket.closed)
}

describe('a sidecar outlives', () => {
  it('a flood of handshakes that never end, with a real client getting through', async (t) => {
    const { publicPort, works, settled } = await start(t)
    const stalled = Array.from({ length: 600 }, () => intrude(t, publicPort))
    await Promise.all(stalled.map((socket) => once(socket, 'connect')))
    await works()
    const gone = stalled.filter(({ closed }) => closed).length
    // 512 may be under way.
    assert.ok(gone >= 600 - 512, `${gone} were ended`)
    for (const socket of stalled) socket.destroy()
    await settled()
  })

  it('garbage, in every size', async (t) => {
    const { publicPort, works, settled, inbound } = await start(t)
    const pieces = [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.alloc(1),
      randomBytes(16_384),
      randomBytes(1 << 20),
      // A TLS record that announces more than it may.
      Buffer.from([0x16, 0x03, 0x01, 0xff, 0xff, ...randomBytes(64)]),
      // The start of a ClientHello, and then nothing that fits.
      Buffer.concat([Buffer.from([0x16, 0x03, 0x01, 0x00, 0x20, 0x01, 0x00, 0x00, 0x1c]), randomBytes(64)]),
    ]
    for (const piece of pieces) {
      const socket = intrude(t, publicPort)
      socket.end(piece)
      await closed(socket)
    }
    assert.ok((await inbound.metric('rejections_total')) >= 4)
    await works()
    await settled()
  })

  it('resets: in the handshake, before an answer, in the middle of one', async (t) => {
    const { publicPort, port, works, settled } = await start(t)
    for (let i = 0; i < 50; i += 1) {
      const early = intrude(t, publicPort)
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

  it('an application that resets', async (t) => {
    const { port, settled } = await start(t, {
      handler: (socket) => socket.once('data', () => socket.resetAndDestroy()),
    })
    for (let i = 0; i < 20; i += 1) {
      const local = localConnect(t, port)
      local.on('error', () => undefined)
      local.end('x')
      local.resume()
      await closed(local)
    }
    await settled()
  })

  it('churn: five hundred short connections', async (t) => {
    const { port, works, settled, outbound } = await start(t)
    let left = 500
    const client = async (): Promise<void> => {
      while ((left -= 1) >= 0) {
        const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
        socket.end('churn')
        assert.equal(await readAll(socket), 'churn')
      }
    }
    await Promise.all(Array.from({ length: 8 }, client))
    assert.equal(await outbound.metric('connections_closed_total', { reason: 'ended' }), 501)
    await works()
    await settled()
  })

  it('two thousand connections whose ends do whatever comes to their minds', async (t) => {
    const deeds = fc.array(fc.constantFrom(...Object.keys(DEEDS)), { maxLength: 7 })
    const [clients, servers] = [1, 2].map((seed) => fc.sample(deeds, { numRuns: 2000, seed }))
    const { port, settled, inbound } = await start(t, {
      handler: (socket) => void misbehave(socket, servers!.pop() ?? []),
    })
    const client = async (): Promise<void> => {
      for (let mine = clients!.pop(); mine !== undefined; mine = clients!.pop()) {
        const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
        await once(socket, 'connect')
        await misbehave(socket, mine)
      }
    }
    await Promise.all(Array.from({ length: 24 }, client))
    await settled()
    // The others were gone before they got so far.
    const opened = await inbound.metric('connections_opened_total')
    assert.ok(opened > 1000 && opened <= 2000, `${opened} were opened`)
  })

  it('slow readers, with bounded memory', async (t) => {
    const endless = Buffer.alloc(1 << 20)
    const { port, inbound, outbound, settled } = await start(t, {
      handler: (socket) => {
        const more = (): void => {
          while (!socket.destroyed && socket.write(endless));
        }
        socket.on('drain', more).resume()
        more()
      },
    })
    const slow: Socket[] = []
    /** Opens so many more; returns what both proxies hold when nothing moves any more. */
    const open = async (count: number): Promise<number> => {
      const more = Array.from({ length: count }, () => localConnect(t, port))
      slow.push(...more)
      await Promise.all(more.map((socket) => once(socket, 'readable')))
      let moved = -1
      await until('nothing moves', async () => {
        const now = await inbound.metric('bytes_total', { way: 'sent' })
        const stands = now === moved
        moved = now
        return stands
      })
      return residentBytes(inbound) + residentBytes(outbound)
    }
    // The first burst makes the heap what it is from then on.
    const before = await open(50)
    const each = ((await open(200)) - before) / 200
    assert.ok(each < 1 << 20, `${Math.round(each / 1024)} KiB for each`)
    for (const socket of slow) socket.destroy()
    await settled()
  })

  it('more connections than it may have: they are refused, and nobody else is', async (t) => {
    const inbound = ['-config-file', configFile(t, { max_inbound_connections: 2 })]
    const { port, settled, ...proxies } = await start(t, { inbound })
    const open = [localConnect(t, port), localConnect(t, port)]
    for (const socket of open) await talk(socket)
    await closed(localConnect(t, port).on('error', () => undefined))
    assert.equal(await proxies.inbound.metric('rejections_total', { code: 'ERR_CONNECT_LIMIT' }), 1)
    for (const socket of open) await talk(socket)
    open[0]!.destroy()
    await until('it is gone', async () => (await proxies.inbound.metric('connections_open')) === 1)
    open.push(localConnect(t, port))
    await talk(open[2]!)
    for (const socket of open) socket.destroy()
    await settled()
  })

  for (const side of ['public listener', 'upstream'] as const) {
    it(`clients that are there and say nothing: the ${side} ends them, and none that speaks`, async (t) => {
      const limit = { idle_timeout_ms: 400 }
      const inbound = side === 'public listener' ? ['-config-file', configFile(t, limit)] : []
      const pair = await start(t, { inbound })
      let [port, proxy] = [pair.port, pair.inbound]
      if (side === 'upstream') {
        port = await freePort()
        const upstreams = [{ destination_name: 'api', local_bind_port: port, ...limit }]
        const config = configFile(t, { service: 'web', upstreams })
        proxy = await startProxy(t, pair.agent, ['-config-file', config], { ready: ['upstream is open'] })
      }
      const quiet = Array.from({ length: 20 }, () => localConnect(t, port).on('error', () => undefined))
      const speaking = localConnect(t, port)
      for (const socket of [...quiet, speaking]) await talk(socket)
      const deadline = AbortSignal.timeout(WAIT_MS)
      while (quiet.some(({ readableEnded, closed }) => !readableEnded && !closed)) {
        deadline.throwIfAborted()
        await talk(speaking)
      }
      assert.equal(await proxy.metric('connections_closed_total', { reason: 'idle' }), 20)
      await talk(speaking)
      for (const socket of [...quiet, speaking]) socket.destroy()
      await pair.settled()
    })
  }

  it('descriptors that run out, and serves again when there are some', async (t) => {
    const { port, outbound, works, settled } = await start(t)
    const flood = async (
      spare: number,
      ran: (locals: readonly Socket[]) => Promise<unknown>,
    ): Promise<void> => {
      await settled()
      limitDescriptors(outbound, spare)
      const locals = Array.from({ length: 60 }, () =>
        localConnect(t, port)
          .on('error', () => undefined)
          .resume(),
      )
      await ran(locals)
      for (const local of locals) local.destroy()
      limitDescriptors(outbound, 1_000)
      await works()
    }
    // What is not accepted for want of one is closed by libuv, which says nothing.
    await flood(20, (locals) =>
      until('some are refused', () => locals.some(({ readableEnded }) => readableEnded)),
    )
    // One connection is accepted, and its dial is one too many.
    await flood(1, () => outbound.logged(({ msg }) => msg.includes('EMFILE')))
    assert.equal(outbound.hasEnded, false)
    await settled()
  })
})

function residentBytes({ pid }: RunningProxy): number {
  const pages = Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1])
  return pages * 4_096
}

/** Lets a process that runs open so many more, by prlimit(1). The limit is of their numbers, and there are gaps. */
function limitDescriptors({ pid }: RunningProxy, spare: number): void {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number))
  let limit = 0
  for (let free = 0; free < spare; limit += 1) if (!open.has(limit)) free += 1
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${limit}:20000`])
}

describe('a sidecar', () => {
  it('carries big transfers to their end when it is told to end', async (t) => {
    const { port, inbound, outbound } = await start(t)
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
    const under = await Promise.all(transfers)
    for (const proxy of [inbound, outbound]) proxy.signal('SIGTERM')
    await Promise.all(under.map(({ ended }) => ended))
    const expected = createHash('sha256').update(bytes).digest('hex')
    for (const { hash } of under) assert.equal(hash.digest('hex'), expected)
    assert.deepEqual(await Promise.all([inbound.ended(), outbound.ended()]), [0, 0])
  })
})
