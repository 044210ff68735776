// Every adapter with every way in which a connection can end.
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { confirmEnd } from '../../src/base/node-internals.js'
import { MuxStream } from '../../src/transport/mux/stream.js'
import {
  EARLY_ANSWER,
  type Ending,
  HALF,
  type Layers,
  PATTERN,
  type Received,
  type Try,
  connectTlsPeer,
  request,
  respond,
  startTlsPeer,
} from '../fixtures/ending-peer.js'
import type { Answer, Order, Task } from '../fixtures/ending-product.js'
import { freePort } from '../fixtures/free-ports.js'
import { type TestMesh, portOf, startMesh, until } from '../fixtures/mesh.js'
import { type RunningProxy, startProxy } from '../proxy/connect-proxy.js'

const PRODUCT = fileURLToPath(new URL('../fixtures/ending-product.ts', import.meta.url))
const TRIES = Number(process.env['ENDING_TRIES'] ?? 25)
const CONCURRENCY = 8
/** Parallel connections to a silent peer. */
const SILENT = 50

type Run = (wanted: Try) => Promise<Received>

interface Scene {
  /** Runs a try and returns what its receiver got. */
  readonly run: Run
  /** How many requests have arrived at the server. */
  readonly arrived: () => number
  /** Ends the process under test while connections are open. */
  readonly cut: () => Promise<unknown>
}

interface Way {
  readonly name: string
  readonly downloads: readonly Ending[]
  readonly uploads: readonly Ending[]
  /** Whether clients can end their side of a connection and still read. */
  readonly canHalfClose: boolean
  readonly start: (t: TestContext, mesh: TestMesh) => Promise<Scene>
}

/** The process under test is the client: the server can end in every way. */
const CLIENTS = {
  downloads: ['orderly', 'early', 'truncated', 'reset'],
  uploads: ['orderly', 'reset'],
} as const
/** The process under test is the server: the client can end in every way. */
const SERVERS = {
  downloads: ['orderly', 'early', 'reset'],
  uploads: ['orderly', 'truncated', 'reset'],
} as const

const WAYS: readonly Way[] = [
  { name: 'dial', ...CLIENTS, canHalfClose: true, start: startClient('dial') },
  { name: 'fetch', ...CLIENTS, uploads: [], canHalfClose: false, start: startClient('fetch') },
  { name: 'agent', ...CLIENTS, uploads: [], canHalfClose: false, start: startClient('agent') },
  {
    name: 'forward',
    ...CLIENTS,
    canHalfClose: true,
    async start(t, mesh) {
      const reports = await startUpstream(t, mesh)
      const web = await Product.start(t, mesh, 'web')
      return reports.scene(localClient(await web.open('forward')), () => web.cut())
    },
  },
  {
    name: 'the sidecar, outbound',
    ...CLIENTS,
    canHalfClose: true,
    async start(t, mesh) {
      const reports = await startUpstream(t, mesh)
      const port = await freePort()
      const flags = ['-service', 'web', '-upstream', `api:127.0.0.1:${port}`]
      const proxy = await startProxy(t, mesh.agent.address, flags)
      return reports.scene(localClient(port), () => stopTwice(proxy))
    },
  },
  { name: 'listen', ...SERVERS, canHalfClose: true, start: startServer('listen') },
  { name: 'serve', ...SERVERS, canHalfClose: true, start: startServer('serve') },
  {
    name: 'the sidecar, inbound',
    ...SERVERS,
    canHalfClose: true,
    async start(t, mesh) {
      const reports = new Reports()
      const flags = await inboundFlags(t, reports)
      const proxy = await startProxy(t, mesh.agent.address, flags)
      const port = Number(flags.at(-1)?.split(':')[1])
      return reports.scene(await tlsClient(mesh, port), () => stopTwice(proxy))
    },
  },
]

/** Connections that share a session end by frames: there is nothing below that a peer could truncate. */
const SESSIONS = {
  downloads: ['orderly', 'early', 'reset'],
  uploads: ['orderly', 'reset'],
  canHalfClose: true,
} as const

const MUX_WAYS: readonly Way[] = [
  {
    name: 'dial in a session',
    ...SESSIONS,
    async start(t, mesh) {
      const reports = await startMuxUpstream(mesh)
      const web = await Product.start(t, mesh, 'web', 'mux')
      return reports.scene(
        (wanted) => web.run({ via: 'dial', wanted }),
        () => web.cut(),
      )
    },
  },
  {
    name: 'forward in a session',
    ...SESSIONS,
    async start(t, mesh) {
      const reports = await startMuxUpstream(mesh)
      const web = await Product.start(t, mesh, 'web', 'mux')
      return reports.scene(localClient(await web.open('forward')), () => web.cut())
    },
  },
  {
    name: 'listen in a session',
    ...SESSIONS,
    async start(t, mesh) {
      const api = await Product.start(t, mesh, 'api', 'mux')
      await api.open('listen')
      const web = mesh.join('web', { mux: true })
      const client: Run = async (wanted) => {
        const top = await web.dial('api', { allowHalfOpen: true })
        assert.ok(top instanceof MuxStream)
        top.on('error', () => undefined)
        return request({ top }, wanted)
      }
      return api.reports.scene(client, () => api.cut())
    },
  },
  {
    name: 'two sidecars in a session',
    ...SESSIONS,
    async start(t, mesh) {
      const reports = new Reports()
      const flags = await inboundFlags(t, reports)
      const inbound = await startProxy(t, mesh.agent.address, [...flags, '-mux', '-register'])
      const port = await freePort()
      const upstream = ['-service', 'web', '-upstream', `api:127.0.0.1:${port}`]
      const outbound = await startProxy(t, mesh.agent.address, [
        ...upstream,
        '-mux',
        '-admin-addr',
        String(await freePort()),
      ])
      return reports.scene(localClient(port), async () => {
        assert.equal(await outbound.metric('sessions_open', { side: 'outbound' }), 1)
        await stopTwice(inbound)
      })
    },
  },
]

for (const way of [...WAYS, ...MUX_WAYS]) {
  describe(`the end of a connection through ${way.name}`, () => {
    it('delivers every byte before an orderly end, and reports any other end as an error', async (t) => {
      const { run } = await way.start(t, await startMesh(t))
      for (const ending of way.downloads) {
        await tryMany(run, { ending, direction: 'download', isHalfClosed: false })
        if (!way.canHalfClose || ending === 'early') continue
        await tryMany(run, { ending, direction: 'download', isHalfClosed: true })
      }
      for (const ending of way.uploads) {
        await tryMany(run, { ending, direction: 'upload', isHalfClosed: false })
      }
    })

    it('is an error when the process closes while its peer is silent', async (t) => {
      const { run, arrived, cut } = await way.start(t, await startMesh(t))
      const direction = way.uploads.includes('truncated') ? 'upload' : 'download'
      const tries = Array.from({ length: SILENT }, () =>
        run({ id: (lastId += 1), ending: 'silent', direction, isHalfClosed: false }),
      )
      await until('all requests have arrived', () => arrived() === SILENT)
      await cut()
      const outcomes = (await Promise.all(tries)).map((received) => outcomeOf(received, 'silent'))
      assert.deepEqual(
        outcomes,
        outcomes.map(() => EXPECTED.silent),
      )
    })
  })
}

let lastId = 0

async function tryMany(run: Run, wanted: Omit<Try, 'id'>): Promise<void> {
  const outcomes = new Map<string, number>()
  let remaining = TRIES
  const work = async (): Promise<void> => {
    while (remaining > 0) {
      remaining -= 1
      const outcome = outcomeOf(await run({ ...wanted, id: (lastId += 1) }), wanted.ending)
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, work))
  assert.deepEqual(Object.fromEntries(outcomes), { [EXPECTED[wanted.ending]]: TRIES }, JSON.stringify(wanted))
}

const EXPECTED: Readonly<Record<Ending, string>> = {
  orderly: 'whole',
  early: 'whole',
  truncated: 'a prefix and a reset',
  reset: 'a prefix and a reset',
  silent: 'a prefix and an error',
}

/** The codes of the system and of undici. */
const RESETS = ['ECONNRESET', 'UND_ERR_SOCKET']

function outcomeOf({ bytes, isPrefix, error }: Received, ending: Ending): string {
  if (!isPrefix) return 'other bytes'
  const whole = ending === 'orderly' ? PATTERN.length : EARLY_ANSWER.length
  if (error === undefined) return bytes === whole ? 'whole' : `${bytes} bytes and a clean end`
  if (bytes > HALF.length) return `${bytes} bytes and ${error}`
  if (ending === 'silent') return EXPECTED.silent
  return `a prefix and ${RESETS.includes(error) ? 'a reset' : error}`
}

/** Collects the reports of the receivers of uploads. */
class Reports {
  /** How many requests have arrived. */
  arrived = 0
  readonly begun = (): void => {
    this.arrived += 1
  }
  readonly #waiting = new Map<number, (received: Received) => void>()
  readonly report = (id: number, received: Received): void => {
    this.#waiting.get(id)?.(received)
    this.#waiting.delete(id)
  }

  async of(id: number): Promise<Received> {
    return new Promise((resolve) => this.#waiting.set(id, resolve))
  }

  /** @param client - runs a try, and returns what it received itself */
  scene(client: Run, cut: Scene['cut']): Scene {
    return {
      cut,
      arrived: () => this.arrived,
      run: async (wanted) => {
        if (wanted.direction === 'download') return client(wanted)
        const received = this.of(wanted.id)
        // The client of an upload can fail as well, when the process ends.
        await client(wanted)
        return received
      },
    }
  }
}

/** Starts the service `api` with a TLS server that can end in every way. */
async function startUpstream(t: TestContext, { join }: TestMesh): Promise<Reports> {
  const reports = new Reports()
  const api = join('api')
  await api.ready()
  const peer = await startTlsPeer(api, (layers) => {
    void respond(layers, reports).catch(() => undefined)
  })
  t.after(peer.close)
  await api.register({ port: peer.port, address: '127.0.0.1' })
  return reports
}

/** Starts the service `api`, whose connections share sessions. */
async function startMuxUpstream({ join }: TestMesh): Promise<Reports> {
  const reports = new Reports()
  const api = join('api', { mux: true })
  const listener = await api.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, (top) => {
    assert.ok(top instanceof MuxStream)
    top.on('error', () => undefined)
    void respond({ top }, reports).catch(() => undefined)
  })
  await api.register({ port: portOf(listener), address: '127.0.0.1' })
  return reports
}

/** Starts an application of the service `api`. @returns the flags of a sidecar in front of it, and its address last */
async function inboundFlags(t: TestContext, reports: Reports): Promise<string[]> {
  const application = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined)
    confirmEnd(socket)
    void respond({ tcp: socket, top: socket }, reports).catch(() => undefined)
  }).listen(0, '127.0.0.1')
  t.after(() => application.close())
  await once(application, 'listening')
  const { port } = application.address() as AddressInfo
  const listen = `127.0.0.1:${await freePort()}`
  return ['-service', 'api', '-service-addr', `127.0.0.1:${port}`, '-listen', listen]
}

/** A client in a separate process. */
function startClient(via: 'dial' | 'fetch' | 'agent'): Way['start'] {
  return async (t, mesh) => {
    const reports = await startUpstream(t, mesh)
    const web = await Product.start(t, mesh, 'web')
    return reports.scene(
      (wanted) => web.run({ via, wanted }),
      () => web.cut(),
    )
  }
}

/** A server in a separate process. */
function startServer(way: 'listen' | 'serve'): Way['start'] {
  return async (t, mesh) => {
    const api = await Product.start(t, mesh, 'api')
    return api.reports.scene(await tlsClient(mesh, await api.open(way)), () => api.cut())
  }
}

/** A plain TCP client of a local port. */
function localClient(port: number): Run {
  return async (wanted) => request(await connectLocally(port), wanted)
}

async function connectLocally(port: number): Promise<Layers> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  confirmEnd(socket)
  await once(socket, 'connect')
  socket.on('error', () => undefined)
  return { tcp: socket, top: socket }
}

async function tlsClient({ join }: TestMesh, port: number): Promise<Run> {
  const web = join('web')
  await web.ready()
  return async (wanted) => {
    return request(await connectTlsPeer(web, port, 'api'), wanted)
  }
}

/** The second signal ends the drain. */
async function stopTwice(proxy: RunningProxy): Promise<void> {
  proxy.signal('SIGTERM')
  await proxy.logged('draining open connections')
  await proxy.stop('SIGTERM')
}

/** A service in a separate process. */
class Product {
  readonly reports = new Reports()
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (answer: Answer) => void>()
  #lastOrder = 1_000_000

  private constructor(child: ChildProcess) {
    this.#child = child
    child.on('message', (answer: Answer) => {
      if (answer.begun === true) {
        this.reports.begun()
        return
      }
      this.#waiting.get(answer.id)?.(answer)
      this.#waiting.delete(answer.id)
      if (answer.received !== undefined) this.reports.report(answer.id, answer.received)
    })
  }

  static async start(t: TestContext, { agent }: TestMesh, name: string, kind = ''): Promise<Product> {
    const child = fork(PRODUCT, [name, agent.address, kind], { execArgv: ['--import', 'tsx'] })
    t.after(() => child.kill('SIGKILL'))
    const product = new Product(child)
    await once(child, 'message')
    return product
  }

  async open(way: 'listen' | 'serve' | 'forward'): Promise<number> {
    return (await this.#order({ open: way })).port!
  }

  async run(order: { via: 'dial' | 'fetch' | 'agent'; wanted: Try }): Promise<Received> {
    return (await this.#order(order)).received!
  }

  async cut(): Promise<void> {
    await this.#order({ cut: true })
  }

  #order(task: Task): Promise<Answer> {
    const id = (this.#lastOrder += 1)
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve)
      this.#child.send({ id, task } satisfies Order)
    })
  }
}
