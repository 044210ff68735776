import type { ServiceAuthorizer } from '../authorize/service-authorizer.js'
import { type Outcome, RevokedError } from '../authorize/authorizer.js'
import { revocations } from '../authorize/diagnostics.js'
import type { Clock } from '../base/clock.js'
import type { Roots } from '../identity/roots.js'
import { log } from '../base/log.js'
import { type Connection, connectionOf, isPeerTrusted, peerExpiresAt } from './connection.js'
import { type OpenSockets, onceDestroyed } from '../sockets/open-sockets.js'
import type { MeshSocket } from './mesh-socket.js'

/** Why a connection ends whose peer has lost its CA root. */
export const UNTRUSTED = {
  authorized: false,
  basis: 'roots',
  reason: 'its certificate leads to no CA root of the mesh any more',
} as const

export interface AdmittedSettings {
  readonly service: string
  readonly authorization: ServiceAuthorizer
  /** Bound on each decision. */
  readonly timeoutMs: number
  /** Whether a connection ends with its peer's certificate. */
  readonly endsWithCertificate: boolean
  readonly clock: Clock
  readonly revoked: (error: RevokedError) => void
}

/** The connections of one certificate: what is decided of one of them is decided of all. */
interface Group {
  readonly connection: Connection
  /** With the time at which each was admitted, by performance.now(). */
  readonly sockets: Map<MeshSocket, number>
  readonly cancelExpiry: () => void
  deciding: Promise<number> | undefined
  next: Promise<number> | undefined
}

/** The connections that were let in and are still open, by their peer, so that they can be decided again. */
export class AdmittedConnections {
  readonly #settings: AdmittedSettings
  readonly #groups = new Map<string, Group>()

  constructor(settings: AdmittedSettings) {
    this.#settings = settings
  }

  add(socket: MeshSocket): void {
    const { fingerprint256 } = socket.peer
    const group = this.#groups.get(fingerprint256) ?? this.#begin(expectConnection(socket))
    group.sockets.set(socket, performance.now())
    onceDestroyed(socket, () => {
      group.sockets.delete(socket)
      if (group.sockets.size > 0 || this.#groups.get(fingerprint256) !== group) return
      this.#groups.delete(fingerprint256)
      group.cancelExpiry()
    })
  }

  /** Decides all of them again, by what is known from now on, and ends those that may not go on; returns how many. */
  async reauthorize(): Promise<number> {
    const counts = await Promise.all([...this.#groups.values()].map((group) => this.#again(group)))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  /** Ends the connections whose peer's certificate leads to none of these roots; returns how many. */
  withdraw(roots: Roots): number {
    const now = this.#settings.clock.now()
    let count = 0
    for (const group of [...this.#groups.values()]) {
      if (isPeerTrusted(group.connection, roots, now)) continue
      count += this.#revoke(group, UNTRUSTED)
    }
    return count
  }

  #begin(connection: Connection): Group {
    const { endsWithCertificate, clock } = this.#settings
    const cancelExpiry = endsWithCertificate
      ? this.#endAt(peerExpiresAt(connection, clock.now()), connection)
      : () => undefined
    const group: Group = {
      connection,
      sockets: new Map(),
      cancelExpiry,
      deciding: undefined,
      next: undefined,
    }
    this.#groups.set(connection.peer.fingerprint256, group)
    return group
  }

  /** Ends the connections of a certificate when its path expires; returns what cancels that. */
  #endAt(expiry: number, { peer }: Connection): () => void {
    const { clock } = this.#settings
    return clock.after(expiry - clock.now(), () => {
      const group = this.#groups.get(peer.fingerprint256)
      const reason = `its certificate, or that of an issuer, expired at ${new Date(expiry).toISOString()}`
      if (group !== undefined) this.#revoke(group, { authorized: false, basis: 'expired', reason })
    })
  }

  /** A decision that is under way may be by what was known before: another follows it. */
  #again(group: Group): Promise<number> {
    if (group.deciding === undefined) return this.#decide(group)
    group.next ??= group.deciding.then(() => {
      group.next = undefined
      return this.#decide(group)
    })
    return group.next
  }

  #decide(group: Group): Promise<number> {
    const { authorization, timeoutMs } = this.#settings
    group.deciding = authorization.decide(group.connection.peer, { timeoutMs }).then((outcome) => {
      group.deciding = undefined
      return outcome.authorized ? 0 : this.#revoke(group, outcome)
    })
    return group.deciding
  }

  #revoke({ connection, sockets }: Group, outcome: Outcome): number {
    const { service, revoked } = this.#settings
    const { peer } = connection
    // Taken away one by one while they end.
    const ending = [...sockets]
    for (const [socket, since] of ending) {
      const ageMs = Math.round(performance.now() - since)
      const error = new RevokedError(peer, service, outcome, { side: 'inbound', ageMs, cause: outcome.cause })
      socket.destroy(error)
      revocations.publish({ service, peer, error })
      revoked(error)
    }
    if (ending.length > 0)
      log.authorize(
        '%s: %d connections of %s ended: %s',
        service,
        ending.length,
        peer.spiffeId,
        outcome.reason,
      )
    return ending.length
  }
}

function expectConnection(socket: MeshSocket): Connection {
  const connection = connectionOf(socket)
  if (connection === undefined) throw new Error('expected a connection of the mesh')
  return connection
}

/** Ends the connections whose peer's certificate leads to none of these roots; returns the error of each. */
export function endUntrusted(
  sockets: OpenSockets,
  service: string,
  roots: Roots,
  now: number,
): RevokedError[] {
  const errors: RevokedError[] = []
  for (const socket of [...sockets] as MeshSocket[]) {
    const connection = connectionOf(socket)
    if (connection === undefined || isPeerTrusted(connection, roots, now)) continue
    const error = new RevokedError(connection.peer, service, UNTRUSTED, {
      side: connection.side,
      ageMs: ageOf(connection),
    })
    socket.destroy(error)
    revocations.publish({ service, peer: connection.peer, error })
    errors.push(error)
  }
  return errors
}

function ageOf({ openedAt }: Connection): number {
  return Math.round(performance.now() - openedAt)
}
