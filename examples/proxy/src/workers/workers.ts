import cluster, { type Worker } from 'node:cluster'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type AgentOptions, type Service, service } from 'consul-connect'
import { type AgentRelay, type ProxyConfig, relayAgent } from 'consul-connect/proxy'
import { AggregatorRegistry } from 'prom-client'
import type { Engine, OnListening } from '../daemon.js'
import type { Log, LogLevel } from '../operator/log.js'
import type { ConnectionOptions, ProxyStatus } from '../proxy.js'
import { elapsed } from '../time.js'
import type { FromWorker, ToWorker } from './worker-messages.js'

export interface WorkersOptions {
  readonly count: number
  readonly agent: AgentOptions
  readonly connections: ConnectionOptions
  readonly log: Log
  readonly level: LogLevel
  readonly json: boolean
  readonly onListening: OnListening
  /** Whether the proxy registers itself. The registration is made by a service in this process. */
  readonly registers: boolean
}

/** A worker and its replacements. */
interface Slot {
  readonly number: number
  worker: Worker | undefined
  status: ProxyStatus | undefined
  startedAt: number
  pauseMs: number
  retry: NodeJS.Timeout | undefined
}

const FIRST_PAUSE_MS = 100
const MAX_PAUSE_MS = 10_000
/** A worker that ran for longer did not fail at its start, so that its replacement starts without a long pause. */
const HEALTHY_MS = 10_000
/** Time for a worker to return its metrics. */
const METRICS_TIMEOUT_MS = 2_000
/** Time for a worker to exit after its drain timeout, before it is killed. */
const EXIT_GRACE_MS = 5_000

/** Variables that are cleared for workers, which need no credentials: this process relays their requests. */
const SECRET_VARIABLES = [
  'CONSUL_HTTP_TOKEN',
  'CONSUL_HTTP_TOKEN_FILE',
  'CONSUL_HTTP_AUTH',
  'CONNECT_PROXY_TOKEN',
]

/**
 * Runs a proxy in each of several worker processes, which share the listeners. This process accepts connections and
 * distributes them round-robin. It alone talks to the agent and holds the token: it relays requests of the workers, which
 * arrive on a private Unix socket.
 */
export class Workers implements Engine {
  readonly #options: WorkersOptions
  readonly #folder: string
  readonly #slots: Slot[]
  readonly #pendingMetrics = new Map<number, (metrics: object) => void>()
  #relay: AgentRelay | undefined
  #service: Service | undefined
  #config: ProxyConfig | undefined
  #level: LogLevel
  #lastRequestId = 0
  #isClosing = false

  constructor(options: WorkersOptions) {
    this.#options = options
    this.#level = options.level
    this.#folder = mkdtempSync(join(tmpdir(), 'connect-proxy-'))
    this.#slots = Array.from({ length: options.count }, (_, i) => ({
      number: i + 1,
      worker: undefined,
      status: undefined,
      startedAt: 0,
      pauseMs: FIRST_PAUSE_MS,
      retry: undefined,
    }))
    const exec = join(import.meta.dirname, '..', 'worker.js')
    // No arguments: they may hold a token.
    cluster.setupPrimary({ exec, args: [], serialization: 'advanced' })
    // Cluster binds the workers' Unix sockets in this process; they must be accessible to this user only.
    process.umask(0o077)
    cluster.on('message', (worker, message: FromWorker) => {
      this.#onMessage(worker, message)
    })
    cluster.on('exit', (worker, code, signal) => {
      this.#onExit(worker, signal === '' ? String(code) : signal)
    })
  }

  /** @throws ConnectError if the private socket cannot be created */
  async start(): Promise<void> {
    const { agent } = this.#options
    this.#relay = await relayAgent({ path: join(this.#folder, 'agent.sock'), agent })
    for (const slot of this.#slots) this.#fork(slot)
  }

  apply(config: ProxyConfig): void {
    const { registers } = this.#options
    if (registers && this.#service?.name !== config.service) {
      // Not awaited: the new service must not wait for the drain. close() rejects only for a wrong option.
      void this.#service?.close()
      this.#service = service(config.service, { agent: this.#options.agent })
    }
    this.#config = config
    this.#sendAll({ type: 'config', config })
  }

  setLevel(level: LogLevel): void {
    this.#level = level
    this.#sendAll({ type: 'level', level })
  }

  status(): ProxyStatus {
    const missing = this.#slots.flatMap(({ number, status }) =>
      (status?.missing ?? ['not started']).map((reason) => `worker ${number}: ${reason}`),
    )
    return { ready: missing.length === 0, missing }
  }

  async metrics(): Promise<string> {
    const responses = await Promise.all(this.#slots.map((slot) => this.#requestMetrics(slot)))
    const metrics = responses.filter((response) => response !== undefined)
    return AggregatorRegistry.aggregate(metrics).metrics()
  }

  async close(): Promise<void> {
    this.#isClosing = true
    for (const { retry } of this.#slots) clearTimeout(retry)
    await this.#service?.close()
    this.#sendAll({ type: 'close' })
    await Promise.all(this.#slots.map(({ worker }) => this.#exited(worker)))
    await this.#relay?.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  cut(): void {
    this.#sendAll({ type: 'cut' })
  }

  #fork(slot: Slot): void {
    slot.startedAt = performance.now()
    slot.worker = cluster.fork(Object.fromEntries(SECRET_VARIABLES.map((name) => [name, ''])))
  }

  /** Sends the options and the current configuration to a new worker. */
  #initialize({ worker, number }: Slot): void {
    // A worker that was starting did not receive the message of close().
    if (this.#isClosing) {
      worker?.send({ type: 'close' } satisfies ToWorker)
      return
    }
    const { json, connections } = this.#options
    const log = { level: this.#level, json, worker: number }
    const agent = this.#relay?.address ?? ''
    worker?.send({ type: 'start', agent, connections, log } satisfies ToWorker)
    if (this.#config !== undefined) {
      worker?.send({ type: 'config', config: this.#config } satisfies ToWorker)
    }
  }

  #onMessage(worker: Worker, message: FromWorker): void {
    const slot = this.#slots.find((each) => each.worker === worker)
    if (slot === undefined) return
    if (message.type === 'online') this.#initialize(slot)
    else if (message.type === 'status') slot.status = message.status
    else if (message.type === 'metrics') this.#pendingMetrics.get(message.requestId)?.(message.metrics)
    else if (this.#service !== undefined) this.#options.onListening(this.#service, message.listener)
  }

  /** Replaces a worker that has exited, with a pause that doubles from 0.1 s to 10 s. Its connections are lost. */
  #onExit(worker: Worker, status: string): void {
    const slot = this.#slots.find((each) => each.worker === worker)
    if (slot === undefined || this.#isClosing) return
    slot.status = undefined
    slot.worker = undefined
    if (performance.now() - slot.startedAt > HEALTHY_MS) slot.pauseMs = FIRST_PAUSE_MS
    this.#options.log.error('worker exited; its connections are lost', {
      worker: slot.number,
      how: status,
      again_in_ms: slot.pauseMs,
    })
    slot.retry = setTimeout(() => {
      this.#fork(slot)
    }, slot.pauseMs)
    slot.pauseMs = Math.min(MAX_PAUSE_MS, slot.pauseMs * 2)
  }

  #requestMetrics({ worker }: Slot): Promise<object | undefined> {
    const requestId = (this.#lastRequestId += 1)
    return new Promise<object | undefined>((resolve) => {
      const timer = setTimeout(() => {
        resolve(undefined)
      }, METRICS_TIMEOUT_MS)
      this.#pendingMetrics.set(requestId, (metrics) => {
        clearTimeout(timer)
        resolve(metrics)
      })
      if (worker?.isConnected() === true) worker.send({ type: 'metrics', requestId } satisfies ToWorker)
      else resolve(undefined)
    }).finally(() => this.#pendingMetrics.delete(requestId))
  }

  /** Waits until a worker has exited. Kills it 5 s after its drain timeout. */
  async #exited(worker: Worker | undefined): Promise<void> {
    if (worker === undefined || worker.isDead()) return
    const drainMs = this.#config?.drainTimeoutMs ?? 0
    const stopWaiting = new AbortController()
    const exit = new Promise<void>((resolve) => worker.once('exit', resolve))
    void exit.then(() => {
      stopWaiting.abort()
    })
    if (await elapsed(drainMs + EXIT_GRACE_MS, stopWaiting.signal)) worker.process.kill('SIGKILL')
    await exit
  }

  #sendAll(message: ToWorker): void {
    for (const { worker } of this.#slots) if (worker?.isConnected() === true) worker.send(message)
  }
}
