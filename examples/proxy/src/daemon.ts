import { type ProxyConfig, type ProxyListener, type Service, proxyConfig } from 'consul-connect'
import { Admin, METRICS_TYPE, type Pages } from './admin.js'
import { AdminSocket } from './admin-socket.js'
import type { Log, LogLevel } from './log.js'
import type { ProxyStatus } from './proxy.js'
import { SelfRegistration } from './registration.js'
import type { Settings, Source } from './settings.js'

/** What does the work: the proxy in this process, or several processes with one each. */
export interface Engine {
  /** For one that has something to start before its first configuration. */
  start?(): Promise<void>
  setLevel?(level: LogLevel): void
  apply(config: ProxyConfig): void
  status(): ProxyStatus
  metrics(): Promise<string>
  close(): Promise<void>
}

/** Called when the public listener is open, each time. */
export type OnListening = (service: Service, listener: ProxyListener) => void

/** Leads an engine: where its configuration comes from, its registration, and what operators look at. */
export class Daemon {
  readonly #engine: Engine
  readonly #log: Log
  readonly #settings: Settings
  readonly #admin: Admin
  readonly #adminSocket: AdminSocket
  #config: ProxyConfig | undefined
  #stopFollowing: () => Promise<void> = () => Promise.resolve()
  #refresh: () => void = () => undefined
  readonly #registration: SelfRegistration | undefined
  #warned: readonly string[] = []
  #closing: Promise<void> | undefined

  constructor(settings: Settings, log: Log, start: (onListening: OnListening) => Engine) {
    const { registration } = settings
    this.#settings = settings
    this.#log = log
    this.#registration = registration && new SelfRegistration(registration.idSuffix, settings.agent, log)
    this.#engine = start((service, listener) => this.#registration?.set(service, listener))
    const pages: Pages = {
      '/metrics': async () => ({ type: METRICS_TYPE, body: await this.#engine.metrics() }),
      '/health': () => ({ body: 'alive\n' }),
      '/ready': () => {
        const status = this.#engine.status()
        return { status: status.ready ? 200 : 503, body: status }
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
    if (admin !== undefined) {
      const { address, port } = await this.#admin.open(admin).catch((error: unknown) => {
        throw new Error(`admin address: ${(error as Error).message}`, { cause: error })
      })
      this.#log.info('admin address is open', { address: `${address}:${port}` })
    }
    await this.#adminSocket.open()
    await this.#engine.start?.()
    this.#follow(source)
  }

  /** Takes what a user says now; what cannot change while it runs is left as it is, and said. */
  reload(settings: Settings): void {
    const { source, log, admin, workers, ecdhCurve } = this.#settings
    this.#log.setLevel(settings.log.level)
    this.#engine.setLevel?.(settings.log.level)
    if (settings.source.kind !== source.kind || JSON.stringify(admin) !== JSON.stringify(settings.admin)) {
      this.#log.warn('where the configuration comes from, and the admin address, change with a restart alone')
    }
    if (settings.workers !== workers || settings.ecdhCurve !== ecdhCurve || settings.log.json !== log.json) {
      this.#log.warn(
        'the number of workers, the key exchange and the form of the log change with a restart alone',
      )
    }
    if (settings.source.kind === 'static' && source.kind === 'static') this.#apply(settings.source.config)
    else this.#refresh()
  }

  /** Takes the proxy out of the mesh in order. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    await this.#stopFollowing()
    // Nobody is to be sent here while the rest ends.
    await this.#registration?.close()
    await this.#engine.close()
    this.#admin.close()
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
    this.#refresh = () => {
      live.refresh()
    }
    this.#stopFollowing = () => live.close()
  }

  #apply(config: ProxyConfig): void {
    if (this.#closing !== undefined) return
    for (const warning of config.warnings) if (!this.#warned.includes(warning)) this.#log.warn(warning)
    this.#warned = config.warnings
    this.#config = config
    this.#log.info('configuration is applied', {
      service: config.service,
      public: config.listener && `${config.listener.host}:${config.listener.port}`,
      upstreams: config.upstreams.length,
    })
    this.#engine.apply(config)
  }
}
