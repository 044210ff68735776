import { isTransient } from '../agent/client.js'
import { type Clock, sleep } from '../clock.js'
import { ClosedError, toError } from '../errors.js'
import { isAborted } from '../bounded.js'

/** What an answer is, and for how long, in milliseconds; 0 is for those who wait for it now and nobody else. */
export interface Timed<T> {
  readonly value: T
  readonly ttlMs: number
}

/** However often an instance fails: its resolver is asked no more often than this on that account. */
const SHORTEST_REFRESH_MS = 1_000
/** How long a new answer is waited for where there is a last one. */
const LONGEST_WAIT_MS = 1_000
const FIRST_RETRY_MS = 100
const LONGEST_RETRY_MS = 2_000

/**
 * The last answer to a question that cannot be watched, kept for as long as it says. Asked once for all who wait. When
 * the next asking fails, the last good answer serves on (as RFC 8767 has it for DNS).
 */
export class Lookup<T> {
  readonly #name: string
  readonly #clock: Clock
  readonly #ask: (signal: AbortSignal) => Promise<Timed<T>>
  readonly #closed = new AbortController()
  #last: (Timed<T> & { readonly at: number }) | undefined
  #lastError: Error | undefined
  #failures = 0
  #askAgainAt = -Infinity
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

  /** Whether nobody waits for an answer. */
  get isIdle(): boolean {
    return this.#asking === undefined
  }

  /**
   * The answer, from memory while it holds. `refresh` asks again, if the last answer is not quite new.
   * @throws what the asking failed with, when there is no answer yet and waiting would not change it; the signal's
   * reason; ClosedError
   */
  async get(signal: AbortSignal, refresh: boolean): Promise<T> {
    for (;;) {
      if (isAborted(signal)) throw toError(signal.reason)
      const last = this.#last
      if (last !== undefined && this.#isFresh(last, refresh)) return last.value
      const pauseMs = this.#pauseMs()
      if (pauseMs > 0) {
        if (last !== undefined) return last.value
        if (isTransient(this.#lastError)) {
          await sleep(this.#clock, pauseMs, signal)
          continue
        }
      }
      try {
        const asking = this.#asking ?? this.#start()
        return await this.#until(signal, asking, last)
      } catch (error) {
        if (isAborted(signal) || isAborted(this.#closed.signal)) throw error
        if (last !== undefined) return last.value
        if (!isTransient(error)) throw error
      }
    }
  }

  close(): void {
    this.#closed.abort(new ClosedError(this.#name))
  }

  #isFresh({ at, ttlMs }: Timed<T> & { readonly at: number }, refresh: boolean): boolean {
    const age = this.#clock.now() - at
    // A clock that was set back makes an answer from the future: it is asked again.
    return age >= 0 && age < (refresh ? SHORTEST_REFRESH_MS : ttlMs)
  }

  /** How long nobody asks after a failure, however many wait. */
  #pauseMs(): number {
    const ms = this.#askAgainAt - this.#clock.now()
    // A clock that was set back must not hold anybody up.
    return ms > LONGEST_RETRY_MS ? 0 : ms
  }

  /** The answer; the signal's reason if that comes first; the last answer when the new one takes long. */
  #until(signal: AbortSignal, asking: Promise<T>, last: Timed<T> | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        reject(toError(signal.reason))
      }
      const cancelTimer =
        last === undefined
          ? () => undefined
          : this.#clock.after(LONGEST_WAIT_MS, () => {
              resolve(last.value)
            })
      signal.addEventListener('abort', onAbort, { once: true })
      asking.then(resolve, reject).finally(() => {
        cancelTimer()
        signal.removeEventListener('abort', onAbort)
      })
    })
  }

  #start(): Promise<T> {
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
      const backOffMs = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(this.#failures, 10))
      this.#failures += 1
      this.#askAgainAt = this.#clock.now() + backOffMs
      throw error
    }
  }
}
