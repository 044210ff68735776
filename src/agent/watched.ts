import { EventEmitter } from 'eventemitter3'
import { toError } from '../errors.js'
import { isTransient } from './client.js'
import { Watch, type WatchOptions } from './watch.js'

interface WatchedEvents {
  /** The first value, and each that differs from the last. */
  value: []
  /** A read went well, whether or not it brought something new. */
  read: []
  /** A read failed; the last good value stays. */
  failed: [error: Error]
}

/** A value that was read so lately is not read again for being asked to. */
const FRESH_MS = 1_000

/** The last good value of something that the agent lets us watch. */
export class Watched<T> extends EventEmitter<WatchedEvents> {
  readonly #watch: Watch<T>
  readonly #options: Omit<WatchOptions<T>, 'onValue' | 'onError' | 'onRead'>
  #value: { readonly value: T } | undefined
  #readAt = -Infinity
  #awaited = 0

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
      },
      onError: (error) => {
        this.emit('failed', error)
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

  /** Whether somebody waits for a read. */
  get isAwaited(): boolean {
    return this.#awaited > 0
  }

  /**
   * The last good value, or the first as soon as there is one. While the agent is away this waits; what somebody
   * has to do something about is thrown.
   * @throws AgentError, and the signal's reason
   */
  async first(signal: AbortSignal): Promise<T> {
    // A read that failed a while ago may go well now. Only once: who waits must not undo the back-off.
    if (this.#value === undefined) this.#watch.hurry()
    while (this.#value === undefined) {
      const error = await this.#outcome(signal)
      if (error !== undefined && !isTransient(error)) throw error
    }
    return this.#value.value
  }

  /**
   * The value as of now, or the last good one when the agent cannot be asked.
   * @throws the signal's reason
   */
  async refreshed(signal: AbortSignal): Promise<T> {
    const value = await this.first(signal)
    const age = this.#options.clock.now() - this.#readAt
    if (age >= 0 && age < FRESH_MS) return value
    // Those who come while it is read share the read.
    if (!this.isAwaited) this.#watch.restart()
    await this.#outcome(signal)
    return this.#value?.value ?? value
  }

  /** Ends the watch. */
  close(): void {
    this.#watch.close()
  }

  /** What the next read fails with; undefined when it goes well. */
  #outcome(signal: AbortSignal): Promise<Error | undefined> {
    this.#awaited += 1
    return new Promise<Error | undefined>((resolve, reject) => {
      const settle = (): void => {
        this.#awaited -= 1
        this.off('read', onRead).off('failed', onFailed)
        signal.removeEventListener('abort', onAbort)
      }
      const onRead = (): void => {
        settle()
        resolve(undefined)
      }
      const onFailed = (error: Error): void => {
        settle()
        resolve(error)
      }
      const onAbort = (): void => {
        settle()
        reject(toError(signal.reason))
      }
      this.on('read', onRead).on('failed', onFailed)
      signal.addEventListener('abort', onAbort, { once: true })
      if (signal.aborted) onAbort()
    })
  }
}
