import { EventEmitter } from 'eventemitter3'
import { ClosedError, toError } from '../base/errors.js'
import { isTransient } from './agent-errors.js'
import { Watch, type WatchOptions } from './watch.js'

interface WatchedEvents {
  /** The first value, or a value that differs from the last one. */
  value: []
  /** A read succeeded; emitted after `value`. */
  read: []
  /** A read failed and will be repeated. */
  failed: [error: Error]
}

/** A value of this age counts as current. */
const FRESH_MS = 1_000

/** Keeps the last good value of a watch. */
export class CachedWatch<T> extends EventEmitter<WatchedEvents> {
  readonly #watch: Watch<T>
  readonly #options: Omit<WatchOptions<T>, 'onValue' | 'onError' | 'onRead'>
  /** Callbacks for the result of the next read. */
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

  /** The error of the last read; undefined if it succeeded. */
  get lastError(): Error | undefined {
    return this.#watch.lastError
  }

  /**
   * Returns the last good value, or waits for the first one. Transient errors are waited out; others are thrown.
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
   * Returns the last good value, or the first one if the next read succeeds. Any error is thrown.
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
   * Returns the current value, or the last good one if the agent does not answer.
   * @param maxAgeMs - a value that was read less than this time ago counts as current
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

  /** Starts a read; `read` or `failed` is emitted when it is done. */
  refresh(): void {
    this.#watch.refresh()
  }

  /** Ends the watch, and rejects all pending calls. */
  close(): void {
    this.#isClosed = true
    this.#watch.close()
    this.#settle(new ClosedError(this.#options.name))
  }

  /**
   * Returns the error of the next read; undefined if it succeeds. If the last read has just failed, the next one is
   * awaited only if `isWorthWaiting` accepts the error.
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

  /** Waits for the next read. @returns its error; undefined if it succeeds */
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
