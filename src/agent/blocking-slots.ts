/** After this time without another rejection, the limit doubles, up to the configured one. */
const RECOVERY_MS = 60_000

/** A slot in use by a blocking query. */
interface Holder {
  /** Whether the query watches an upstream. */
  readonly isUpstream: boolean
  /** Aborts the query, so that its connection becomes free. */
  readonly evict: () => void
}

interface Shared {
  readonly holders: Set<Holder>
  readonly now: () => number
  readonly max: number
  limit: number
  /** When the limit was set, by `now`. */
  limitedAt: number
}

/**
 * Limits the number of blocking queries at an agent. Each holds a connection, and by default an agent accepts 200
 * connections from one address (`limits.http_max_conns_per_client`), of all programs together.
 */
export class BlockingSlots {
  readonly #shared: Shared
  readonly #isUpstream: boolean
  readonly #share: number

  private constructor(shared: Shared, isUpstream: boolean, share: number) {
    this.#shared = shared
    this.#isUpstream = isUpstream
    this.#share = share
  }

  /** @param now - a monotonic clock, in milliseconds */
  static create(max: number, now: () => number = () => performance.now()): BlockingSlots {
    return new BlockingSlots({ holders: new Set(), now, max, limit: max, limitedAt: now() }, false, 1)
  }

  /** Returns a view for upstreams, which is full when this share of all slots is in use. */
  forUpstreams(share: number): BlockingSlots {
    return new BlockingSlots(this.#shared, true, share)
  }

  get isFull(): boolean {
    return this.#shared.holders.size >= Math.max(1, Math.floor(this.#limit * this.#share))
  }

  /**
   * Takes a slot, even if all are in use: callers that can poll check `isFull` first.
   * @param evict - aborts the query
   * @returns a function that releases the slot
   */
  take(evict: () => void): () => void {
    const { holders } = this.#shared
    const holder = { isUpstream: this.#isUpstream, evict }
    holders.add(holder)
    return () => holders.delete(holder)
  }

  /** Halves the limit after the agent rejected a connection, and aborts queries of upstreams above the new limit. */
  shrink(): void {
    const { holders, now } = this.#shared
    this.#shared.limit = Math.max(1, Math.floor(Math.min(this.#limit, holders.size) / 2))
    this.#shared.limitedAt = now()
    const excess = holders.size - this.#shared.limit
    const upstreams = [...holders].filter(({ isUpstream }) => isUpstream)
    for (const { evict } of upstreams.slice(0, Math.max(0, excess))) evict()
  }

  get #limit(): number {
    const { max, limit, limitedAt, now } = this.#shared
    return Math.min(max, limit * 2 ** Math.floor((now() - limitedAt) / RECOVERY_MS))
  }
}
