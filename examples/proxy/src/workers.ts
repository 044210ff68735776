import cluster, { type Worker } from 'node:cluster'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type AgentOptions, type Service, service } from 'consul-connect'
import { type AgentRelay, type ProxyConfig, relayAgent } from 'consul-connect/proxy'
import { AggregatorRegistry } from 'prom-client'
import type { Engine, OnListening } from './daemon.js'
import type { Log, LogLevel } from './log.js'
import type { FromWorker, ToWorker } from './messages.js'
import type { ProxyStatus } from './proxy.js'
import { elapsed } from './time.js'

export interface WorkersOptions {
  readonly count: number
  readonly agent: AgentOptions
  readonly ecdhCurve: string | undefined
  readonly log: Log
  readonly level: LogLevel
  readonly json: boolean
  readonly onListening: OnListening
  /** Whether somebody registers: that takes a service in this process. */
  readonly registers: boolean
}

interface Slot {
  readonly number: number
  worker: Worker | undefined
  status: ProxyStatus | undefined
  startedAt: number
  pauseMs: number
  retry: NodeJS.Timeout | undefined
}

const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 10_000
/** One that has lived so long did not die of its start. */
const LIVED_MS = 10_000
/** How long a worker may take to say its metrics. */
const METRICS_MS = 2_000
/** What a worker's end takes beyond its drain. */
const END_GRACE_MS = 5_000

/** These are for this process alone: the workers ask it, and not the agent. */
const SECRETS = ['CONSUL_HTTP_TOKEN', 'CONSUL_HTTP_TOKEN_FILE', 'CONSUL_HTTP_AUTH', 'CONNECT_PROXY_TOKEN']

/**
 * Several processes with a proxy each, which share the listeners. This one accepts, hands connections out in turn, and is
 * the only one that speaks to the agent: the workers read through a private socket, without a token.
 */
export class Workers implements Engine {
  readonly #options: WorkersOptions
  readonly #folder: string
  readonly #slots: Slot[]
  readonly #questions = new Map<number, (metrics: object) => void>()
  #relay: AgentRelay | undefined
  #service: Service | undefined
  #config: ProxyConfig | undefined
  #level: LogLevel
  #question = 0
  #isEnding = false

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
    const exec = join(import.meta.dirname, 'worker.js')
    // None of the arguments, where a token may be.
    cluster.setupPrimary({ exec, args: [], serialization: 'advanced' })
    // Cluster binds in this process what the workers listen on.
    process.umask(0o077)
    cluster.on('message', (worker, message: FromWorker) => {
      this.#hear(worker, message)
    })
    cluster.on('exit', (worker, code, signal) => {
      this.#lost(worker, signal === '' ? String(code) : signal)
    })
  }

  /** @throws ConnectError when the private socket cannot be made */
  async start(): Promise<void> {
    const { agent } = this.#options
    this.#relay = await relayAgent({ path: join(this.#folder, 'agent.sock'), agent })
    for (const slot of this.#slots) this.#fork(slot)
  }

  apply(config: ProxyConfig): void {
    const { registers } = this.#options
    if (registers && this.#service?.name !== config.service) {
      // Not awaited: the service that replaces it must not wait for its drain. close() rejects only for a wrong option.
      void this.#service?.close()
      this.#service = service(config.service, { agent: this.#options.agent })
    }
    this.#config = config
    this.#tellAll({ type: 'config', config })
  }

  setLevel(level: LogLevel): void {
    this.#level = level
    this.#tellAll({ type: 'level', level })
  }

  status(): ProxyStatus {
    const missing = this.#slots.flatMap(({ number, status }) =>
      (status?.missing ?? ['it has not started']).map((what) => `worker ${number}: ${what}`),
    )
    return { ready: missing.length === 0, missing }
  }

  async metrics(): Promise<string> {
    const answers = await Promise.all(this.#slots.map((slot) => this.#ask(slot)))
    const known = answers.filter((answer) => answer !== undefined)
    return AggregatorRegistry.aggregate(known).metrics()
  }

  async close(): Promise<void> {
    this.#isEnding = true
    for (const { retry } of this.#slots) clearTimeout(retry)
    await this.#service?.close()
    this.#tellAll({ type: 'close' })
    await Promise.all(this.#slots.map(({ worker }) => this.#ended(worker)))
    await this.#relay?.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  cut(): void {
    this.#tellAll({ type: 'cut' })
  }

  #fork(slot: Slot): void {
    slot.startedAt = performance.now()
    slot.worker = cluster.fork(Object.fromEntries(SECRETS.map((name) => [name, ''])))
  }

  #welcome({ worker, number }: Slot): void {
    // A worker that was still starting has not received the first one.
    if (this.#isEnding) {
      worker?.send({ type: 'close' } satisfies ToWorker)
      return
    }
    const { json, ecdhCurve } = this.#options
    const log = { level: this.#level, json, worker: number }
    const agent = this.#relay?.address ?? ''
    worker?.send({ type: 'start', agent, ecdhCurve, log } satisfies ToWorker)
    if (this.#config !== undefined) {
      worker?.send({ type: 'config', config: this.#config } satisfies ToWorker)
    }
  }

  #hear(worker: Worker, message: FromWorker): void {
    const slot = this.#slots.find((one) => one.worker === worker)
    if (slot === undefined) return
    if (message.type === 'hello') this.#welcome(slot)
    else if (message.type === 'status') slot.status = message.status
    else if (message.type === 'metrics') this.#questions.get(message.question)?.(message.metrics)
    else if (this.#service !== undefined) this.#options.onListening(this.#service, message.listener)
  }

  /** Its connections are gone with it; another takes its place. */
  #lost(worker: Worker, how: string): void {
    const slot = this.#slots.find((one) => one.worker === worker)
    if (slot === undefined || this.#isEnding) return
    slot.status = undefined
    slot.worker = undefined
    if (performance.now() - slot.startedAt > LIVED_MS) slot.pauseMs = FIRST_PAUSE_MS
    this.#options.log.error('a worker has ended', { worker: slot.number, how, again_in_ms: slot.pauseMs })
    slot.retry = setTimeout(() => {
      this.#fork(slot)
    }, slot.pauseMs)
    slot.pauseMs = Math.min(LONGEST_PAUSE_MS, slot.pauseMs * 2)
  }

  #ask({ worker }: Slot): Promise<object | undefined> {
    const question = (this.#question += 1)
    return new Promise<object | undefined>((resolve) => {
      const timer = setTimeout(() => {
        resolve(undefined)
      }, METRICS_MS)
      this.#questions.set(question, (metrics) => {
        clearTimeout(timer)
        resolve(metrics)
      })
      if (worker?.isConnected() === true) worker.send({ type: 'metrics', question } satisfies ToWorker)
      else resolve(undefined)
    }).finally(() => this.#questions.delete(question))
  }

  async #ended(worker: Worker | undefined): Promise<void> {
    if (worker === undefined || worker.isDead()) return
    const drainMs = this.#config?.drainTimeoutMs ?? 0
    const exited = new AbortController()
    const exit = new Promise<void>((resolve) => worker.once('exit', resolve))
    void exit.then(() => {
      exited.abort()
    })
    if (await elapsed(drainMs + END_GRACE_MS, exited.signal)) worker.process.kill('SIGKILL')
    await exit
  }

  #tellAll(message: ToWorker): void {
    for (const { worker } of this.#slots) if (worker?.isConnected() === true) worker.send(message)
  }
}
