import type { Duplex } from 'node:stream'
import { bounded } from '../bounded.js'
import { TimeoutError } from '../errors.js'

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

  add(socket: Duplex): void {
    this.#sockets.add(socket)
    socket.once('close', () => {
      this.#sockets.delete(socket)
      if (this.#sockets.size === 0) this.#onEmpty?.()
    })
  }

  /** Waits until every socket has ended, and cuts those that have not after `timeoutMs`; returns how many. */
  async drain(timeoutMs: number): Promise<number> {
    if (this.#sockets.size === 0) return 0
    const empty = new Promise<void>((resolve) => {
      this.#onEmpty = resolve
    })
    try {
      await bounded('drain', { timeoutMs }, () => empty)
      return 0
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error
      const cut = this.#sockets.size
      this.destroy()
      // A destroyed socket closes in the same turn of the event loop, or the next.
      await empty
      return cut
    }
  }

  destroy(error?: Error): void {
    for (const socket of this.#sockets) this.#cut(socket, error)
  }
}
