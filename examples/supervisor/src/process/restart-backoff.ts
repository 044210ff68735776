/** Number of starts without a delay. */
const AT_ONCE = 3
const MAX_WAIT_MS = 60_000
/** A process that ran for this long counts as healthy, which resets the delay. */
const HEALTHY_MS = 10_000

/**
 * Computes the delay before each restart, as in Consul 1.2 to 1.5: three starts without a delay, then 2, 4, 8 s, up
 * to 60 s.
 */
export class RestartBackoff {
  #attempts = 0

  /** Delay before the next start, in milliseconds. */
  get waitMs(): number {
    return this.#attempts < AT_ONCE ? 0 : Math.min(MAX_WAIT_MS, 1_000 * 2 ** (this.#attempts - AT_ONCE + 1))
  }

  started(): void {
    this.#attempts += 1
  }

  /**
   * Records an exit.
   * @param aliveMs - how long the process ran, by a monotonic clock
   */
  ended(aliveMs: number): void {
    if (aliveMs >= HEALTHY_MS) this.#attempts = 0
  }

  /** Resets the delay, for a start that an operator requested. */
  reset(): void {
    this.#attempts = 0
  }
}
