/** After this long without another refusal the limit doubles, up to what was configured. */
const RECOVERY_MS = 60_000

/** A place that a blocking query holds. */
interface Holder {
  /** Whether it belongs to a watch whose number grows with the application's upstreams. */
  readonly isUpstream: boolean
  /** Ends the query, so that its connection is free. */
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
 * Limits how many blocking queries are open at the agent. Each of them holds a connection, of which an agent takes 200
 * from one address by default (`limits.http_max_conns_per_client`), from all programs together.
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

  /** The same slots for upstreams, which may fill only this share of them and leave the rest to the service itself. */
  forUpstreams(share: number): BlockingSlots {
    return new BlockingSlots(this.#shared, true, share)
  }

  get isFull(): boolean {
    return this.#shared.holders.size >= Math.max(1, Math.floor(this.#limit * this.#share))
  }

  /**
   * Takes a slot, whether or not it is full: callers that may poll instead ask first.
   * @returns a function that gives the slot back
   */
  take(evict: () => void): () => void {
    const { holders } = this.#shared
    const holder = { isUpstream: this.#isUpstream, evict }
    holders.add(holder)
    return () => holders.delete(holder)
  }

  /** The agent accepts no more connections: halves the limit, and ends queries of upstreams that are above it. */
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
