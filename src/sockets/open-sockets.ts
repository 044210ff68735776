import type { Duplex } from 'node:stream'
import { withDeadline } from '../base/deadline.js'
import { TimeoutError } from '../base/errors.js'

/** What a cut needs until all is gone; a destroyed socket closes in the same turn of the event loop, or the next. */
const CUT_MS = 1_000

/** The sockets that are open, so that they can be waited for, or cut. */
export class OpenSockets {
  readonly #sockets = new Set<Duplex>()
  readonly #cut: (socket: Duplex, error?: Error) => void
  #onEmpty: (() => void) | undefined

  /** @param cut - how one is cut. @default it is destroyed */
  constructor(cut: (socket: Duplex, error?: Error) => void = (socket, error) => socket.destroy(error)) {
    this.#cut = cut
  }

  get size(): number {
    return this.#sockets.size
  }

  [Symbol.iterator](): Iterator<Duplex> {
    return this.#sockets.values()
  }

  add(socket: Duplex): void {
    this.#sockets.add(socket)
    onceDestroyed(socket, () => {
      this.#sockets.delete(socket)
      if (this.#sockets.size === 0) this.#onEmpty?.()
    })
  }

  /** Waits until every socket has ended, and cuts those that have not after `timeoutMs`; returns how many. */
  async drain(timeoutMs: number): Promise<number> {
    if (await this.#isEmptyWithin(timeoutMs)) return 0
    const cut = this.#sockets.size
    this.destroy()
    await this.#isEmptyWithin(CUT_MS)
    return cut
  }

  destroy(error?: Error): void {
    for (const socket of this.#sockets) this.#cut(socket, error)
  }

  async #isEmptyWithin(timeoutMs: number): Promise<boolean> {
    if (this.#sockets.size === 0) return true
    const empty = new Promise<void>((resolve) => {
      this.#onEmpty = resolve
    })
    try {
      await withDeadline('drain', { timeoutMs }, () => empty)
      return true
    } catch (error) {
      if (error instanceof TimeoutError) return false
      throw error
    }
  }
}

/** What a drain needs beyond its time, to cut and to hear of it. */
const DRAIN_GRACE_MS = 2_000

/** Waits for a drain. It may have begun earlier, with more time: after `timeoutMs` what is still open is cut. */
export async function drained(draining: Promise<void>, timeoutMs: number, cut: () => void): Promise<void> {
  try {
    await withDeadline('drain', { timeoutMs: timeoutMs + DRAIN_GRACE_MS }, () => draining)
  } catch {
    cut()
    await draining
  }
}

const onDestroyed = new WeakMap<Duplex, (() => void)[]>()

/**
 * Calls back when a socket is destroyed, just before it emits `close`. An event listener would not do: an application
 * may remove all listeners of its socket.
 */
export function onceDestroyed(socket: Duplex, callback: () => void): void {
  if (socket.destroyed) {
    callback()
    return
  }
  const known = onDestroyed.get(socket)
  if (known !== undefined) {
    known.push(callback)
    return
  }
  const callbacks = [callback]
  onDestroyed.set(socket, callbacks)
  const destroy = socket._destroy.bind(socket)
  socket._destroy = (error, done): void => {
    destroy(error, (failure) => {
      for (const each of callbacks) each()
      done(failure)
    })
  }
}
