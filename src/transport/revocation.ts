import type { ServiceAuthorizer } from '../authorize/service-authorizer.js'
import { type Outcome, RevokedError } from '../authorize/authorizer.js'
import { DenyingPolicy } from '../authorize/requests/request-policy.js'
import { revocations } from '../authorize/diagnostics.js'
import type { Clock } from '../base/clock.js'
import type { Roots } from '../identity/roots.js'
import { log } from '../base/log.js'
import { type Connection, connectionOf, isPeerTrusted, peerExpiresAt } from './connection.js'
import { onceDestroyed } from '../sockets/destruction.js'
import type { OpenSockets } from '../sockets/open-sockets.js'
import type { MeshSocket } from './mesh-socket.js'

/** The outcome for a peer whose CA root was withdrawn. */
const UNTRUSTED = {
  authorized: false,
  basis: 'roots',
  reason: 'the CA root of its certificate has been withdrawn',
} as const

export interface AdmittedSettings {
  readonly service: string
  readonly authorization: ServiceAuthorizer
  /** Whether each request is decided. */
  readonly decidesRequests: boolean
  /** Timeout of each decision, in milliseconds. */
  readonly timeoutMs: number
  /** Whether a connection is closed when the certificate of its peer expires. */
  readonly endsWithCertificate: boolean
  readonly clock: Clock
  readonly revoked: (error: RevokedError) => void
}

/** The connections of one peer certificate, which share a decision. */
interface Group {
  readonly connection: Connection
  /** When each socket was added, by `performance.now()`. */
  readonly sockets: Map<MeshSocket, number>
  readonly cancelExpiry: () => void
  /** Whether permissions have decided requests of the peer. */
  hasPolicy: boolean
  /** Whether the next decision ends what it denies. */
  cutsOpen: boolean
  deciding: Promise<number> | undefined
  next: Promise<number> | undefined
}

/** Open inbound connections by peer certificate. Closes them when their peer is no longer authorized or trusted. */
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
    group.hasPolicy ||= connectionOf(socket)?.requests?.policy !== undefined
    onceDestroyed(socket, () => {
      group.sockets.delete(socket)
      if (group.sockets.size > 0 || this.#groups.get(fingerprint256) !== group) return
      this.#groups.delete(fingerprint256)
      group.cancelExpiry()
    })
  }

  /**
   * Authorizes all peers again.
   * @param cutsOpen - whether the connections of denied peers, and requests that are no longer allowed, end; otherwise only
   * later requests are affected
   * @returns the number of closed connections
   */
  async reauthorize(cutsOpen: boolean): Promise<number> {
    const counts = await Promise.all([...this.#groups.values()].map((group) => this.#again(group, cutsOpen)))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  /** Closes the connections whose peer is not trusted under these roots. @returns the number of closed connections */
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
      cutsOpen: false,
      hasPolicy: connection.requests?.policy !== undefined,
      deciding: undefined,
      next: undefined,
    }
    this.#groups.set(connection.peer.fingerprint256, group)
    return group
  }

  /** Closes the connections of a certificate when its path expires. @returns a function that cancels this */
  #endAt(expiry: number, { peer }: Connection): () => void {
    const { clock } = this.#settings
    return clock.after(expiry - clock.now(), () => {
      const group = this.#groups.get(peer.fingerprint256)
      const reason = `its certificate or an issuer expired at ${new Date(expiry).toISOString()}`
      if (group !== undefined) this.#revoke(group, { authorized: false, basis: 'expired', reason })
    })
  }

  /** A pending decision may be based on old intentions: another one follows it. */
  #again(group: Group, cutsOpen: boolean): Promise<number> {
    group.cutsOpen ||= cutsOpen
    if (group.deciding === undefined) return this.#decide(group)
    group.next ??= group.deciding.then(() => {
      group.next = undefined
      return this.#decide(group)
    })
    return group.next
  }

  #decide(group: Group): Promise<number> {
    const { cutsOpen } = group
    group.cutsOpen = false
    const { authorization, timeoutMs, decidesRequests } = this.#settings
    const { peer } = group.connection
    group.deciding = authorization.decide(peer, { timeoutMs }, decidesRequests).then((outcome) => {
      group.deciding = undefined
      if (!outcome.authorized && cutsOpen) return this.#revoke(group, outcome)
      if (decidesRequests) follow(group, outcome, cutsOpen)
      // Connections that were passed through: their requests cannot be decided.
      if (outcome.requests !== undefined && cutsOpen) return this.#revoke(group, outcome, isUndecided)
      return 0
    })
    return group.deciding
  }

  #revoke(
    { connection, sockets }: Group,
    outcome: Omit<Outcome, 'requests'>,
    concerns: (socket: MeshSocket) => boolean = () => true,
  ): number {
    const { service, revoked } = this.#settings
    const { peer } = connection
    // Copied, because each destroyed socket removes itself.
    const ending = [...sockets].filter(([socket]) => concerns(socket))
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

/** Whether the requests of a connection are not decided. */
function isUndecided(socket: MeshSocket): boolean {
  return connectionOf(socket)?.requests === undefined
}

/** Makes later requests of the connections be decided by the latest outcome. */
function follow(group: Group, outcome: Outcome, cutsOpen: boolean): void {
  group.hasPolicy ||= outcome.requests !== undefined
  // A connection that stays open although its peer is denied goes on as before, unless its requests are decided.
  if (!group.hasPolicy) return
  const policy = outcome.authorized ? outcome.requests : new DenyingPolicy(outcome)
  for (const socket of group.sockets.keys()) connectionOf(socket)?.requests?.follow(policy, cutsOpen)
}

function expectConnection(socket: MeshSocket): Connection {
  const connection = connectionOf(socket)
  if (connection === undefined) throw new Error('expected a connection of the mesh')
  return connection
}

/** Closes the connections whose peer is not trusted under these roots. @returns the error of each closed connection */
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
