import { EventEmitter } from 'eventemitter3'
import { AgentClient, type AgentResponse } from '../agent/client.js'
import type { AgentOptions } from '../agent/options.js'
import { type RegisteredProxy, fetchManagedProxy, fetchProxy, findProxiesFor } from '../agent/proxy.js'
import { agentSettings } from '../agent/settings.js'
import type { BlockingQuery } from '../agent/watch.js'
import { Watched } from '../agent/watched.js'
import { bounded } from '../bounded.js'
import { type Time, systemTime } from '../clock.js'
import { AgentError, ConnectError, OptionError, TimeoutError } from '../errors.js'
import { emitSafely } from '../events.js'
import { expectKeys, expectName, expectObject } from '../options.js'
import { type ReadyOptions, readyBounds } from '../ready-options.js'
import { normalize } from './keys.js'
import { type ProxyConfig, parseProxyConfig } from './settings.js'

/** Which proxy: by its own id on the agent, or the only one that stands for a service instance of the agent. */
export type ProxySelector = { readonly proxyId: string } | { readonly sidecarFor: string }

/** Options of `proxyConfig`. */
export interface ProxyConfigOptions {
  /** How to reach the Consul agent. @default Consul's client environment */
  readonly agent?: AgentOptions | undefined
}

/** What a ProxyConfigSource tells, and with what. */
export interface ProxyConfigEvents {
  /** The first configuration, and each that differs from the last. */
  changed: [config: ProxyConfig]
  /** The configuration could not be read, or is wrong: the last good one stays. It is read again. */
  warning: [error: Error]
}

/**
 * The live configuration of one proxy: what is registered for it with the agent, watched. A registration that is wrong
 * changes nothing but the warnings.
 *
 * It keeps the process alive until it is closed.
 */
export class ProxyConfigSource extends EventEmitter<ProxyConfigEvents> implements AsyncDisposable {
  readonly #selector: ProxySelector
  readonly #agent: AgentClient
  readonly #watched: Watched<ProxyConfig>
  readonly #closed = new AbortController()
  #proxyId: string | undefined

  constructor(selector: ProxySelector, options: ProxyConfigOptions = {}, time: Time = systemTime) {
    super()
    this.#selector = proxySelector(selector)
    expectKeys('options', expectObject('options', options), ['agent'])
    this.#agent = new AgentClient(agentSettings(options.agent))
    this.#watched = new Watched({
      name: 'proxy',
      fetch: (query) => this.#fetch(query),
      waitMs: this.#agent.settings.waitMs,
      ...time,
    })
    this.#watched.on('value', () => {
      if (this.current !== undefined) emitSafely(this, 'changed', this.current)
    })
    this.#watched.on('failed', (error) => {
      emitSafely(this, 'warning', error)
    })
  }

  /** The last good configuration; undefined before the first. */
  get current(): ProxyConfig | undefined {
    return this.#watched.value
  }

  /** The proxy's id on the agent; undefined until it is known. */
  get proxyId(): string | undefined {
    return this.#proxyId
  }

  /**
   * Resolves with the configuration as soon as there is one.
   * @throws AgentError, OptionError (a value in it is wrong), ConnectError (ERR_CONNECT_PROXY), TimeoutError, AbortError,
   * ClosedError
   */
  async ready(options?: ReadyOptions): Promise<ProxyConfig> {
    const bounds = { ...readyBounds(options), closed: this.#closed.signal }
    try {
      return await bounded('proxy configuration', bounds, (signal) => this.#watched.first(signal))
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error
      throw new TimeoutError('proxy configuration', bounds.timeoutMs, { cause: this.#watched.lastError })
    }
  }

  /** Reads it anew, now. */
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
      return { ...response, value: toConfig(response.value) }
    } catch (error) {
      // It may be registered again under another id.
      if (isNotFound(error)) this.#proxyId = undefined
      throw error
    }
  }

  async #fetchAny(id: string, query: BlockingQuery): Promise<AgentResponse<RegisteredProxy>> {
    try {
      return await fetchProxy(this.#agent, id, query)
    } catch (error) {
      if (!isNotFound(error)) throw error
      // Agents before 1.6 have managed proxies, and those before 1.3 nothing else.
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
      id === undefined
        ? 'register one, with the DestinationServiceID of the instance'
        : 'choose one by its id'
    throw new ConnectError(
      'ERR_CONNECT_PROXY',
      `expected one proxy registered for the service instance ${sidecarFor} on this agent, found ${found}: ${advice}`,
    )
  }
}

/** @throws OptionError */
function proxySelector(given: unknown): ProxySelector {
  const selector = expectObject('selector', given)
  expectKeys('selector', selector, ['proxyId', 'sidecarFor'])
  const { proxyId, sidecarFor } = selector
  if ((proxyId === undefined) === (sidecarFor === undefined)) {
    const found = proxyId === undefined ? 'neither' : 'both'
    throw new OptionError('selector', 'either proxyId or sidecarFor', found)
  }
  return proxyId === undefined
    ? { sidecarFor: expectName('selector.sidecarFor', sidecarFor) }
    : { proxyId: expectName('selector.proxyId', proxyId) }
}

/**
 * What is registered, as the configuration that it means. What stands in the proxy's own `config` was written for it,
 * and comes before the fields that an agent fills in.
 */
function toConfig(proxy: RegisteredProxy): ProxyConfig {
  const { id, kind, service, config, upstreams } = proxy
  if (kind !== 'connect-proxy' || service === undefined) {
    const found = kind === '' ? 'an ordinary service' : `of kind ${kind}`
    throw new ConnectError(
      'ERR_CONNECT_PROXY',
      `expected ${id} to be registered as a proxy (Kind: connect-proxy, with a destination), found ${found}`,
    )
  }
  const own = normalize('config', config)
  const parsed = parseProxyConfig({
    bind_address: proxy.address,
    bind_port: proxy.port,
    local_service_address: proxy.localSocketPath === undefined ? proxy.localAddress : undefined,
    local_service_port: proxy.localSocketPath === undefined ? proxy.localPort : undefined,
    local_service_socket_path: proxy.localSocketPath,
    ...own,
    // Consul 1.2 had them inside the configuration.
    upstreams: upstreams.length > 0 ? upstreams : own['upstreams'],
    service,
    namespace: proxy.namespace,
    partition: proxy.partition,
  })
  if (proxy.mode === undefined || proxy.mode === 'direct') return parsed
  const warning = `Proxy.Mode: ${proxy.mode} is not supported; the listeners are those that are configured`
  return { ...parsed, warnings: [...parsed.warnings, warning] }
}

function isNotFound(error: unknown): boolean {
  return error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND'
}
