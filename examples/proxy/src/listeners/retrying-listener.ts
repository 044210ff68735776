import { setTimeout as sleep } from 'node:timers/promises'
import type { Standby } from '../workers/standby.js'

/** A server or forward that accepts connections. */
export interface Closable {
  close(options: { readonly drainTimeoutMs: number }): Promise<void> | void
}

/** Drain timeout of a listener that was moved or reconfigured: its connections stay open until their peers close them. */
export const NO_DRAIN_LIMIT_MS: number = 2 ** 40

/** Registers a listener with the start of a proxy that replaces a running one. */
interface StandbyListener {
  readonly standby: Standby
  /** Whether the proxy can take over without this listener. */
  readonly isOptional: boolean
}

interface RetryingListenerOptions<T extends Closable> {
  /** Opens the listener; the signal is aborted by `close()`. */
  readonly open: (signal: AbortSignal) => Promise<T>
  readonly onFailed: (error: Error, retryInMs: number) => void
  readonly onOpen?: (opened: T) => void
  /** Set only in a proxy that replaces a running one. */
  readonly standby?: StandbyListener | undefined
}

const FIRST_PAUSE_MS = 500
const MAX_PAUSE_MS = 30_000

/**
 * Opens a listener and retries until it succeeds or `close()` is called, with a pause that doubles from 0.5 s to 30 s. A port
 * in use or a missing certificate must not end the proxy.
 */
export class RetryingListener<T extends Closable> {
  readonly #options: RetryingListenerOptions<T>
  readonly #closed = new AbortController()
  readonly #done: Promise<void>
  #current: T | undefined
  #error: Error | undefined

  constructor(options: RetryingListenerOptions<T>) {
    this.#options = options
    const { standby } = options
    standby?.standby.begin(this)
    this.#done = this.#run().finally(() => standby?.standby.end(this))
  }

  /** The open listener; undefined until it is open. */
  get current(): T | undefined {
    return this.#current
  }

  /** The error of the last attempt; undefined while the listener is open. */
  get error(): Error | undefined {
    return this.#error
  }

  /**
   * Stops listening at once. Resolves when all connections have ended.
   * @param drainTimeoutMs - connections still open after this time are reset
   */
  async close(drainTimeoutMs: number): Promise<void> {
    this.#closed.abort()
    const current = this.#current
    this.#current = undefined
    await current?.close({ drainTimeoutMs })
    await this.#done
  }

  async #run(): Promise<void> {
    const { open, onFailed, onOpen, standby } = this.#options
    const { signal } = this.#closed
    let pauseMs = FIRST_PAUSE_MS
    while (!signal.aborted) {
      try {
        const opened = await open(signal)
        // close() was called meanwhile. The listener has no connections yet.
        if (isAborted(signal)) await opened.close({ drainTimeoutMs: 1 })
        else {
          this.#current = opened
          this.#error = undefined
          onOpen?.(opened)
        }
        return
      } catch (error) {
        if (isAborted(signal)) return
        this.#error = error instanceof Error ? error : new Error(String(error))
        const takeoverPauseMs = standby?.standby.retryMs(this, this.#error, standby.isOptional)
        if (takeoverPauseMs === undefined) onFailed(this.#error, pauseMs)
        await sleep(takeoverPauseMs ?? pauseMs, undefined, { signal }).catch(() => undefined)
        if (takeoverPauseMs === undefined) pauseMs = Math.min(MAX_PAUSE_MS, pauseMs * 2)
      }
    }
  }
}

/** A function, so that TypeScript does not narrow `signal.aborted` to `false` after the loop condition. */
function isAborted(signal: AbortSignal): boolean {
  return signal.aborted
}
