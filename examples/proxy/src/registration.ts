import { isDeepStrictEqual } from 'node:util'
import {
  type ConsulApi,
  type AgentOptions,
  type RegisterOptions,
  type Registration,
  type Service,
  consul,
} from 'consul-connect'
import { MUX_META, type ProxyListener } from 'consul-connect/proxy'
import type { Log } from './operator/log.js'

/** TTL of the check; the same as that of Consul's built-in proxy. */
const CHECK_TTL_MS = 30_000
const RETRY_MS = 2_000
/** Interval at which the registration of the application is read. */
const FOLLOW_MS = 10_000
const REQUEST_TIMEOUT_MS = 5_000

export interface RegistrationOptions {
  /** Suffix of the ID, for several proxies of a service. */
  readonly idSuffix: string | undefined
  readonly agent: AgentOptions
  /** Whether the proxy takes many connections over one. */
  readonly mux: boolean
}

/** Fields that the proxy copies from the registration of its application. */
type Inherited = Pick<RegisterOptions, 'destinationId' | 'tags' | 'meta' | 'weights'>

/**
 * The registration made by `-register`, present while the public listener is open. If the agent has exactly one matching
 * instance of the application, the proxy is registered as its sidecar: the instance's failed checks apply to the proxy, and
 * its tags, metadata, and weights are copied.
 */
export class SelfRegistration {
  readonly #idSuffix: string | undefined
  readonly #mux: boolean
  readonly #agent: ConsulApi
  readonly #log: Log
  readonly #closed = new AbortController()
  #target: { readonly service: Service; readonly listener: ProxyListener } | undefined
  #current: Registration | undefined
  #inherited: Inherited = {}
  #work: Promise<void> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined

  constructor({ idSuffix, agent, mux }: RegistrationOptions, log: Log) {
    this.#idSuffix = idSuffix
    this.#agent = consul(agent)
    this.#mux = mux
    this.#log = log
  }

  /** Registers an open listener, replacing the previous registration. */
  set(service: Service, listener: ProxyListener): void {
    this.#target = { service, listener }
    this.#schedule(() => this.#register())
  }

  /** Deregisters the proxy, so that other services stop dialing it. */
  async close(): Promise<void> {
    this.#closed.abort()
    clearTimeout(this.#timer)
    await this.#work
    await this.#current?.close()
    await this.#agent.close()
  }

  #isClosed(): boolean {
    return this.#closed.signal.aborted
  }

  /**
   * Runs steps one after the other, so that the latest registration wins.
   * @param step - returns the pause before the next check of the application, in milliseconds
   */
  #schedule(step: () => Promise<number>): void {
    clearTimeout(this.#timer)
    this.#work = this.#work.then(async () => {
      if (this.#isClosed()) return
      const pauseMs = await step()
      if (this.#isClosed()) return
      this.#timer = setTimeout(() => {
        this.#schedule(() => this.#follow())
      }, pauseMs)
    })
  }

  /** Registers the proxy again if the registration of the application has changed. */
  async #follow(): Promise<number> {
    if (this.#current !== undefined && isDeepStrictEqual(await this.#readApplication(), this.#inherited)) {
      return FOLLOW_MS
    }
    return this.#register()
  }

  /** Registers the current target. Returns the pause before the next step, in milliseconds. */
  async #register(): Promise<number> {
    if (this.#target === undefined) return FOLLOW_MS
    const { service, listener } = this.#target
    const { host, port } = listener
    // The same ID as that of Consul's built-in proxy.
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
        meta: announced(this.#inherited.meta, this.#mux),
        // A wildcard cannot be dialed; without an address, the agent uses that of the node.
        ...(!isWildcard(host) && { address: host }),
        signal: this.#closed.signal,
      })
      this.#log.info('registered', { id, port, instance: this.#inherited.destinationId })
      return FOLLOW_MS
    } catch (error) {
      if (!this.#isClosed()) {
        this.#log.warn(`register ${id}: ${(error as Error).message}`, { retry_in_ms: RETRY_MS })
      }
      return RETRY_MS
    }
  }

  /**
   * Reads the fields to copy from the instance that the proxy represents. Keeps the last ones if the instance is missing or
   * cannot be read: a proxy must not become healthy because its application has deregistered itself.
   */
  async #readApplication(): Promise<Inherited> {
    if (this.#target === undefined) return {}
    const { service, listener } = this.#target
    const options = { signal: this.#closed.signal, timeoutMs: REQUEST_TIMEOUT_MS }
    try {
      const query = { filter: `Service == ${JSON.stringify(service.name)}` }
      const services = await this.#agent.request({ path: '/v1/agent/services', query, ...options })
      return inheritedFrom(services, service.name, listener) ?? this.#inherited
    } catch (error) {
      if (!this.#isClosed()) {
        this.#log.warn(`read instances of ${service.name}: ${(error as Error).message}`)
      }
      return this.#inherited
    }
  }
}

/** The fields read from `GET /v1/agent/services`. */
interface AgentService {
  readonly Kind?: string
  readonly ID: string
  readonly Service: string
  readonly Port?: number
  readonly Tags?: readonly string[] | null
  readonly Meta?: Readonly<Record<string, string>> | null
  readonly Weights?: { readonly Passing: number; readonly Warning: number } | null
}

/** Returns the fields of the only instance, or of the only one on the application's port; undefined if it is ambiguous. */
function inheritedFrom(
  services: unknown,
  name: string,
  { application }: ProxyListener,
): Inherited | undefined {
  if (typeof services !== 'object' || services === null) return undefined
  const instances = Object.values(services as Readonly<Record<string, AgentService>>).filter(
    ({ Kind, Service }) => (Kind ?? '') === '' && Service === name,
  )
  const onApplicationPort = instances.filter(({ Port }) => 'port' in application && Port === application.port)
  const [instance, ...others] = instances.length > 1 ? onApplicationPort : instances
  if (instance === undefined || others.length > 0) return undefined
  const { ID, Tags, Meta, Weights } = instance
  return {
    destinationId: ID,
    ...(Tags && Tags.length > 0 && { tags: Tags }),
    ...(Meta && Object.keys(Meta).length > 0 && { meta: Meta }),
    ...(Weights && { weights: { passing: Weights.Passing, warning: Weights.Warning } }),
  }
}

/** Announces sessions if the proxy takes them, and not because its application does. */
function announced(meta: RegisterOptions['meta'] = {}, mux: boolean): RegisterOptions['meta'] {
  const others = Object.fromEntries(Object.entries(meta).filter(([key]) => !(key in MUX_META)))
  return mux ? { ...others, ...MUX_META } : others
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}
