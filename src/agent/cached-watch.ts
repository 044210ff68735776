import { EventEmitter } from 'eventemitter3'
import { ClosedError, toError } from '../base/errors.js'
import { isTransient } from './client.js'
import { Watch, type WatchOptions } from './watch.js'

interface WatchedEvents {
  /** The first value, and each that differs from the last. */
  value: []
  /** A read went well, whether or not it brought something new; after `value`. */
  read: []
  /** A read failed; it will be tried again. */
  failed: [error: Error]
}

/** A value that was read so lately is not read again for being asked to. */
const FRESH_MS = 1_000

/** The last good value of something that the agent lets us watch. */
export class CachedWatch<T> extends EventEmitter<WatchedEvents> {
  readonly #watch: Watch<T>
  readonly #options: Omit<WatchOptions<T>, 'onValue' | 'onError' | 'onRead'>
  // Those who wait for the next read, whatever comes of it.
  #waiting = new Set<(error: Error | undefined) => void>()
  #value: { readonly value: T } | undefined
  #readAt = -Infinity
  #isClosed = false

  constructor(options: Omit<WatchOptions<T>, 'onValue' | 'onError' | 'onRead'>) {
    super()
    this.#options = options
    this.#watch = new Watch({
      ...options,
      onValue: (value) => {
        this.#value = { value }
        this.emit('value')
      },
      onRead: () => {
        this.#readAt = options.clock.now()
        this.emit('read')
        this.#settle(undefined)
      },
      onError: (error) => {
        this.emit('failed', error)
        this.#settle(error)
      },
    })
  }

  /** The last good value; undefined before the first. */
  get value(): T | undefined {
    return this.#value?.value
  }

  /** What the last read failed with; undefined while all is well. */
  get lastError(): Error | undefined {
    return this.#watch.lastError
  }

  /**
   * The last good value, or the first as soon as there is one. While the agent is away this waits; what somebody
   * has to do something about is thrown.
   * @throws AgentError, ClosedError, and the signal's reason
   */
  async first(signal: AbortSignal): Promise<T> {
    while (this.#value === undefined) {
      const error = await this.#attempt(signal, isTransient)
      if (error !== undefined && !isTransient(error)) throw error
    }
    return this.#value.value
  }

  /**
   * The last good value, or the first if it can be had now: whatever a read fails with is thrown.
   * @throws AgentError, ClosedError, and the signal's reason
   */
  async now(signal: AbortSignal): Promise<T> {
    while (this.#value === undefined) {
      const error = await this.#attempt(signal, () => false)
      if (error !== undefined) throw error
    }
    return this.#value.value
  }

  /**
   * The value as of now, or the last good one when the agent cannot be asked.
   * @param maxAgeMs - a value that was read less than this ago counts as new
   * @throws AgentError, ClosedError, and the signal's reason
   */
  async refreshed(signal: AbortSignal, maxAgeMs: number = FRESH_MS): Promise<T> {
    const value = await this.first(signal)
    const age = this.#options.clock.now() - this.#readAt
    if (age >= 0 && age < maxAgeMs) return value
    this.#watch.refresh()
    await this.#outcome(signal)
    return this.#value?.value ?? value
  }

  /** Reads anew at once; `read` or `failed` tells when that is done. */
  refresh(): void {
    this.#watch.refresh()
  }

  /** Ends the watch, and everybody's wait. */
  close(): void {
    this.#isClosed = true
    this.#watch.close()
    this.#settle(new ClosedError(this.#options.name))
  }

  /**
   * What the next read fails with; undefined when it goes well. A read that failed a while ago may go well now; one
   * that has only just failed would fail again, and is waited for only if the error is one to wait after.
   */
  #attempt(signal: AbortSignal, isWorthWaiting: (error: Error) => boolean): Promise<Error | undefined> {
    const { lastError } = this
    const isComing = this.#watch.hurry()
    if (!isComing && lastError !== undefined && !isWorthWaiting(lastError)) return Promise.resolve(lastError)
    return this.#outcome(signal)
  }

  #settle(error: Error | undefined): void {
    const waiting = this.#waiting
    this.#waiting = new Set()
    for (const resolve of waiting) resolve(error)
  }

  /** What the next read fails with; undefined when it goes well. */
  #outcome(signal: AbortSignal): Promise<Error | undefined> {
    if (this.#isClosed) return Promise.reject(new ClosedError(this.#options.name))
    return new Promise<Error | undefined>((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.delete(settle)
        reject(toError(signal.reason))
      }
      const settle = (error: Error | undefined): void => {
        signal.removeEventListener('abort', onAbort)
        if (error instanceof ClosedError) reject(error)
        else resolve(error)
      }
      this.#waiting.add(settle)
      signal.addEventListener('abort', onAbort, { once: true })
      if (signal.aborted) onAbort()
    })
  }
}
