/** The first wait after a failure, and the longest. */
const FIRST_MS = 2_000
const LONGEST_MS = 30_000

interface Failure {
  readonly retryAt: number
  readonly waitMs: number
  readonly problem: string
}

/** What has failed, and when it is to be tried again. */
export class Retries {
  readonly #failures = new Map<string, Failure>()

  /** What is wrong; undefined for nothing. */
  problem(id: string): string | undefined {
    return this.#failures.get(id)?.problem
  }

  isDue(id: string): boolean {
    const failure = this.#failures.get(id)
    return failure === undefined || performance.now() >= failure.retryAt
  }

  /** @param isSoon whether it may succeed as soon as the agent is back */
  failed(id: string, problem: string, isSoon: boolean): void {
    const before = this.#failures.get(id)?.waitMs
    const waitMs = isSoon || before === undefined ? FIRST_MS : Math.min(LONGEST_MS, before * 2)
    this.#failures.set(id, { retryAt: performance.now() + waitMs, waitMs, problem })
  }

  succeeded(id: string): void {
    this.#failures.delete(id)
  }

  /** Everything may have been mended. */
  clear(): void {
    this.#failures.clear()
  }
}
