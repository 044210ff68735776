import type { Clock } from '../clock.js'
import type { Generation, IdentityStore } from '../identity/store.js'
import { onceDestroyed } from '../transport/open-sockets.js'
import { Acceptance, expiresAt } from '../transport/standing.js'
import type { MeshSocket } from '../transport/socket.js'

/** A connection gets nothing new in the last tenth of its certificates' life, or the last minute of a long one. */
const LAST_SHARE = 0.1
const LONGEST_LAST_MS = 60_000

interface Tenure {
  readonly retire: () => void
  readonly cancelTimer: () => void
}

/**
 * How long connections may be kept for reuse: until one of their certificates is about to expire, or the mesh's roots
 * change so that the connection would not be made again.
 */
export class Lifetimes {
  readonly #identity: IdentityStore
  readonly #clock: Clock
  readonly #tenures = new Map<MeshSocket, Tenure>()
  readonly #onChanged = ({ roots }: Generation, what: 'leaf' | 'roots'): void => {
    if (what === 'leaf') return
    const accepted = new Acceptance(roots, this.#clock.now())
    for (const socket of [...this.#tenures.keys()]) if (!accepted.has(socket)) this.#end(socket)
  }

  constructor(identity: IdentityStore, clock: Clock) {
    this.#identity = identity
    this.#clock = clock
    identity.on('changed', this.#onChanged)
  }

  /** Calls back, once at most, when a connection should get nothing new. What is under way on it may go on. */
  hold(socket: MeshSocket, retire: () => void): void {
    const lifeMs = expiresAt(socket) - this.#clock.now()
    const lastMs = Math.min(lifeMs * LAST_SHARE, LONGEST_LAST_MS)
    const cancelTimer = this.#clock.after(lifeMs - lastMs, () => {
      this.#end(socket)
    })
    this.#tenures.set(socket, { retire, cancelTimer })
    onceDestroyed(socket, () => {
      cancelTimer()
      this.#tenures.delete(socket)
    })
  }

  close(): void {
    this.#identity.off('changed', this.#onChanged)
    for (const { cancelTimer } of this.#tenures.values()) cancelTimer()
    this.#tenures.clear()
  }

  #end(socket: MeshSocket): void {
    const tenure = this.#tenures.get(socket)
    this.#tenures.delete(socket)
    tenure?.cancelTimer()
    tenure?.retire()
  }
}
