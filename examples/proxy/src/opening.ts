import { setTimeout as sleep } from 'node:timers/promises'
import type { Standby } from './standby.js'

/** Something that listens and can be closed. */
export interface Closable {
  close(options: { readonly drainTimeoutMs: number }): Promise<void> | void
}

/** For open connections that outlive their listener: they end when their ends want to, or with the proxy. */
export const FOREVER_MS: number = 2 ** 40

/** The part of one listener in the start of a proxy that replaces a running one. */
export interface OpeningStandby {
  readonly of: Standby
  /** Whether the proxy can take over without this listener. */
  readonly isOptional: boolean
}

const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 30_000

/**
 * Something that is to listen: opened, and where that fails, opened again until it works or is not wanted any more. A
 * port that is taken, or a certificate that has not come yet, is so no reason to end.
 */
export class Opening<T extends Closable> {
  readonly #ended = new AbortController()
  readonly #done: Promise<void>
  #current: T | undefined
  #error: Error | undefined

  constructor(
    open: (signal: AbortSignal) => Promise<T>,
    onFailed: (error: Error, retryInMs: number) => void,
    onOpen: (opened: T) => void,
    standby?: OpeningStandby,
  ) {
    standby?.of.begin(this)
    this.#done = this.#run(open, onFailed, onOpen, standby).finally(() => standby?.of.end(this))
  }

  /** What was opened; undefined until it is. */
  get current(): T | undefined {
    return this.#current
  }

  /** Why it is not open yet. */
  get error(): Error | undefined {
    return this.#error
  }

  /** Stops to listen at once, and resolves when the connections have ended, or were cut after this time. */
  async close(drainTimeoutMs: number): Promise<void> {
    this.#ended.abort()
    const current = this.#current
    this.#current = undefined
    await current?.close({ drainTimeoutMs })
    await this.#done
  }

  async #run(
    open: (signal: AbortSignal) => Promise<T>,
    onFailed: (error: Error, retryInMs: number) => void,
    onOpen: (opened: T) => void,
    standby: OpeningStandby | undefined,
  ): Promise<void> {
    const { signal } = this.#ended
    let pauseMs = FIRST_PAUSE_MS
    while (!signal.aborted) {
      try {
        const opened = await open(signal)
        // It was closed meanwhile, and has no connection yet.
        if (isAborted(signal)) await opened.close({ drainTimeoutMs: 1 })
        else {
          this.#current = opened
          this.#error = undefined
          onOpen(opened)
        }
        return
      } catch (error) {
        if (isAborted(signal)) return
        this.#error = error instanceof Error ? error : new Error(String(error))
        const retryMs = standby?.of.retryMs(this, this.#error, standby.isOptional)
        if (retryMs === undefined) onFailed(this.#error, pauseMs)
        await sleep(retryMs ?? pauseMs, undefined, { signal }).catch(() => undefined)
        if (retryMs === undefined) pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2)
      }
    }
  }
}

/** A function of its own, so that the compiler does not take an earlier answer for the present one. */
function isAborted(signal: AbortSignal): boolean {
  return signal.aborted
}
