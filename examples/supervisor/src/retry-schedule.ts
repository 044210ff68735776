/** First and longest delay between attempts. */
const FIRST_MS = 2_000
const LONGEST_MS = 30_000

interface Failure {
  readonly retryAt: number
  readonly waitMs: number
  readonly problem: string
}

/** Tracks failed operations by id, and delays the next attempt of each. */
export class RetrySchedule {
  readonly #failures = new Map<string, Failure>()

  /** The message of the last failure; undefined if the last attempt succeeded. */
  problem(id: string): string | undefined {
    return this.#failures.get(id)?.problem
  }

  isDue(id: string): boolean {
    const failure = this.#failures.get(id)
    return failure === undefined || performance.now() >= failure.retryAt
  }

  /**
   * Records a failure. The delay doubles with each one.
   * @param isSoon - keeps the shortest delay, for failures that end when the agent is reachable again
   */
  failed(id: string, problem: string, isSoon: boolean): void {
    const before = this.#failures.get(id)?.waitMs
    const waitMs = isSoon || before === undefined ? FIRST_MS : Math.min(LONGEST_MS, before * 2)
    this.#failures.set(id, { retryAt: performance.now() + waitMs, waitMs, problem })
  }

  succeeded(id: string): void {
    this.#failures.delete(id)
  }

  /** Makes everything due at once, for example after a reload. */
  clear(): void {
    this.#failures.clear()
  }
}
