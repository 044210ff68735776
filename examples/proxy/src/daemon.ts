import { isDeepStrictEqual } from 'node:util'
import type { Service } from 'consul-connect'
import {
  type ProxyConfig,
  type ProxyConfigSource,
  type ProxyListener,
  type ProxyProblem,
  proxyConfig,
} from 'consul-connect/proxy'
import { Admin, METRICS_TYPE, type Pages } from './operator/admin.js'
import { AdminSocket } from './operator/admin-socket.js'
import { AgentLogLevel } from './operator/agent-log-level.js'
import { DEFAULT_LEVEL, type Log, type LogLevel } from './operator/log.js'
import type { ProxyStatus } from './proxy.js'
import { SelfRegistration } from './registration.js'
import { RetryingListener } from './listeners/retrying-listener.js'
import type { Settings, Source } from './cli/settings.js'
import type { Standby } from './workers/standby.js'

/** Handles the connections: one `Proxy` in this process, or one in each of several workers. */
export interface Engine {
  /** Called once, before the first configuration. */
  start?(): Promise<void>
  setLevel?(level: LogLevel): void
  apply(config: ProxyConfig): void
  status(): ProxyStatus
  metrics(): Promise<string>
  close(): Promise<void>
  /** Resets the connections that are still open. Call it after `close()`. */
  cut(): void
}

/** Called each time the public listener opens. */
export type OnListening = (service: Service, listener: ProxyListener) => void

/** Runs an engine: applies configurations, registers the proxy, serves the admin pages, and sets the log level. */
export class Daemon {
  readonly #engine: Engine
  readonly #log: Log
  readonly #settings: Settings
  readonly #standby: Standby | undefined
  readonly #admin: Admin
  readonly #adminSocket: AdminSocket
  #adminListener: RetryingListener<Admin> | undefined
  #config: ProxyConfig | undefined
  #configSource: ProxyConfigSource | undefined
  #agentLevel: AgentLogLevel | undefined
  readonly #registration: SelfRegistration | undefined
  #reported: readonly string[] = []
  #closing: Promise<void> | undefined

  /**
   * @param startEngine - creates the engine
   * @param standby - set only in a proxy that replaces a running one
   */
  constructor(
    settings: Settings,
    log: Log,
    startEngine: (onListening: OnListening) => Engine,
    standby?: Standby,
  ) {
    const { registration } = settings
    this.#settings = settings
    this.#standby = standby
    this.#log = log
    this.#registration =
      registration &&
      new SelfRegistration(
        { ...registration, agent: settings.agent, mux: settings.connections.mux === true },
        log,
      )
    this.#engine = startEngine((service, listener) => this.#registration?.set(service, listener))
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

  /** @throws Error if the admin address is in use, or the engine cannot start */
  async start(): Promise<void> {
    const { admin, source, warnings } = this.#settings
    for (const warning of warnings) this.#log.warn(warning)
    if (admin !== undefined) await this.#openAdmin(admin)
    await this.#adminSocket.open()
    await this.#engine.start?.()
    this.#setLevel(this.#settings.log.level)
    this.#startSource(source)
  }

  /** Applies new settings. Changes that require a restart are ignored with a warning. */
  reload(settings: Settings): void {
    const { source, log, admin, workers, connections } = this.#settings
    this.#setLevel(settings.log.level)
    if (settings.source.kind !== source.kind || JSON.stringify(admin) !== JSON.stringify(settings.admin)) {
      this.#log.warn('reload: the configuration source and -admin-addr cannot change; restart the proxy')
    }
    const isSame = isDeepStrictEqual(settings.connections, connections) && settings.workers === workers
    if (!isSame || settings.log.json !== log.json) {
      this.#log.warn('reload: -workers, -ecdh-curve, -mux, and -log-json cannot change; restart the proxy')
    }
    if (settings.source.kind === 'static' && source.kind === 'static') this.#apply(settings.source.config)
    else this.#configSource?.refresh()
  }

  /** Deregisters, then drains and closes the proxy. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** Resets the connections that are still open. Call it after `close()`. */
  cut(): void {
    this.#engine.cut()
  }

  /** Opens the admin address. A proxy that replaces a running one retries until the address is free. */
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
    this.#adminListener = new RetryingListener({
      open: async () => {
        await open()
        return this.#admin
      },
      onFailed: (error, retryInMs) => {
        this.#log.warn(`admin address: ${error.message}`, { retry_in_ms: retryInMs })
      },
      standby: { standby: this.#standby, isOptional: true },
    })
  }

  async #closeAdmin(): Promise<void> {
    await this.#adminListener?.close(0)
    this.#admin.close()
  }

  async #close(): Promise<void> {
    // A successor needs the admin address at once. While this proxy drains, the supervisor reads its pages from the socket.
    if (this.#adminSocket.isOpen) await this.#closeAdmin()
    await Promise.all([this.#configSource?.close(), this.#agentLevel?.close()])
    // Deregister first: other services must not dial this proxy while it drains.
    await this.#registration?.close()
    await this.#engine.close()
    await this.#closeAdmin()
    this.#adminSocket.close()
  }

  #startSource(source: Source): void {
    if (source.kind === 'static') {
      this.#apply(source.config)
      return
    }
    const configSource = proxyConfig(source.selector, { agent: this.#settings.agent })
    configSource.on('changed', (config) => {
      this.#apply(config)
    })
    configSource.on('warning', (error) => {
      this.#log.warn(`configuration: ${error.message}`)
    })
    this.#configSource = configSource
  }

  /** Sets the log level; undefined follows the level of the agent. */
  #setLevel(level: LogLevel | undefined): void {
    // A new AgentLogLevel reads the level at once.
    void this.#agentLevel?.close()
    this.#agentLevel = undefined
    this.#applyLevel(level ?? DEFAULT_LEVEL)
    if (level !== undefined) return
    const agentLevel = new AgentLogLevel(this.#settings.agent, (next) => {
      if (this.#agentLevel !== agentLevel) return
      this.#applyLevel(next)
      this.#log.info('log level set from the agent', { level: next })
    })
    this.#agentLevel = agentLevel
  }

  #applyLevel(level: LogLevel): void {
    this.#log.setLevel(level)
    this.#engine.setLevel?.(level)
  }

  /** Lists wrong values of the current configuration, and the error of the last attempt to read it. */
  #problems(): readonly string[] {
    const problems = (this.#config?.problems ?? []).map(formatProblem)
    const error = this.#configSource?.lastError
    return error === undefined ? problems : [...problems, `configuration: ${error.message}`]
  }

  #apply(config: ProxyConfig): void {
    if (this.#closing !== undefined) return
    const reports = [...config.problems.map(formatProblem), ...config.warnings]
    for (const report of reports) if (!this.#reported.includes(report)) this.#log.warn(report)
    this.#reported = reports
    this.#config = config
    this.#log.info('configuration applied', {
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
