import { EventEmitter } from 'eventemitter3'
import type { ActiveUpstream } from './active-upstream.js'
import type { AgentClient } from '../agent/client.js'
import { DnsClient } from '../agent/dns/client.js'
import type { Time } from '../base/clock.js'
import { DEFAULTS } from '../base/options/validate.js'
import { Balancer } from './balancing/balancer.js'
import { DnsResolver } from './dns-resolver.js'
import { ChainChanges } from './chain/chain-changes.js'
import { InstanceWatches } from './chain/instance-watches.js'
import { MeshGateways } from './chain/mesh-gateways.js'
import { type ChainContext, ServiceResolver } from './chain/service-resolver.js'
import { QueryResolver } from './query-resolver.js'
import type { Resolver } from './resolver.js'
import { StaticResolver } from './static-resolver.js'
import { type ParsedUpstream, type Upstream, isResolver, parseUpstream } from './upstream.js'

/** An upstream in use. */
export interface UpstreamLease extends ActiveUpstream {
  /** The resolver of a service, whose chain may have routes for requests; undefined for any other upstream. */
  readonly service: ServiceResolver | undefined
  readonly release: () => void
}

/** A resolver of this library. */
interface OwnResolver extends Resolver {
  /** Whether it has no instances. */
  readonly isEmpty?: boolean
  /** Ends its watches. It can be used again. */
  stop?(): void
  close?(): void
}

interface HeldUpstream extends ActiveUpstream {
  readonly resolver: OwnResolver
  users: number
  usedAt: number
  cancelTimer: () => void
}

/** Upper bound on upstreams, each of which may hold a watch: names may come from untrusted input. */
const MOST_HELD = 2_048

interface UpstreamRegistryEvents {
  /** The instances of an upstream can no longer be read; the last known ones stay in use. */
  failed: [error: Error]
}

/** The upstreams of all services of a process: one entry for each distinct upstream, kept while in use. */
export class UpstreamRegistry extends EventEmitter<UpstreamRegistryEvents> {
  readonly #agent: AgentClient
  readonly #dns: DnsClient
  readonly #time: Time
  readonly #chains: ChainContext
  /** The last used one is last. */
  readonly #held = new Map<string, HeldUpstream>()
  /** Balancers of resolvers of the application, which owns them. */
  readonly #balancers = new WeakMap<Resolver, Balancer>()

  constructor(agent: AgentClient, time: Time) {
    super()
    this.#agent = agent
    this.#dns = new DnsClient(agent.settings.dnsAddress, time.clock)
    this.#time = time
    const onFailed = (error: Error): void => {
      this.emit('failed', error)
    }
    this.#chains = {
      agent,
      time,
      instances: new InstanceWatches({ agent, time, onFailed }),
      gateways: new MeshGateways(agent, time),
      changes: new ChainChanges(agent, time),
      onFailed,
    }
  }

  /**
   * Returns the resolver and the balancer of an upstream.
   * @throws OptionError
   */
  lease(upstream: Upstream): UpstreamLease {
    if (isResolver(upstream)) return unheld({ resolver: upstream, balancer: this.#balancerOf(upstream) })
    const parsed = parseUpstream(upstream)
    // A single address needs no balancer state.
    if (parsed.kind === 'address' && parsed.address.length === 1) return unheld(this.#activate(parsed))
    const key = JSON.stringify(parsed)
    const held = this.#held.get(key) ?? this.#hold(key, parsed)
    held.users += 1
    this.#touch(key, held)
    let isReleased = false
    const release = (): void => {
      if (isReleased) return
      isReleased = true
      held.users -= 1
      held.usedAt = this.#time.clock.now()
    }
    const { resolver, balancer } = held
    const service = resolver instanceof ServiceResolver ? resolver : undefined
    return { resolver, balancer, service, release }
  }

  /** Called after this process registered an instance of a service, so that the next dials find it. */
  registered(service: string): void {
    this.#chains.instances.registered(service)
  }

  close(): void {
    for (const [key, held] of this.#held) this.#drop(key, held)
    this.#chains.gateways.close()
    this.#chains.changes.close()
  }

  #balancerOf(resolver: Resolver): Balancer {
    const balancer = this.#balancers.get(resolver) ?? new Balancer(this.#time)
    this.#balancers.set(resolver, balancer)
    return balancer
  }

  #hold(key: string, parsed: ParsedUpstream): HeldUpstream {
    if (this.#held.size >= MOST_HELD) this.#makeRoom()
    const now = this.#time.clock.now()
    const held = { ...this.#activate(parsed), users: 0, usedAt: now, cancelTimer: () => undefined }
    this.#armTimer(key, held, DEFAULTS.emptyUpstreamIdleMs)
    return held
  }

  #touch(key: string, held: HeldUpstream): void {
    held.usedAt = this.#time.clock.now()
    this.#held.delete(key)
    this.#held.set(key, held)
  }

  /** Removes upstreams over the limit: those without state first, and never one in use. */
  #makeRoom(): void {
    const unused = [...this.#held].filter(([, { users }]) => users === 0)
    const [oldest] = [
      ...unused.filter(([, { resolver }]) => resolver.isEmpty === true),
      ...unused.filter(([, { balancer }]) => balancer.isIdle),
      ...unused,
    ]
    if (oldest !== undefined) this.#drop(...oldest)
  }

  #activate(parsed: ParsedUpstream): ActiveUpstream & { readonly resolver: OwnResolver } {
    return { resolver: this.#resolver(parsed), balancer: new Balancer(this.#time) }
  }

  #resolver(parsed: ParsedUpstream): OwnResolver {
    switch (parsed.kind) {
      case 'service':
        return new ServiceResolver(parsed, this.#chains)
      case 'query':
        return new QueryResolver(this.#agent, parsed, this.#time.clock)
      case 'dns':
        return new DnsResolver(this.#dns, parsed, this.#time.clock)
      case 'address':
        return new StaticResolver(parsed)
    }
  }

  #armTimer(key: string, held: HeldUpstream, ms: number): void {
    held.cancelTimer = this.#time.clock.after(ms, () => {
      const { resolver, users, usedAt } = held
      const idleMs = resolver.isEmpty === true ? DEFAULTS.emptyUpstreamIdleMs : DEFAULTS.upstreamIdleMs
      const leftMs = users > 0 ? idleMs : usedAt + idleMs - this.#time.clock.now()
      if (leftMs > 0) this.#armTimer(key, held, leftMs)
      else this.#letGo(key, held)
    })
  }

  #letGo(key: string, held: HeldUpstream): void {
    held.resolver.stop?.()
    // Open connections count in later choices.
    if (held.balancer.isIdle) this.#drop(key, held)
    else this.#armTimer(key, held, DEFAULTS.upstreamIdleMs)
  }

  #drop(key: string, { resolver, cancelTimer }: HeldUpstream): void {
    cancelTimer()
    resolver.close?.()
    this.#held.delete(key)
  }
}

function unheld(upstream: ActiveUpstream): UpstreamLease {
  return { ...upstream, service: undefined, release: () => undefined }
}
