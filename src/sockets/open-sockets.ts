import type { Duplex } from 'node:stream'
import { withDeadline } from '../base/deadline.js'
import { TimeoutError } from '../base/errors.js'
import { onceDestroyed } from './destruction.js'

/** How long to wait for destroyed sockets to close, which takes one or two turns of the event loop. */
const CUT_MS = 1_000

/** Tracks open sockets, in order to wait for their end or to destroy them. */
export class OpenSockets {
  readonly #sockets = new Set<Duplex>()
  readonly #cut: (socket: Duplex, error?: Error) => void
  #onEmpty: (() => void) | undefined

  /** @param cut - ends a socket at once. @default `socket.destroy(error)` */
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

  /** Waits until all sockets have closed, and cuts the remaining ones after `timeoutMs`. @returns how many were cut */
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

/** How much longer than its timeout a drain may take. */
const DRAIN_GRACE_MS = 2_000

/**
 * Waits for a drain that may have begun with a longer timeout. After `timeoutMs`, calls `cut` and waits for the end.
 */
export async function withinDrain(
  draining: Promise<void>,
  timeoutMs: number,
  cut: () => void,
): Promise<void> {
  try {
    await withDeadline('drain', { timeoutMs: timeoutMs + DRAIN_GRACE_MS }, () => draining)
  } catch {
    cut()
    await draining
  }
}
