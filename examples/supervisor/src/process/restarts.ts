/** So many starts follow each other at once. */
const AT_ONCE = 3
const MAX_WAIT_MS = 60_000
/** One that has lived so long was healthy. */
const HEALTHY_MS = 10_000

/** When a proxy that ended is started again, as Consul 1.2 to 1.5 did it: three times at once, then after 2, 4, 8 s. */
export class Restarts {
  #attempts = 0

  /** How long to wait before the next start, in milliseconds. */
  get waitMs(): number {
    return this.#attempts < AT_ONCE ? 0 : Math.min(MAX_WAIT_MS, 1_000 * 2 ** (this.#attempts - AT_ONCE + 1))
  }

  started(): void {
    this.#attempts += 1
  }

  /** A clock that jumps changes nothing: the time is measured by whoever calls. */
  ended(aliveMs: number): void {
    if (aliveMs >= HEALTHY_MS) this.#attempts = 0
  }

  /** For a start that somebody asked for. */
  reset(): void {
    this.#attempts = 0
  }
}
