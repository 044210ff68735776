import { isDeepStrictEqual } from 'node:util'
import { type AgentOptions, type Service, service } from 'consul-connect'
import type { ProxyConfig, ProxyListener } from 'consul-connect/proxy'
import { addressOf } from './address.js'
import { EventLog } from './event-log.js'
import { Inbound } from './inbound.js'
import type { Log } from './log.js'
import { Metrics } from './metrics.js'
import { FOREVER_MS } from './opening.js'
import { Outbound } from './outbound.js'
import type { Standby } from './standby.js'
import { Traffic } from './traffic.js'

/** How things stand, for whoever operates it. */
export interface ProxyStatus {
  readonly ready: boolean
  /** What is missing, in words; empty when it is ready. */
  readonly missing: readonly string[]
}

export interface ProxyOptions {
  readonly agent: AgentOptions
  readonly ecdhCurve: string | undefined
  readonly log: Log
  readonly onListening: (service: Service, listener: ProxyListener) => void
  /** For a proxy that replaces a running one. */
  readonly standby?: Standby | undefined
}

/** The proxy in one process: a service of the mesh, its public listener and its upstreams, changed by difference. */
export class Proxy {
  readonly #options: ProxyOptions
  readonly #traffic: Traffic
  readonly #metrics: Metrics
  readonly #events: EventLog
  readonly #closing = new Map<Member, Promise<void>>()
  #member: Member | undefined
  #isEnding = false

  constructor(options: ProxyOptions) {
    this.#options = options
    this.#traffic = new Traffic(options.log)
    this.#metrics = new Metrics(this.#traffic)
    this.#events = new EventLog(options.log)
  }

  /** Takes another configuration: what is the same goes on, with its connections. */
  apply(config: ProxyConfig): void {
    if (this.#isEnding) return
    const before = this.#member
    if (before === undefined || !before.isFor(config)) {
      // Another identity has nothing in common with this one.
      if (before !== undefined) this.#end(before, before.drainTimeoutMs)
      const parts = { traffic: this.#traffic, metrics: this.#metrics, isEnding: () => this.#isEnding }
      this.#member = new Member(config, { ...this.#options, ...parts })
      this.#metrics.follow(this.#member.service)
    }
    this.#member?.apply(config)
    this.#options.standby?.configured()
  }

  status(): ProxyStatus {
    const missing = this.#member?.missing() ?? ['a configuration']
    return {
      ready: missing.length === 0 && !this.#isEnding,
      missing: this.#isEnding ? ['it is ending'] : missing,
    }
  }

  metrics(): Promise<string> {
    return this.#metrics.registry.metrics()
  }

  /** The same for another process to put together with those of others. */
  metricsAsJson(): Promise<object> {
    return this.#metrics.registry.getMetricsAsJSON()
  }

  /** Accepts no more, waits for open connections, and cuts those that are left. */
  async close(): Promise<void> {
    this.#isEnding = true
    if (this.#member !== undefined) this.#end(this.#member, this.#member.drainTimeoutMs)
    this.#member = undefined
    await Promise.all(this.#closing.values())
    await this.#traffic.settled()
    this.#metrics.close()
    this.#events.close()
  }

  cut(): void {
    for (const { service } of this.#closing.keys()) service.destroy()
  }

  #end(member: Member, drainTimeoutMs: number): void {
    const closed = member.close(drainTimeoutMs).finally(() => this.#closing.delete(member))
    this.#closing.set(member, closed)
  }
}

interface MemberOptions extends ProxyOptions {
  readonly traffic: Traffic
  readonly metrics: Metrics
  readonly isEnding: () => boolean
}

/** One identity and everything that is done with it. */
class Member {
  readonly service: Service
  readonly #options: MemberOptions
  readonly #inbound: Inbound
  readonly #outbounds = new Map<string, Outbound>()
  #config: ProxyConfig

  constructor(config: ProxyConfig, options: MemberOptions) {
    const { namespace, partition, drainTimeoutMs } = config
    const agent = {
      ...options.agent,
      ...(namespace !== undefined && { namespace }),
      ...(partition !== undefined && { partition }),
    }
    const { ecdhCurve } = options
    const tls = ecdhCurve === undefined ? {} : { ecdhCurve }
    this.service = service(config.service, { agent, drainTimeoutMs, ...tls })
    this.#options = options
    this.#config = config
    logEvents(this.service, options.log)
    const onOpen = (listener: ProxyListener): void => {
      options.onListening(this.service, listener)
    }
    const { standby } = options
    this.#inbound = new Inbound({ ...options, standby, onOpen, service: this.service })
  }

  get drainTimeoutMs(): number {
    return this.#config.drainTimeoutMs
  }

  isFor({ service, namespace, partition }: ProxyConfig): boolean {
    const own = this.#config
    return own.service === service && own.namespace === namespace && own.partition === partition
  }

  apply(config: ProxyConfig): void {
    this.#config = config
    this.#inbound.apply(config.listener)
    const wanted = new Map(config.upstreams.map((upstream) => [addressOf(upstream.bind), upstream]))
    // First what goes, since something else may be to listen where it did.
    for (const [address, outbound] of this.#outbounds) {
      const next = wanted.get(address)
      if (isDeepStrictEqual(outbound.upstream, next)) continue
      this.#outbounds.delete(address)
      this.#options.log.info('upstream is closed', { upstream: outbound.name, address })
      // Connections to where it leads still are left to their ends, which nothing waits for.
      const isTuned = next !== undefined && isDeepStrictEqual(outbound.upstream.target, next.target)
      void outbound.close(isTuned ? FOREVER_MS : config.drainTimeoutMs)
    }
    for (const [address, upstream] of wanted) {
      if (this.#outbounds.has(address)) continue
      const { standby } = this.#options
      this.#outbounds.set(
        address,
        new Outbound(upstream, { ...this.#options, standby, service: this.service }),
      )
    }
  }

  missing(): string[] {
    const { leaf } = this.service
    const missing: string[] = []
    if (leaf === undefined) missing.push('a certificate')
    else if (leaf.notAfter.getTime() <= Date.now()) missing.push('a certificate that has not expired')
    if (this.#inbound.isOpen === false) missing.push(`the public listener${because(this.#inbound.error)}`)
    for (const { name, isOpen, error } of this.#outbounds.values())
      if (!isOpen) missing.push(`the listener of ${name}${because(error)}`)
    return missing
  }

  async close(drainTimeoutMs: number): Promise<void> {
    // All drain at once; the service waits for its listeners and forwards.
    void this.#inbound.close(drainTimeoutMs)
    for (const outbound of this.#outbounds.values()) void outbound.close(drainTimeoutMs)
    await this.service.close({ drainTimeoutMs })
  }
}

function because(error: Error | undefined): string {
  return error === undefined ? '' : `: ${error.message}`
}

function logEvents(service: Service, log: Log): void {
  service.on('rotated', ({ uri, notAfter }) => {
    log.info('certificate is in use', { uri, expires: notAfter.toISOString() })
  })
  service.on('roots', ({ trustDomain, pems }) => {
    log.info('roots are in use', { trust_domain: trustDomain, roots: pems.length })
  })
  service.on('denied', (error) => {
    log.warn(error.message)
  })
  service.on('revoked', (error) => {
    log.warn(error.message)
  })
  service.on('rejected', (error, remoteAddress) => {
    log.warn(`a connection was rejected: ${error.message}`, { remote: remoteAddress })
  })
  service.on('stale', ({ deniesAt }) => {
    log.warn('the agent is away, the last known intentions serve', { denies_at: deniesAt.toISOString() })
  })
  service.on('fresh', () => {
    log.info('the agent is back')
  })
  service.on('warning', (error) => {
    log.warn(error.message)
  })
}
