import type { Clock } from './clock.js'

/** Limits a rate: allows a burst, and then a number of tokens per second. */
export class TokenBucket {
  readonly #clock: Clock
  readonly #burst: number
  readonly #perSecond: number
  #tokens: number
  #filledAt: number

  constructor(clock: Clock, { burst, perSecond }: { readonly burst: number; readonly perSecond: number }) {
    this.#clock = clock
    this.#burst = burst
    this.#perSecond = perSecond
    this.#tokens = burst
    this.#filledAt = clock.now()
  }

  /** Takes a token, possibly in advance. @returns the time until it is available, in milliseconds */
  take(): number {
    this.#fill()
    this.#tokens -= 1
    return this.#tokens >= 0 ? 0 : Math.ceil((-this.#tokens * 1000) / this.#perSecond)
  }

  /** Takes a token if one is available. @returns whether one was */
  tryTake(): boolean {
    this.#fill()
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }

  /** Returns an unused token. */
  giveBack(): void {
    this.#tokens += 1
  }

  #fill(): void {
    const now = this.#clock.now()
    // The clock may have been set back.
    const filled = (Math.max(0, now - this.#filledAt) * this.#perSecond) / 1000
    this.#tokens = Math.min(this.#burst, this.#tokens + filled)
    this.#filledAt = now
  }
}
