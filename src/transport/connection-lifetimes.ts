import type { Clock } from '../base/clock.js'
import type { Roots } from '../identity/roots.js'
import type { Generation, IdentityStore } from '../identity/identity-store.js'
import { onceDestroyed } from '../sockets/destruction.js'
import { areBothTrusted, connectionOf, expiresAt } from './connection.js'
import type { MeshSocket } from './mesh-socket.js'

/**
 * A connection gets no new requests in the last tenth of the remaining lifetime of its certificates: the last minute of
 * a long one, and at least 2 s, so that pending requests can complete.
 */
const LAST_SHARE = 0.1
const LONGEST_LAST_MS = 60_000
const SHORTEST_LAST_MS = 2_000

interface Tenure {
  readonly retire: () => void
  readonly cancelTimer: () => void
}

/**
 * Decides how long connections can be reused: until one of their certificates is about to expire, or a root change
 * makes the peer or this service untrusted.
 */
export class ConnectionLifetimes {
  readonly #identity: IdentityStore
  readonly #clock: Clock
  readonly #tenures = new Map<MeshSocket, Tenure>()
  readonly #onChanged = ({ roots }: Generation, what: 'leaf' | 'roots'): void => {
    if (what === 'leaf') return
    for (const socket of [...this.#tenures.keys()]) if (!this.#isAccepted(socket, roots)) this.#end(socket)
  }

  constructor(identity: IdentityStore, clock: Clock) {
    this.#identity = identity
    this.#clock = clock
    identity.on('changed', this.#onChanged)
  }

  /** Calls back, at most once, when a connection must get no new requests. Pending requests may complete. */
  hold(socket: MeshSocket, retire: () => void): void {
    if (this.#isOutdated(socket)) {
      retire()
      return
    }
    const connection = connectionOf(socket)
    const now = this.#clock.now()
    const lifeMs = connection === undefined ? 0 : expiresAt(connection, now) - now
    const cancelTimer = this.#clock.after(usableMs(lifeMs), () => {
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

  /** Whether a root change during the dial made the connection untrusted. */
  #isOutdated(socket: MeshSocket): boolean {
    const { current } = this.#identity
    return current !== undefined && !this.#isAccepted(socket, current.roots)
  }

  #isAccepted(socket: MeshSocket, roots: Roots): boolean {
    const connection = connectionOf(socket)
    return (
      connection !== undefined && !socket.destroyed && areBothTrusted(connection, roots, this.#clock.now())
    )
  }

  #end(socket: MeshSocket): void {
    const tenure = this.#tenures.get(socket)
    this.#tenures.delete(socket)
    tenure?.cancelTimer()
    tenure?.retire()
  }
}

function usableMs(lifeMs: number): number {
  const lastMs = Math.max(lifeMs * LAST_SHARE, Math.min(SHORTEST_LAST_MS, lifeMs / 2))
  return lifeMs - Math.min(lastMs, LONGEST_LAST_MS)
}
