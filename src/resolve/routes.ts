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

/** A resolver of ours, that holds something between two uses. */
interface HeldResolver extends Resolver {
  /** False while somebody waits for it, where that can take longer than the idle time. */
  readonly isIdle?: boolean
  /** Lets go of what it watches; it can be used again. */
  stop?(): void
  close?(): void
}

interface HeldRoute extends Route {
  readonly resolver: HeldResolver
  usedAt: number
  cancelTimer: () => void
}

/** The routes that the services of a process share, one for each target, for as long as somebody uses them. */
export class Routes {
  readonly #agent: AgentClient
  readonly #dns: DnsClient
  readonly #time: Time
  readonly #held = new Map<string, HeldRoute>()
  // Whose resolver it is decides how long it lives.
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
    const key = JSON.stringify(target)
    const held = this.#held.get(key) ?? this.#hold(key, target)
    held.usedAt = this.#time.clock.now()
    return held
  }

  close(): void {
    for (const { resolver, cancelTimer } of this.#held.values()) {
      cancelTimer()
      resolver.close?.()
    }
    this.#held.clear()
  }

  #balancerOf(resolver: Resolver): Balancer {
    const balancer = this.#balancers.get(resolver) ?? new Balancer(this.#time)
    this.#balancers.set(resolver, balancer)
    return balancer
  }

  #hold(key: string, target: Target): HeldRoute {
    const held: HeldRoute = {
      resolver: this.#resolver(target),
      balancer: new Balancer(this.#time),
      usedAt: this.#time.clock.now(),
      cancelTimer: () => undefined,
    }
    this.#held.set(key, held)
    this.#armTimer(key, held, DEFAULTS.upstreamIdleMs)
    return held
  }

  #resolver({ kind, ...target }: Target): HeldResolver {
    switch (kind) {
      case 'service':
        return new HealthResolver(this.#agent, target as Target & { kind: 'service' }, this.#time)
      case 'query':
        return new QueryResolver(this.#agent, target as Target & { kind: 'query' }, this.#time.clock)
      case 'dns':
        return new DnsResolver(this.#dns, target as Target & { kind: 'dns' }, this.#time.clock)
      case 'address':
        return new StaticResolver(target as Target & { kind: 'address' })
    }
  }

  #armTimer(key: string, held: HeldRoute, ms: number): void {
    held.cancelTimer = this.#time.clock.after(ms, () => {
      const idleMs = this.#time.clock.now() - held.usedAt
      const isIdle = held.resolver.isIdle !== false
      if (isIdle && idleMs >= DEFAULTS.upstreamIdleMs) this.#letGo(key, held)
      else this.#armTimer(key, held, Math.max(1_000, DEFAULTS.upstreamIdleMs - idleMs))
    })
  }

  #letGo(key: string, held: HeldRoute): void {
    held.resolver.stop?.()
    // Open connections count in the next choice, whenever that is.
    if (!held.balancer.isIdle) {
      this.#armTimer(key, held, DEFAULTS.upstreamIdleMs)
      return
    }
    held.resolver.close?.()
    this.#held.delete(key)
  }
}
