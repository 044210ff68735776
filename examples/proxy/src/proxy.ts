import { isDeepStrictEqual } from 'node:util'
import { type AgentOptions, type Service, type ServiceOptions, service } from 'consul-connect'
import type { ProxyConfig, ProxyListener } from 'consul-connect/proxy'
import { EventLog } from './operator/event-log.js'
import { formatAddress } from './operator/format-address.js'
import { Inbound } from './listeners/inbound.js'
import type { Log } from './operator/log.js'
import { Metrics } from './operator/metrics.js'
import { Outbound } from './listeners/outbound.js'
import { NO_DRAIN_LIMIT_MS } from './listeners/retrying-listener.js'
import type { Standby } from './workers/standby.js'
import { Traffic } from './listeners/traffic.js'

/** The readiness of a proxy, served at `/ready`. */
export interface ProxyStatus {
  readonly ready: boolean
  /** Reasons why the proxy is not ready, as text. */
  readonly missing: readonly string[]
}

/** Options of all connections of the proxy to other services. */
export type ConnectionOptions = Pick<ServiceOptions, 'ecdhCurve' | 'mux'>

export interface ProxyOptions {
  readonly agent: AgentOptions
  readonly connections: ConnectionOptions
  readonly log: Log
  readonly onListening: (service: Service, listener: ProxyListener) => void
  /** Set only in a proxy that replaces a running one. */
  readonly standby?: Standby | undefined
}

/**
 * The proxy in one process. Each configuration is compared with the current one: unchanged listeners and their connections
 * are not touched. A change of service, namespace, or partition replaces everything.
 */
export class Proxy {
  readonly #options: ProxyOptions
  readonly #traffic: Traffic
  readonly #metrics: Metrics
  readonly #events: EventLog
  readonly #closing = new Map<ServiceProxy, Promise<void>>()
  #current: ServiceProxy | undefined
  #isShuttingDown = false

  constructor(options: ProxyOptions) {
    this.#options = options
    this.#traffic = new Traffic(options.log)
    this.#metrics = new Metrics(this.#traffic)
    this.#events = new EventLog(options.log)
  }

  /** Applies a configuration. */
  apply(config: ProxyConfig): void {
    if (this.#isShuttingDown) return
    const previous = this.#current
    if (previous === undefined || !previous.isFor(config)) {
      if (previous !== undefined) this.#close(previous)
      const shared = {
        traffic: this.#traffic,
        metrics: this.#metrics,
        isShuttingDown: () => this.#isShuttingDown,
      }
      this.#current = new ServiceProxy(config, { ...this.#options, ...shared })
      this.#metrics.setService(this.#current.service)
    }
    this.#current?.apply(config)
    this.#options.standby?.configured()
  }

  status(): ProxyStatus {
    const missing = this.#current?.missing() ?? ['configuration']
    return {
      ready: missing.length === 0 && !this.#isShuttingDown,
      missing: this.#isShuttingDown ? ['shutting down'] : missing,
    }
  }

  metrics(): Promise<string> {
    return this.#metrics.registry.metrics()
  }

  /** Returns the metrics in a form that another process can aggregate. */
  metricsAsJson(): Promise<object> {
    return this.#metrics.registry.getMetricsAsJSON()
  }

  /** Stops listening, waits for open connections up to the drain timeout, and resets the remaining ones. */
  async close(): Promise<void> {
    this.#isShuttingDown = true
    if (this.#current !== undefined) this.#close(this.#current)
    this.#current = undefined
    await Promise.all(this.#closing.values())
    await this.#traffic.settled()
    this.#metrics.close()
    this.#events.close()
  }

  /** Resets the connections that are still open. Call it after `close()`. */
  cut(): void {
    for (const { service } of this.#closing.keys()) service.destroy()
  }

  #close(proxy: ServiceProxy): void {
    const closed = proxy.close().finally(() => this.#closing.delete(proxy))
    this.#closing.set(proxy, closed)
  }
}

interface ServiceProxyOptions extends ProxyOptions {
  readonly traffic: Traffic
  readonly metrics: Metrics
  readonly isShuttingDown: () => boolean
}

/** The proxy of one service identity: its certificate, its public listener, and its upstreams. */
class ServiceProxy {
  readonly service: Service
  readonly #options: ServiceProxyOptions
  readonly #inbound: Inbound
  readonly #outbounds = new Map<string, Outbound>()
  #config: ProxyConfig

  constructor(config: ProxyConfig, options: ServiceProxyOptions) {
    const { namespace, partition, drainTimeoutMs } = config
    const agent = {
      ...options.agent,
      ...(namespace !== undefined && { namespace }),
      ...(partition !== undefined && { partition }),
    }
    this.service = service(config.service, { agent, drainTimeoutMs, ...options.connections })
    this.#options = options
    this.#config = config
    logServiceEvents(this.service, options.log)
    const onOpen = (listener: ProxyListener): void => {
      options.onListening(this.service, listener)
    }
    const { standby } = options
    this.#inbound = new Inbound({ ...options, standby, onOpen, service: this.service })
  }

  /** Whether a configuration is for the same service, namespace, and partition. */
  isFor({ service, namespace, partition }: ProxyConfig): boolean {
    const current = this.#config
    return current.service === service && current.namespace === namespace && current.partition === partition
  }

  apply(config: ProxyConfig): void {
    this.#config = config
    this.#inbound.apply(config.listener)
    const upstreams = new Map(config.upstreams.map((upstream) => [formatAddress(upstream.bind), upstream]))
    // Close old listeners first, so that new ones can use their addresses.
    for (const [address, outbound] of this.#outbounds) {
      const next = upstreams.get(address)
      if (isDeepStrictEqual(outbound.upstream, next)) continue
      this.#outbounds.delete(address)
      this.#options.log.info('upstream is closed', { upstream: outbound.name, address })
      // Connections stay open if only settings of the upstream have changed. Nothing waits for their end.
      const isSameDestination =
        next !== undefined && isDeepStrictEqual(outbound.upstream.destination, next.destination)
      void outbound.close(isSameDestination ? NO_DRAIN_LIMIT_MS : config.drainTimeoutMs)
    }
    for (const [address, upstream] of upstreams) {
      if (this.#outbounds.has(address)) continue
      const { standby } = this.#options
      this.#outbounds.set(
        address,
        new Outbound(upstream, { ...this.#options, standby, service: this.service }),
      )
    }
  }

  /** Lists reasons why the proxy is not ready. */
  missing(): string[] {
    const { leaf } = this.service
    const missing: string[] = []
    if (leaf === undefined) missing.push('certificate')
    else if (leaf.notAfter.getTime() <= Date.now()) missing.push('certificate: expired')
    if (this.#inbound.isOpen === false) missing.push(`public listener${formatReason(this.#inbound.error)}`)
    for (const { name, isOpen, error } of this.#outbounds.values())
      if (!isOpen) missing.push(`listener of ${name}${formatReason(error)}`)
    return missing
  }

  /** Drains and closes all listeners. */
  async close(): Promise<void> {
    const { drainTimeoutMs } = this.#config
    // Not awaited: the service waits for all its listeners and forwards, which drain in parallel.
    void this.#inbound.close(drainTimeoutMs)
    for (const outbound of this.#outbounds.values()) void outbound.close(drainTimeoutMs)
    await this.service.close({ drainTimeoutMs })
  }
}

function formatReason(error: Error | undefined): string {
  return error === undefined ? '' : `: ${error.message}`
}

function logServiceEvents(service: Service, log: Log): void {
  service.on('rotated', ({ uri, notAfter }) => {
    log.info('certificate in use', { uri, expires: notAfter.toISOString() })
  })
  service.on('roots', ({ trustDomain, pems }) => {
    log.info('CA roots in use', { trust_domain: trustDomain, roots: pems.length })
  })
  service.on('denied', (error) => {
    log.warn(error.message)
  })
  service.on('requestDenied', (error, count) => {
    log.warn(error.message, { peer: error.peer.spiffeId, status: error.status, requests: count })
  })
  service.on('revoked', (error) => {
    log.warn(error.message)
  })
  service.on('rejected', (error, remoteAddress) => {
    log.warn(`inbound connection rejected: ${error.message}`, { remote: remoteAddress })
  })
  service.on('stale', ({ deniesAt }) => {
    log.warn('agent unreachable; using the last known intentions', { denies_at: deniesAt.toISOString() })
  })
  service.on('fresh', () => {
    log.info('agent reachable again')
  })
  service.on('warning', (error) => {
    log.warn(error.message)
  })
}
