import { isNoAnswer } from '../agent/agent-errors.js'
import { type Backoff, backoffMs } from '../base/backoff.js'
import { type Clock, sleep } from '../base/clock.js'
import { ClosedError, DnsError, toError } from '../base/errors.js'
import { isAborted } from '../base/deadline.js'

/** A value with its time to live, in milliseconds. A TTL of 0 serves only the pending callers. */
export interface Timed<T> {
  readonly value: T
  readonly ttlMs: number
}

/** The minimum age of a value for a refresh, however often instances fail. */
const SHORTEST_REFRESH_MS = 1_000
/** How long to wait for a new value if there is an old one. */
const LONGEST_WAIT_MS = 500
/** The maximum age of a value that is used while no answer comes. */
const LONGEST_STALE_MS = 24 * 3_600_000
/** The TTL of a value that has changed at its source. */
const EXPIRED = -1
const RETRY: Backoff = { firstMs: 100, longestMs: 2_000 }

/**
 * Caches a value that cannot be watched, for its TTL. Concurrent callers share a request. While the source fails or is
 * slow, the last value stays in use, as RFC 8767 specifies for DNS.
 */
export class TtlCache<T> {
  readonly #name: string
  readonly #clock: Clock
  readonly #ask: (signal: AbortSignal) => Promise<Timed<T>>
  readonly #closed = new AbortController()
  #last: (Timed<T> & { readonly at: number }) | undefined
  #lastError: Error | undefined
  #failures = 0
  #askAgainAt = -Infinity
  #askedAt = -Infinity
  #asking: Promise<T> | undefined

  /** @param ask - requests the value; must have a timeout */
  constructor(name: string, clock: Clock, ask: (signal: AbortSignal) => Promise<Timed<T>>) {
    this.#name = name
    this.#clock = clock
    this.#ask = ask
  }

  /** The last value, however old; undefined before the first. */
  get value(): T | undefined {
    return this.#last?.value
  }

  /** The last value while it is valid. */
  get fresh(): T | undefined {
    const last = this.#last
    return last !== undefined && last.ttlMs !== EXPIRED && this.#age(last) < last.ttlMs
      ? last.value
      : undefined
  }

  /** The error of the last request; undefined if it succeeded. */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /**
   * Returns the value, from the cache while it is valid.
   * @param refresh - request a new value, unless the cached one is less than a second old
   * @throws the error of the request, if there is no value and a retry is useless; the reason of the signal;
   * ClosedError
   */
  async get(signal: AbortSignal, refresh: boolean): Promise<T> {
    for (;;) {
      if (isAborted(signal)) throw toError(signal.reason)
      if (isAborted(this.#closed.signal)) throw toError(this.#closed.signal.reason)
      const last = this.#last
      if (last !== undefined && last.ttlMs !== EXPIRED) {
        if (this.#age(last) < (refresh ? SHORTEST_REFRESH_MS : last.ttlMs)) return last.value
      }
      const stale = last !== undefined && this.#age(last) < LONGEST_STALE_MS ? last : undefined
      const pauseMs = this.#askAgainAt - this.#clock.now()
      // A clock that was set back must not prolong the pause.
      if (this.#lastError !== undefined && pauseMs > 0 && pauseMs <= RETRY.longestMs) {
        if (stale !== undefined && isUnanswered(this.#lastError)) return stale.value
        // Callers that try again at once must not cause a request each.
        if (!isNoAnswer(this.#lastError)) throw this.#lastError
        await sleep(this.#clock, pauseMs, signal)
        continue
      }
      const asking = this.#asking ?? this.#start()
      if (stale !== undefined && this.#clock.now() - this.#askedAt >= LONGEST_WAIT_MS) return stale.value
      try {
        return await this.#until(signal, asking, stale)
      } catch (error) {
        if (isAborted(signal) || isAborted(this.#closed.signal) || !isUnanswered(error)) throw error
        if (stale !== undefined) return stale.value
        if (!isNoAnswer(error)) throw error
      }
    }
  }

  /** Makes the next call request a new value. The last one stays in use while no answer comes. */
  expire(): void {
    if (this.#last !== undefined) this.#last = { ...this.#last, ttlMs: EXPIRED }
    // The answer to a pending request may be from before the change.
    this.#asking = undefined
  }

  close(): void {
    this.#closed.abort(new ClosedError(this.#name))
  }

  /** A value in the future comes from a clock that was set back, and counts as old. */
  #age({ at }: { readonly at: number }): number {
    const age = this.#clock.now() - at
    return age < 0 ? Infinity : age
  }

  /** Waits for the request, the signal, or, if there is an old value, for a limited time. */
  #until(signal: AbortSignal, asking: Promise<T>, last: Timed<T> | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        settle()
        reject(toError(signal.reason))
      }
      const cancelTimer =
        last === undefined
          ? () => undefined
          : this.#clock.after(LONGEST_WAIT_MS, () => {
              settle()
              resolve(last.value)
            })
      const settle = (): void => {
        cancelTimer()
        signal.removeEventListener('abort', onAbort)
      }
      signal.addEventListener('abort', onAbort, { once: true })
      void asking.then(resolve, reject).finally(settle)
    })
  }

  #start(): Promise<T> {
    this.#askedAt = this.#clock.now()
    const asking: Promise<T> = this.#askOnce(() => this.#asking === asking).finally(() => {
      if (this.#asking === asking) this.#asking = undefined
    })
    this.#asking = asking
    return asking
  }

  /** @param isCurrent - whether the value has not expired since the request */
  async #askOnce(isCurrent: () => boolean): Promise<T> {
    try {
      const answer = await this.#ask(this.#closed.signal)
      if (isCurrent()) this.#last = { ...answer, at: this.#clock.now() }
      this.#lastError = undefined
      this.#failures = 0
      this.#askAgainAt = -Infinity
      return answer.value
    } catch (error) {
      this.#lastError = toError(error)
      this.#failures += 1
      this.#askAgainAt = this.#clock.now() + backoffMs(RETRY, this.#failures)
      throw error
    }
  }
}

/** Whether an error leaves the value unknown, so that the last one stays in use. */
function isUnanswered(error: unknown): boolean {
  return isNoAnswer(error) || error instanceof DnsError
}
