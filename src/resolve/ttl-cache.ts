import { isNoAnswer } from '../agent/client.js'
import { type Backoff, backoffMs } from '../base/backoff.js'
import { type Clock, sleep } from '../base/clock.js'
import { ClosedError, DnsError, toError } from '../base/errors.js'
import { isAborted } from '../base/deadline.js'

/** What an answer is, and for how long, in milliseconds; 0 is for those who wait for it now and nobody else. */
export interface Timed<T> {
  readonly value: T
  readonly ttlMs: number
}

/** However often an instance fails: its resolver is asked no more often than this on that account. */
const SHORTEST_REFRESH_MS = 1_000
/** How long a new answer is waited for where there is a last one. */
const LONGEST_WAIT_MS = 500
/** How old an answer may be that serves while nobody answers. */
const LONGEST_STALE_MS = 24 * 3_600_000
const RETRY: Backoff = { firstMs: 100, longestMs: 2_000 }

/**
 * The last answer to a question that cannot be watched, kept for as long as it says. Asked once for all who wait. While
 * nobody answers, or the answer is slow, the last good one serves on (as RFC 8767 has it for DNS).
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

  /** @param ask - must have bounds of its own */
  constructor(name: string, clock: Clock, ask: (signal: AbortSignal) => Promise<Timed<T>>) {
    this.#name = name
    this.#clock = clock
    this.#ask = ask
  }

  /** What the last asking failed with; undefined while all is well. */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /**
   * The answer, from memory while it holds. `refresh` asks again, if the last answer is not quite new.
   * @throws what the asking failed with, when there is no answer yet and waiting would not change it; the signal's
   * reason; ClosedError
   */
  async get(signal: AbortSignal, refresh: boolean): Promise<T> {
    for (;;) {
      if (isAborted(signal)) throw toError(signal.reason)
      if (isAborted(this.#closed.signal)) throw toError(this.#closed.signal.reason)
      const last = this.#last
      if (last !== undefined && this.#age(last) < (refresh ? SHORTEST_REFRESH_MS : last.ttlMs))
        return last.value
      const stale = last !== undefined && this.#age(last) < LONGEST_STALE_MS ? last : undefined
      const pauseMs = this.#askAgainAt - this.#clock.now()
      // A clock that was set back must not hold anybody up.
      if (pauseMs > 0 && pauseMs <= RETRY.longestMs && isUnanswered(this.#lastError)) {
        if (stale !== undefined) return stale.value
        if (isNoAnswer(this.#lastError)) {
          await sleep(this.#clock, pauseMs, signal)
          continue
        }
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

  close(): void {
    this.#closed.abort(new ClosedError(this.#name))
  }

  /** An answer of the future comes from a clock that was set back: it counts as old. */
  #age({ at }: { readonly at: number }): number {
    const age = this.#clock.now() - at
    return age < 0 ? Infinity : age
  }

  /** The answer; the signal's reason if that comes first; the last answer when the new one takes long. */
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
    this.#asking = this.#askOnce().finally(() => {
      this.#asking = undefined
    })
    return this.#asking
  }

  async #askOnce(): Promise<T> {
    try {
      const answer = await this.#ask(this.#closed.signal)
      this.#last = { ...answer, at: this.#clock.now() }
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

/** Whether an error says nothing about what was asked, so that the last answer stays in use. */
function isUnanswered(error: unknown): boolean {
  return isNoAnswer(error) || error instanceof DnsError
}
