import type { ActiveUpstream } from '../../resolve/active-upstream.js'
import { type RequestChoice, endpointKey } from '../../resolve/balancing/balancer.js'
import type { Endpoint } from '../../resolve/resolver.js'
import type { OriginPool } from '../origin-pool.js'
import { mayRetry } from './retry.js'

export interface LegSettings {
  /** Resolves the upstream within the deadline of a dial. */
  readonly resolve: () => Promise<readonly Endpoint[]>
  /** Creates a pool for the connections to an instance. */
  readonly newPool: (endpoint: Endpoint) => OriginPool
}

/** A leg of the routes of a service: its pending requests, and a pool for each instance. */
export class RequestLeg {
  readonly upstream: ActiveUpstream
  /** The number of pending requests, and of those among them that are sent again. */
  pending = 0
  retrying = 0
  readonly #settings: LegSettings
  /** By the key of the endpoint. */
  readonly #pools = new Map<string, OriginPool>()

  constructor(upstream: ActiveUpstream, settings: LegSettings) {
    this.upstream = upstream
    this.#settings = settings
  }

  get mayRetry(): boolean {
    return mayRetry(this.pending, this.retrying)
  }

  get pools(): Iterable<OriginPool> {
    return this.#pools.values()
  }

  poolOf(endpoint: Endpoint): OriginPool {
    const key = endpointKey(endpoint)
    const known = this.#pools.get(key)
    if (known !== undefined) return known
    const pool = this.#settings.newPool(endpoint)
    this.#pools.set(key, pool)
    return pool
  }

  forget(pool: OriginPool): void {
    for (const [key, each] of this.#pools) if (each === pool) this.#pools.delete(key)
  }

  /**
   * Chooses an instance for a request. Does not wait if the instances are known.
   * @param tried - the instances that failed for this request; the chosen one is added
   */
  choose(tried: Set<object> | undefined, hash: bigint | undefined): RequestChoice | Promise<RequestChoice> {
    const known = this.upstream.resolver.known?.()
    const choice = known === undefined ? undefined : this.#chooseFrom(known, tried, hash)
    return choice ?? this.#chooseLater(tried, hash)
  }

  async #chooseLater(tried: Set<object> | undefined, hash: bigint | undefined): Promise<RequestChoice> {
    const choice = this.#chooseFrom(await this.#settings.resolve(), tried, hash)
    // A resolution never returns an empty list.
    if (choice === undefined) throw new Error(`no instance of ${this.upstream.resolver.name}`)
    return choice
  }

  #chooseFrom(
    endpoints: readonly Endpoint[],
    tried: Set<object> | undefined,
    hash: bigint | undefined,
  ): RequestChoice | undefined {
    const { resolver, balancer } = this.upstream
    return balancer.chooseForRequest(endpoints, resolver.isSorted === true, tried, hash)
  }
}
