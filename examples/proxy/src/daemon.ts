import type { Service } from 'consul-connect'
import {
  type ProxyConfig,
  type ProxyConfigSource,
  type ProxyListener,
  type ProxyProblem,
  proxyConfig,
} from 'consul-connect/proxy'
import { Admin, METRICS_TYPE, type Pages } from './admin.js'
import { AdminSocket } from './admin-socket.js'
import { AgentLogLevel } from './agent-log-level.js'
import { DEFAULT_LEVEL, type Log, type LogLevel } from './log.js'
import { Opening } from './opening.js'
import type { ProxyStatus } from './proxy.js'
import { SelfRegistration } from './registration.js'
import type { Settings, Source } from './settings.js'
import type { Standby } from './standby.js'

/** Carries the connections: the proxy in this process, or several processes with one proxy each. */
export interface Engine {
  /** Starts what must run before the first configuration. */
  start?(): Promise<void>
  setLevel?(level: LogLevel): void
  apply(config: ProxyConfig): void
  status(): ProxyStatus
  metrics(): Promise<string>
  close(): Promise<void>
  /** Resets the connections that are still open. To be called after `close`. */
  cut(): void
}

/** Called each time the public listener opens. */
export type OnListening = (service: Service, listener: ProxyListener) => void

/** Runs an engine: gives it its configuration, registers it, and serves the admin address. */
export class Daemon {
  readonly #engine: Engine
  readonly #log: Log
  readonly #settings: Settings
  readonly #standby: Standby | undefined
  readonly #admin: Admin
  readonly #adminSocket: AdminSocket
  #adminOpening: Opening<Admin> | undefined
  #config: ProxyConfig | undefined
  #live: ProxyConfigSource | undefined
  #agentLevel: AgentLogLevel | undefined
  readonly #registration: SelfRegistration | undefined
  #reported: readonly string[] = []
  #closing: Promise<void> | undefined

  /** @param standby - for a proxy that replaces a running one */
  constructor(settings: Settings, log: Log, start: (onListening: OnListening) => Engine, standby?: Standby) {
    const { registration } = settings
    this.#settings = settings
    this.#standby = standby
    this.#log = log
    this.#registration = registration && new SelfRegistration(registration.idSuffix, settings.agent, log)
    this.#engine = start((service, listener) => this.#registration?.set(service, listener))
    const pages: Pages = {
      '/metrics': async () => ({ type: METRICS_TYPE, body: await this.#engine.metrics() }),
      '/health': () => ({ body: 'alive\n' }),
      '/ready': () => {
        const status = this.#engine.status()
        return { status: status.ready ? 200 : 503, body: { ...status, problems: this.#problems() } }
      },
      '/config': () => ({ status: this.#config === undefined ? 503 : 200, body: this.#config ?? {} }),
    }
    this.#admin = new Admin(pages)
    this.#adminSocket = new AdminSocket(pages, log)
  }

  /** @throws Error when the admin address is taken, or the engine cannot start */
  async start(): Promise<void> {
    const { admin, source, warnings } = this.#settings
    for (const warning of warnings) this.#log.warn(warning)
    if (admin !== undefined) await this.#openAdmin(admin)
    await this.#adminSocket.open()
    await this.#engine.start?.()
    this.#setLevel(this.#settings.log.level)
    this.#follow(source)
  }

  /** Applies other settings. A setting that cannot change while the proxy runs stays, with a warning. */
  reload(settings: Settings): void {
    const { source, log, admin, workers, ecdhCurve } = this.#settings
    this.#setLevel(settings.log.level)
    if (settings.source.kind !== source.kind || JSON.stringify(admin) !== JSON.stringify(settings.admin)) {
      this.#log.warn('where the configuration comes from, and the admin address, change with a restart alone')
    }
    if (settings.workers !== workers || settings.ecdhCurve !== ecdhCurve || settings.log.json !== log.json) {
      this.#log.warn(
        'the number of workers, the key exchange and the form of the log change with a restart alone',
      )
    }
    if (settings.source.kind === 'static' && source.kind === 'static') this.#apply(settings.source.config)
    else this.#live?.refresh()
  }

  /** Deregisters, then drains and closes the proxy. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** Ends a `close` that is under way: resets the connections that are still open. */
  cut(): void {
    this.#engine.cut()
  }

  /** Opens the admin address. A proxy that replaces a running one waits until that one has left the address. */
  async #openAdmin(admin: NonNullable<Settings['admin']>): Promise<void> {
    const open = async (): Promise<void> => {
      const { address, port } = await this.#admin.open(admin)
      this.#log.info('admin address is open', { address: `${address}:${port}` })
    }
    if (this.#standby === undefined) {
      await open().catch((error: unknown) => {
        throw new Error(`admin address: ${(error as Error).message}`, { cause: error })
      })
      return
    }
    this.#adminOpening = new Opening(
      async () => {
        await open()
        return this.#admin
      },
      (error, retryInMs) => {
        this.#log.warn(`admin address: ${error.message}`, { retry_in_ms: retryInMs })
      },
      () => undefined,
      { of: this.#standby, isOptional: true },
    )
  }

  async #closeAdmin(): Promise<void> {
    await this.#adminOpening?.close(0)
    this.#admin.close()
  }

  async #close(): Promise<void> {
    // A successor needs the address at once. The supervisor reads the pages of a draining proxy from its socket.
    if (this.#adminSocket.isOpen) await this.#closeAdmin()
    await Promise.all([this.#live?.close(), this.#agentLevel?.close()])
    // Other members must not dial this proxy while it drains.
    await this.#registration?.close()
    await this.#engine.close()
    await this.#closeAdmin()
    this.#adminSocket.close()
  }

  #follow(source: Source): void {
    if (source.kind === 'static') {
      this.#apply(source.config)
      return
    }
    const live = proxyConfig(source.selector, { agent: this.#settings.agent })
    live.on('changed', (config) => {
      this.#apply(config)
    })
    live.on('warning', (error) => {
      this.#log.warn(`configuration: ${error.message}`)
    })
    this.#live = live
  }

  /** Sets the level, or lets it follow the agent's where none is set. */
  #setLevel(level: LogLevel | undefined): void {
    // A new follower reads the level at once.
    void this.#agentLevel?.close()
    this.#agentLevel = undefined
    this.#applyLevel(level ?? DEFAULT_LEVEL)
    if (level !== undefined) return
    const following = new AgentLogLevel(this.#settings.agent, (next) => {
      if (this.#agentLevel !== following) return
      this.#applyLevel(next)
      this.#log.info('log level is that of the agent', { level: next })
    })
    this.#agentLevel = following
  }

  #applyLevel(level: LogLevel): void {
    this.#log.setLevel(level)
    this.#engine.setLevel?.(level)
  }

  /** Wrong values of the configuration, and why it cannot be read; the proxy serves what is right. */
  #problems(): readonly string[] {
    const problems = (this.#config?.problems ?? []).map(formatProblem)
    const error = this.#live?.lastError
    return error === undefined ? problems : [...problems, `configuration: ${error.message}`]
  }

  #apply(config: ProxyConfig): void {
    if (this.#closing !== undefined) return
    const reports = [...config.problems.map(formatProblem), ...config.warnings]
    for (const report of reports) if (!this.#reported.includes(report)) this.#log.warn(report)
    this.#reported = reports
    this.#config = config
    this.#log.info('configuration is applied', {
      service: config.service,
      public: config.listener && `${config.listener.host}:${config.listener.port}`,
      upstreams: config.upstreams.length,
    })
    this.#engine.apply(config)
  }
}

function formatProblem({ place, message, effect }: ProxyProblem): string {
  return `${place}: ${message}; ${effect}`
}
