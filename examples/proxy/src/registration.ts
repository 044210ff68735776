import { isDeepStrictEqual } from 'node:util'
import {
  type ConsulApi,
  type AgentOptions,
  type RegisterOptions,
  type Registration,
  type Service,
  consul,
} from 'consul-connect'
import type { ProxyListener } from 'consul-connect/proxy'
import type { Log } from './log.js'

/** The TTL of the built-in proxy, which has a heartbeat every 10 s. */
const CHECK_TTL_MS = 30_000
const PAUSE_MS = 2_000
/** How often the registration of the application is read. */
const FOLLOW_MS = 10_000
const TIMEOUT_MS = 5_000

/** What a proxy takes over from the registration of its application. */
type Inherited = Pick<RegisterOptions, 'destinationId' | 'tags' | 'meta' | 'weights'>

/**
 * The registration that `-register` makes: present while the public listener is open. When the agent has exactly one
 * instance of the application, the proxy follows that instance's checks and has its tags, metadata, and weights.
 */
export class SelfRegistration {
  readonly #idSuffix: string | undefined
  readonly #agent: ConsulApi
  readonly #log: Log
  readonly #ended = new AbortController()
  #wanted: { readonly service: Service; readonly listener: ProxyListener } | undefined
  #current: Registration | undefined
  #inherited: Inherited = {}
  #work: Promise<void> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined

  constructor(idSuffix: string | undefined, options: AgentOptions, log: Log) {
    this.#idSuffix = idSuffix
    this.#agent = consul(options)
    this.#log = log
  }

  /** Registers an open listener, in the place of the one before. */
  set(service: Service, listener: ProxyListener): void {
    this.#wanted = { service, listener }
    this.#next(() => this.#register())
  }

  /** Deregisters, so that the mesh dials this proxy no longer. */
  async close(): Promise<void> {
    this.#ended.abort()
    clearTimeout(this.#timer)
    await this.#work
    await this.#current?.close()
    await this.#agent.close()
  }

  #isEnded(): boolean {
    return this.#ended.signal.aborted
  }

  /** Runs one step at a time, so that the last registration is the one that stays. */
  #next(step: () => Promise<number>): void {
    clearTimeout(this.#timer)
    this.#work = this.#work.then(async () => {
      if (this.#isEnded()) return
      const pauseMs = await step()
      if (this.#isEnded()) return
      this.#timer = setTimeout(() => {
        this.#next(() => this.#follow())
      }, pauseMs)
    })
  }

  /** Registers again when the registration of the application has changed. */
  async #follow(): Promise<number> {
    if (this.#current !== undefined && isDeepStrictEqual(await this.#readApplication(), this.#inherited)) {
      return FOLLOW_MS
    }
    return this.#register()
  }

  /** @returns the pause before the next step, in milliseconds */
  async #register(): Promise<number> {
    if (this.#wanted === undefined) return FOLLOW_MS
    const { service, listener } = this.#wanted
    const { host, port } = listener
    // The id that the built-in proxy uses.
    const id = `${service.name}-proxy${this.#idSuffix === undefined ? '' : `-${this.#idSuffix}`}`
    try {
      this.#inherited = await this.#readApplication()
      await this.#current?.close()
      this.#current = undefined
      this.#current = await service.register({
        kind: 'proxy',
        id,
        port,
        check: { ttlMs: CHECK_TTL_MS },
        ...this.#inherited,
        // Other members cannot dial a wildcard: the proxy has the node's address then.
        ...(!isWildcard(host) && { address: host }),
        signal: this.#ended.signal,
      })
      this.#log.info('registered', { id, port, instance: this.#inherited.destinationId })
      return FOLLOW_MS
    } catch (error) {
      if (!this.#isEnded()) {
        this.#log.warn(`registration of ${id}: ${(error as Error).message}`, { retry_in_ms: PAUSE_MS })
      }
      return PAUSE_MS
    }
  }

  /**
   * The instance that the proxy represents. When there is none, or it cannot be read, the last one: an application that
   * deregisters itself must not make its proxy healthy.
   */
  async #readApplication(): Promise<Inherited> {
    if (this.#wanted === undefined) return {}
    const { service, listener } = this.#wanted
    const options = { signal: this.#ended.signal, timeoutMs: TIMEOUT_MS }
    try {
      const query = { filter: `Service == ${JSON.stringify(service.name)}` }
      const services = await this.#agent.request({ path: '/v1/agent/services', query, ...options })
      return inheritedFrom(services, service.name, listener) ?? this.#inherited
    } catch (error) {
      if (!this.#isEnded()) {
        this.#log.warn(`the instance of ${service.name} cannot be read: ${(error as Error).message}`)
      }
      return this.#inherited
    }
  }
}

/** The part of an answer of the agent that is read here. */
interface AgentService {
  readonly Kind?: string
  readonly ID: string
  readonly Service: string
  readonly Port?: number
  readonly Tags?: readonly string[] | null
  readonly Meta?: Readonly<Record<string, string>> | null
  readonly Weights?: { readonly Passing: number; readonly Warning: number } | null
}

/** Undefined unless it is clear which instance the proxy represents. */
function inheritedFrom(
  services: unknown,
  name: string,
  { application }: ProxyListener,
): Inherited | undefined {
  if (typeof services !== 'object' || services === null) return undefined
  const instances = Object.values(services as Readonly<Record<string, AgentService>>).filter(
    ({ Kind, Service }) => (Kind ?? '') === '' && Service === name,
  )
  const onPort = instances.filter(({ Port }) => 'port' in application && Port === application.port)
  const [instance, ...others] = instances.length > 1 ? onPort : instances
  if (instance === undefined || others.length > 0) return undefined
  const { ID, Tags, Meta, Weights } = instance
  return {
    destinationId: ID,
    ...(Tags && Tags.length > 0 && { tags: Tags }),
    ...(Meta && Object.keys(Meta).length > 0 && { meta: Meta }),
    ...(Weights && { weights: { passing: Weights.Passing, warning: Weights.Warning } }),
  }
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}
