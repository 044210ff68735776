// Every way of carrying bytes through the mesh, with every way in which a connection can end.
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { confirmEnd } from '../../src/base/node-internals.js'
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
import { type TestMesh, startMesh, until } from '../fixtures/mesh.js'
import { type RunningProxy, startProxy } from '../proxy/connect-proxy.js'

const PRODUCT = fileURLToPath(new URL('../fixtures/ending-product.ts', import.meta.url))
const TRIES = Number(process.env['ENDING_TRIES'] ?? 25)
const AT_ONCE = 8
/** Connections that are open at the same time with a silent peer. */
const SILENT = 50

type Run = (wanted: Try) => Promise<Received>

interface Scene {
  /** Returns what the receiver of a try got. */
  readonly run: Run
  /** How many requests have arrived at their server. */
  readonly arrived: () => number
  /** Ends the product in the middle of what it does. */
  readonly cut: () => Promise<unknown>
}

interface Way {
  readonly name: string
  readonly downloads: readonly Ending[]
  readonly uploads: readonly Ending[]
  /** Whether its clients can end their side of a connection and still read. */
  readonly canHalfClose: boolean
  readonly start: (t: TestContext, mesh: TestMesh) => Promise<Scene>
}

/** Ways that a client begins: it receives from a server that can end in every way. */
const CLIENTS = {
  downloads: ['orderly', 'early', 'truncated', 'reset'],
  uploads: ['orderly', 'reset'],
} as const
/** Ways that a server ends: it receives from a client that can end in every way. */
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
      const application = createServer({ allowHalfOpen: true }, (socket) => {
        socket.on('error', () => undefined)
        confirmEnd(socket)
        void respond({ tcp: socket, top: socket }, reports)
      }).listen(0, '127.0.0.1')
      t.after(() => application.close())
      await once(application, 'listening')
      const port = await freePort()
      const flags = [
        '-service',
        'api',
        '-service-addr',
        `127.0.0.1:${(application.address() as AddressInfo).port}`,
      ]
      const proxy = await startProxy(t, mesh.agent.address, [...flags, '-listen', `127.0.0.1:${port}`])
      return reports.scene(await tlsClient(mesh, port), () => stopTwice(proxy))
    },
  },
]

for (const way of WAYS) {
  describe(`the end of a connection through ${way.name}`, () => {
    it('carries every byte before an orderly end, and reports any other end as an error', async (t) => {
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

    it('is an error when the other end is silent and this one is closed', async (t) => {
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
  let left = TRIES
  const work = async (): Promise<void> => {
    while (left > 0) {
      left -= 1
      const outcome = outcomeOf(await run({ ...wanted, id: (lastId += 1) }), wanted.ending)
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work))
  assert.deepEqual(Object.fromEntries(outcomes), { [EXPECTED[wanted.ending]]: TRIES }, JSON.stringify(wanted))
}

const EXPECTED: Readonly<Record<Ending, string>> = {
  orderly: 'whole',
  early: 'whole',
  truncated: 'a prefix and a reset',
  reset: 'a prefix and a reset',
  silent: 'a prefix and an error',
}

/** undici's code besides that of the system. */
const RESETS = ['ECONNRESET', 'UND_ERR_SOCKET']

function outcomeOf({ bytes, isPrefix, error }: Received, ending: Ending): string {
  if (!isPrefix) return 'other bytes'
  const whole = ending === 'orderly' ? PATTERN.length : EARLY_ANSWER.length
  if (error === undefined) return bytes === whole ? 'whole' : `${bytes} bytes and a clean end`
  if (bytes > HALF.length) return `${bytes} bytes and ${error}`
  if (ending === 'silent') return EXPECTED.silent
  return `a prefix and ${RESETS.includes(error) ? 'a reset' : error}`
}

/** What the receiving ends of uploads have reported. */
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
        // The client of an upload may fail as well, when it is cut.
        await client(wanted)
        return received
      },
    }
  }
}

/** The service that the clients under test connect to: TLS of our own, which can end in every way. */
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

/** A client of the product in a process of its own. */
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

/** A server of the product in a process of its own. */
function startServer(way: 'listen' | 'serve'): Way['start'] {
  return async (t, mesh) => {
    const api = await Product.start(t, mesh, 'api')
    return api.reports.scene(await tlsClient(mesh, await api.open(way)), () => api.cut())
  }
}

/** A client that knows nothing of the mesh, at a local port. */
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

/** A service of the product in a process of its own. */
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

  static async start(t: TestContext, { agent }: TestMesh, name: string): Promise<Product> {
    const child = fork(PRODUCT, [name, agent.address], { execArgv: ['--import', 'tsx'] })
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
