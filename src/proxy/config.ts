import { EventEmitter } from 'eventemitter3'
import { AgentClient, type AgentResponse } from '../agent/client.js'
import type { AgentOptions } from '../agent/options.js'
import {
  type RegisteredProxy,
  fetchManagedProxy,
  fetchProxy,
  findProxiesFor,
} from '../agent/endpoints/proxy.js'
import { expectAgent } from '../agent/settings.js'
import type { BlockingQuery } from '../agent/watch.js'
import { CachedWatch } from '../agent/cached-watch.js'
import { withDeadline } from '../base/deadline.js'
import { type Time, systemTime } from '../base/clock.js'
import { AgentError, ConnectError, OptionError, TimeoutError } from '../base/errors.js'
import { emitSafely } from '../base/emit-safely.js'
import { expectName, optional, readOptions } from '../base/options/validate.js'
import { type ReadyOptions, readyBounds } from '../base/options/ready-options.js'
import { normalize } from './keys.js'
import { type ProxyConfig, readProxyConfig } from './settings.js'

/** Selects a proxy by its ID at the agent, or as the only proxy of a service instance. */
export type ProxySelector = { readonly proxyId: string } | { readonly sidecarFor: string }

/** Options of `proxyConfig`. */
export interface ProxyConfigOptions {
  /** How to reach the Consul agent. @default Consul's client environment */
  readonly agent?: AgentOptions | undefined
}

/** The events of a ProxyConfigSource, with their arguments. */
export interface ProxyConfigEvents {
  /** The first configuration, or one that differs from the last. */
  changed: [config: ProxyConfig]
  /** The configuration cannot be read or used. The last good one stays in use, and the read is repeated. */
  warning: [error: Error]
}

/**
 * Watches the registration of a proxy at the agent, and parses its configuration. An invalid value affects only its own
 * upstream, listener, or limit, and is listed in `problems` of the configuration.
 *
 * An open source keeps the process alive.
 */
export class ProxyConfigSource extends EventEmitter<ProxyConfigEvents> implements AsyncDisposable {
  readonly #selector: ProxySelector
  readonly #agent: AgentClient
  readonly #watched: CachedWatch<ProxyConfig>
  readonly #closed = new AbortController()
  #proxyId: string | undefined
  #lastError: Error | undefined

  constructor(selector: ProxySelector, options: ProxyConfigOptions = {}, time: Time = systemTime) {
    super()
    this.#selector = proxySelector(selector)
    const { agent } = readOptions(options, { agent: expectAgent })
    this.#agent = new AgentClient(agent)
    this.#watched = new CachedWatch({
      name: 'proxy',
      fetch: (query) => this.#fetch(query),
      waitMs: this.#agent.settings.waitMs,
      ...time,
    })
    this.#watched.on('read', () => {
      this.#lastError = undefined
    })
    this.#watched.on('value', () => {
      this.#lastError = undefined
      if (this.current !== undefined) emitSafely(this, 'changed', this.current)
    })
    this.#watched.on('failed', (error) => {
      this.#lastError = error
      emitSafely(this, 'warning', error)
    })
  }

  /** The last good configuration; undefined before the first. */
  get current(): ProxyConfig | undefined {
    return this.#watched.value
  }

  /**
   * The error of the last read, after which `current` is still the last good configuration; undefined if the read
   * succeeded.
   */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /** The ID of the proxy at the agent; undefined until it is known. */
  get proxyId(): string | undefined {
    return this.#proxyId
  }

  /**
   * Waits for the first configuration.
   * @throws AgentError, OptionError (the configuration is unusable), ConnectError (ERR_CONNECT_PROXY), TimeoutError, AbortError,
   * ClosedError
   */
  async ready(options?: ReadyOptions): Promise<ProxyConfig> {
    const bounds = { ...readyBounds(options), closed: this.#closed.signal }
    try {
      return await withDeadline('proxy configuration', bounds, (signal) => this.#watched.first(signal))
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error
      throw new TimeoutError('proxy configuration', bounds.timeoutMs, { cause: this.#watched.lastError })
    }
  }

  /** Reads the registration again at once. */
  refresh(): void {
    this.#watched.refresh()
  }

  /** Ends the watch. Idempotent. */
  async close(): Promise<void> {
    this.#closed.abort()
    this.#watched.close()
    await this.#agent.destroy()
    this.removeAllListeners()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #fetch(query: BlockingQuery): Promise<AgentResponse<ProxyConfig>> {
    this.#proxyId ??= await this.#findId(query)
    try {
      const response = await this.#fetchAny(this.#proxyId, query)
      return { ...response, value: toConfig(response.value, this.current) }
    } catch (error) {
      // The proxy may be registered again with another ID.
      if (isNotFound(error)) this.#proxyId = undefined
      throw error
    }
  }

  async #fetchAny(id: string, query: BlockingQuery): Promise<AgentResponse<RegisteredProxy>> {
    try {
      return await fetchProxy(this.#agent, id, query)
    } catch (error) {
      if (!isNotFound(error)) throw error
      // Agents before 1.6 have managed proxies; agents before 1.3 have no others.
      return fetchManagedProxy(this.#agent, id, query).catch(() => {
        throw error
      })
    }
  }

  async #findId({ signal }: BlockingQuery): Promise<string> {
    if ('proxyId' in this.#selector) return this.#selector.proxyId
    const { sidecarFor } = this.#selector
    const [id, ...others] = await findProxiesFor(this.#agent, sidecarFor, { signal })
    if (id !== undefined && others.length === 0) return id
    const found = id === undefined ? 'none' : `several: ${[id, ...others].join(', ')}`
    const advice =
      id === undefined ? 'register one with the DestinationServiceID of the instance' : 'select one by its ID'
    throw new ConnectError(
      'ERR_CONNECT_PROXY',
      `expected one proxy registered for the service instance ${sidecarFor} on this agent, found ${found}: ${advice}`,
    )
  }
}

/** @throws OptionError */
function proxySelector(given: unknown): ProxySelector {
  const checks = { proxyId: optional(expectName), sidecarFor: optional(expectName) }
  const { proxyId, sidecarFor } = readOptions(given, checks, 'selector')
  if (proxyId !== undefined && sidecarFor === undefined) return { proxyId }
  if (proxyId === undefined && sidecarFor !== undefined) return { sidecarFor }
  const found = proxyId === undefined ? 'neither' : 'both'
  throw new OptionError('selector', 'either proxyId or sidecarFor', found)
}

/**
 * Converts a registration to a configuration. The keys of its `config` take precedence over fields that the agent adds.
 */
function toConfig(proxy: RegisteredProxy, previous: ProxyConfig | undefined): ProxyConfig {
  const { id, kind, service, config, upstreams } = proxy
  if (kind !== 'connect-proxy' || service === undefined) {
    const found = kind === '' ? 'an ordinary service' : `of kind ${kind}`
    throw new ConnectError(
      'ERR_CONNECT_PROXY',
      `expected ${id} to be registered as a proxy (Kind: connect-proxy, with a destination), found ${found}`,
    )
  }
  const own = normalize('config', config)
  const registered = {
    bind_address: proxy.address,
    bind_port: proxy.port,
    local_service_address: proxy.localSocketPath === undefined ? proxy.localAddress : undefined,
    local_service_port: proxy.localSocketPath === undefined ? proxy.localPort : undefined,
    local_service_socket_path: proxy.localSocketPath,
    ...own,
    // Consul 1.2 has them inside the configuration.
    upstreams: upstreams.length > 0 ? upstreams : own['upstreams'],
    service,
    namespace: proxy.namespace,
    partition: proxy.partition,
  }
  const parsed = readProxyConfig(registered, previous)
  if (proxy.mode === undefined || proxy.mode === 'direct') return parsed
  const warning = `Proxy.Mode: ${proxy.mode} is not supported; the listeners are those that are configured`
  return { ...parsed, warnings: [...parsed.warnings, warning] }
}

function isNotFound(error: unknown): boolean {
  return error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND'
}
