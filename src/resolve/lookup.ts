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

  /** The answer, from memory while it holds. `refresh` asks again, if the last answer is not quite new. */
  async get(signal: AbortSignal, refresh: boolean): Promise<T> {
    const last = this.#last
    const age = last === undefined ? Infinity : this.#clock.now() - last.at
    // A clock that was set back makes an answer from the future: it is asked again.
    if (last !== undefined && age >= 0 && age < (refresh ? SHORTEST_REFRESH_MS : last.ttlMs))
      return last.value
    for (let retryMs = FIRST_RETRY_MS; ; retryMs = Math.min(LONGEST_RETRY_MS, 2 * retryMs)) {
      try {
        return await until(signal, (this.#asking ??= this.#askOnce()))
      } catch (error) {
        if (isAborted(signal) || isAborted(this.#closed.signal)) throw error
        if (last !== undefined) return last.value
        if (!isTransient(error)) throw error
        await sleep(this.#clock, retryMs, signal)
        signal.throwIfAborted()
      }
    }
  }

  close(): void {
    this.#closed.abort(new ClosedError(this.#name))
  }

  async #askOnce(): Promise<T> {
    try {
      const answer = await this.#ask(this.#closed.signal)
      this.#last = { ...answer, at: this.#clock.now() }
      this.#lastError = undefined
      return answer.value
    } catch (error) {
      this.#lastError = toError(error)
      throw error
    } finally {
      this.#asking = undefined
    }
  }
}

/** The promise, or the signal's reason if that comes first. */
function until<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(toError(signal.reason))
    }
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    promise.then(resolve, reject).finally(() => {
      signal.removeEventListener('abort', onAbort)
    })
  })
}
