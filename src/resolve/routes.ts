import type { AgentClient } from '../agent/client.js'
import { DnsClient } from '../agent/dns.js'
import type { Time } from '../clock.js'
import { DEFAULTS } from '../options.js'
import { Balancer } from './balance.js'
import { DnsResolver } from './dns.js'
import { HealthResolver } from './health.js'
import { QueryResolver } from './query.js'
import type { Resolver } from './resolver.js'
import { StaticResolver } from './static.js'
import { type Target, type Upstream, isResolver, toTarget } from './upstream.js'

/** The way to an upstream: where its instances are, and which of them to take. */
export interface Route {
  readonly resolver: Resolver
  readonly balancer: Balancer
}

/** A resolver of ours. */
interface OwnResolver extends Resolver {
  /** Whether nobody waits for it now. @default true */
  readonly isIdle?: boolean
  /** Lets go of what it watches; it can be used again. */
  stop?(): void
  close?(): void
}

interface HeldRoute extends Route {
  readonly resolver: OwnResolver
  usedAt: number
  cancelTimer: () => void
}

/** Names may come from anywhere, and each holds a watch: of more than these, those go that were used longest ago. */
const MOST_HELD = 2_048

/** The routes that the services of a process share, one for each target, for as long as somebody uses them. */
export class Routes {
  readonly #agent: AgentClient
  readonly #dns: DnsClient
  readonly #time: Time
  // The one that was used last comes last.
  readonly #held = new Map<string, HeldRoute>()
  // A user's own resolver lives as long as its user wants.
  readonly #balancers = new WeakMap<Resolver, Balancer>()

  constructor(agent: AgentClient, time: Time) {
    this.#agent = agent
    this.#dns = new DnsClient(agent.settings.dnsAddress, time.clock)
    this.#time = time
  }

  /**
   * The route to an upstream.
   * @throws OptionError
   */
  to(upstream: Upstream): Route {
    if (isResolver(upstream)) return { resolver: upstream, balancer: this.#balancerOf(upstream) }
    const target = toTarget(upstream)
    // With a single address there is nothing to choose, and nothing to remember.
    if (target.kind === 'address' && target.address.length === 1) return this.#route(target)
    const key = JSON.stringify(target)
    const held = this.#held.get(key) ?? this.#hold(key, target)
    held.usedAt = this.#time.clock.now()
    this.#held.delete(key)
    this.#held.set(key, held)
    return held
  }

  close(): void {
    for (const [key, held] of this.#held) this.#drop(key, held)
  }

  #balancerOf(resolver: Resolver): Balancer {
    const balancer = this.#balancers.get(resolver) ?? new Balancer(this.#time)
    this.#balancers.set(resolver, balancer)
    return balancer
  }

  #hold(key: string, target: Target): HeldRoute {
    if (this.#held.size >= MOST_HELD) {
      for (const [oldKey, old] of this.#held) {
        if (old.resolver.isIdle === false) continue
        this.#drop(oldKey, old)
        break
      }
    }
    const held = { ...this.#route(target), usedAt: this.#time.clock.now(), cancelTimer: () => undefined }
    this.#armTimer(key, held, DEFAULTS.upstreamIdleMs)
    return held
  }

  #route(target: Target): Route & { readonly resolver: OwnResolver } {
    return { resolver: this.#resolver(target), balancer: new Balancer(this.#time) }
  }

  #resolver(target: Target): OwnResolver {
    switch (target.kind) {
      case 'service':
        return new HealthResolver(this.#agent, target, this.#time)
      case 'query':
        return new QueryResolver(this.#agent, target, this.#time.clock)
      case 'dns':
        return new DnsResolver(this.#dns, target, this.#time.clock)
      case 'address':
        return new StaticResolver(target)
    }
  }

  #armTimer(key: string, held: HeldRoute, ms: number): void {
    held.cancelTimer = this.#time.clock.after(ms, () => {
      const leftMs = held.usedAt + DEFAULTS.upstreamIdleMs - this.#time.clock.now()
      if (leftMs > 0) this.#armTimer(key, held, leftMs)
      else this.#letGo(key, held)
    })
  }

  #letGo(key: string, held: HeldRoute): void {
    const { resolver, balancer } = held
    const isAwaited = resolver.isIdle === false
    if (!isAwaited) resolver.stop?.()
    // Open connections count in the next choice, whenever that is.
    if (isAwaited || !balancer.isIdle) this.#armTimer(key, held, DEFAULTS.upstreamIdleMs)
    else this.#drop(key, held)
  }

  #drop(key: string, { resolver, cancelTimer }: HeldRoute): void {
    cancelTimer()
    resolver.close?.()
    this.#held.delete(key)
  }
}
