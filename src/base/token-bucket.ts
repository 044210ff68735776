import type { Clock } from './clock.js'

/** Limits a rate: a burst at once, then as many a second as given. */
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

  /** Takes a token, even ahead of its time; returns how long to wait for it, in milliseconds. */
  take(): number {
    this.#fill()
    this.#tokens -= 1
    return this.#tokens >= 0 ? 0 : Math.ceil((-this.#tokens * 1000) / this.#perSecond)
  }

  /** Takes a token if there is one; returns whether there was. */
  tryTake(): boolean {
    this.#fill()
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }

  /** Returns a token that was taken and not used. */
  giveBack(): void {
    this.#tokens += 1
  }

  #fill(): void {
    const now = this.#clock.now()
    // A clock that was set back fills nothing.
    const filled = (Math.max(0, now - this.#filledAt) * this.#perSecond) / 1000
    this.#tokens = Math.min(this.#burst, this.#tokens + filled)
    this.#filledAt = now
  }
}
