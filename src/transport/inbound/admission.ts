import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { DeniedError, type Outcome, type RevokedError } from '../../authorize/authorizer.js'
import { decisions } from '../../authorize/diagnostics.js'
import { ConnectionRequests, type RequestReports } from '../../authorize/requests/connection-requests.js'
import type { ServiceAuthorizer } from '../../authorize/service-authorizer.js'
import type { Clock } from '../../base/clock.js'
import { ConnectError, toError, withCause } from '../../base/errors.js'
import { log } from '../../base/log.js'
import type { Generation, IdentityStore } from '../../identity/identity-store.js'
import type { Roots } from '../../identity/roots.js'
import { OpenSockets } from '../../sockets/open-sockets.js'
import {
  type Connection,
  connectionOf,
  isPeerTrusted,
  openConnection,
  openStream,
  peerExpiresAt,
} from '../connection.js'
import { handshakes } from '../diagnostics.js'
import type { FinishedHandshake } from './handshakes.js'
import type { MeshSocket } from '../mesh-socket.js'
import { RESET_CODES } from '../mux/frames.js'
import type { SessionCounts } from '../mux/session-counts.js'
import { ALPN_NAME, MuxSession, OWN_SETTINGS } from '../mux/session.js'
import { MuxStream } from '../mux/stream.js'
import { AdmittedConnections } from '../revocation.js'
import { verifySocket, withdrawnRoot } from '../verify-peer.js'

/** Receives each connection whose peer is verified and authorized. */
export type ConnectionHandler = (socket: MeshSocket) => unknown

/** Callbacks for events of a listener that its handler does not see. */
export interface ListenerReports extends RequestReports {
  /** The identity of a peer was verified, and the authorizer decided. */
  decided(outcome: Outcome): void
  /** A verified peer was denied. */
  denied(error: DeniedError): void
  /** An open connection was closed because its peer is no longer authorized or trusted. */
  revoked(error: RevokedError): void
  /** A handshake or the verification of the identity failed. */
  rejected(error: Error, remoteAddress: string | undefined): void
  /** A problem that an operator should know about. The listener keeps running. */
  warning(error: Error): void
}

export interface AdmissionSettings {
  readonly identity: IdentityStore
  readonly service: string
  readonly handler: ConnectionHandler
  /** Whether our side of a connection stays open when the peer ends its side. */
  readonly allowHalfOpen: boolean
  readonly authorization: ServiceAuthorizer
  /** Whether the handler decides each HTTP request, so that peers with permissions are admitted. @default false */
  readonly decidesRequests?: boolean
  /** Receives the connections whose requests are not decided. @default the handler */
  readonly passthrough?: ConnectionHandler | undefined
  /** Whether open connections are authorized again when the intentions change. */
  readonly revoke: boolean
  /** Whether open connections end when their peer's certificate expires. */
  readonly maxPeerAge: 'certificate' | undefined
  readonly maxConnections: number
  readonly sessionCounts: SessionCounts
  /** Timeout of each decision, in milliseconds. */
  readonly handshakeTimeoutMs: number
  readonly clock: Clock
  readonly reports: ListenerReports
}

/** How long a session without streams is kept, in milliseconds: the dialing end ends it after a minute. */
const IDLE_SESSION_MS = 75_000
/** How long a session is kept while none of its streams has been admitted, in milliseconds. */
const UNUSED_SESSION_MS = 10_000

/** A connection whose peer is verified: one of its own, or a stream of a session. */
type Undecided = TLSSocket | MuxStream

/**
 * Admits inbound connections after their TLS handshake: enforces the connection limit, verifies the SPIFFE identity, asks
 * the authorizer, and calls the handler. Closes admitted connections whose peer is no longer authorized or trusted.
 */
export class Admission {
  /** The admitted connections. */
  readonly open: OpenSockets = new OpenSockets()
  readonly #settings: AdmissionSettings
  readonly #undecided = new Set<Undecided>()
  readonly #sessions = new Map<MuxSession, Connection>()
  /** The connections of all sessions, also while they end. */
  readonly #sessionSockets = new OpenSockets()
  readonly #admitted: AdmittedConnections
  readonly #onEmpty: () => void
  /** Incremented whenever the outcome of a decision may have changed. */
  #epoch = 0
  #isStopped = false
  readonly #onGeneration = ({ roots }: Generation, what: 'leaf' | 'roots'): void => {
    if (what === 'roots') this.#withdraw(roots)
    // New connections see the new certificate.
    else this.drainSessions()
  }
  readonly #onDecisions = (): void => {
    this.#epoch += 1
    const { revoke, decidesRequests = false } = this.#settings
    if (revoke || decidesRequests) void this.#admitted.reauthorize(revoke)
  }

  /** @param onEmpty - called when no decision is pending any more */
  constructor(settings: AdmissionSettings, onEmpty: () => void) {
    const { authorization, identity, handshakeTimeoutMs, maxPeerAge, reports } = settings
    this.#settings = settings
    this.#onEmpty = onEmpty
    this.#admitted = new AdmittedConnections({
      ...settings,
      decidesRequests: settings.decidesRequests === true,
      timeoutMs: handshakeTimeoutMs,
      endsWithCertificate: maxPeerAge === 'certificate',
      revoked: (error) => {
        reports.revoked(error)
      },
    })
    authorization.on('changed', this.#onDecisions)
    identity.on('changed', this.#onGeneration)
  }

  /** The number of pending decisions. */
  get pending(): number {
    return this.#undecided.size
  }

  /** Destroys the socket if the connection limit is reached. @returns whether it did */
  refuseIfFull(socket: Socket | MuxStream): boolean {
    const { maxConnections, service, reports } = this.#settings
    if (maxConnections === Infinity) return false
    // Undecided connections count: their peers are verified, and most of them will be authorized.
    const count = this.open.size + this.#undecided.size
    if (count < maxConnections) {
      this.#limitIdle(maxConnections - count)
      return false
    }
    const message = `${service}: connection limit reached (${maxConnections}); raise maxConnections or close connections`
    const { remoteAddress } = socket
    end(socket, RESET_CODES.refused)
    reports.rejected(new ConnectError('ERR_CONNECT_LIMIT', message), remoteAddress)
    return true
  }

  /** Ends idle sessions until at most `most` are left: first those that never had an admitted stream, then the oldest. */
  #limitIdle(most: number): void {
    if (this.#sessions.size <= most) return
    const idle = [...this.#sessions.keys()].filter(({ size }) => size === 0)
    const order = [...idle.filter(({ isUsed }) => !isUsed), ...idle.filter(({ isUsed }) => isUsed)]
    for (const session of order.slice(0, Math.max(0, idle.length - most))) session.drain()
  }

  /** Verifies and authorizes the peer, and passes the connection to the handler. Never rejects. */
  async admit(socket: TLSSocket, handshake: FinishedHandshake | undefined): Promise<void> {
    if (this.refuseIfFull(socket)) return
    this.#undecided.add(socket)
    const { identity, service } = this.#settings
    const durationMs = handshake?.durationMs
    // This listener stays on the socket, so that a reset does not crash a process whose handler adds none.
    socket.on('error', (error: Error) => {
      log.listen('%s: %s', service, error.message)
    })
    let isVerified = false
    try {
      const generation = handshake?.generation ?? identity.require()
      const { peer, chain } = verifySocket(socket, generation.roots)
      const openedAt = performance.now()
      const connection: Connection = { side: 'inbound', peer, generation, chain, openedAt }
      handshakes.publish({ service, durationMs, peer, error: undefined })
      isVerified = true
      if (socket.alpnProtocol === ALPN_NAME) {
        this.#openSession(socket, connection)
        return
      }
      const connected = await this.#decide(socket, connection)
      // Node.js may have destroyed the socket in the meantime.
      if (connected?.destroyed === false) await this.#handle(connected)
    } catch (error) {
      if (isVerified) this.#refuse(toError(error), socket)
      else this.reject(toError(error), socket, durationMs)
    }
  }

  /** Opens no more streams in the open sessions: they end with the last one. */
  drainSessions(): void {
    for (const session of this.#sessions.keys()) session.drain()
  }

  destroySessions(): void {
    for (const session of this.#sessions.keys()) session.destroy()
    this.#sessionSockets.destroy()
  }

  /** Destroys the socket of a failed handshake or verification, and reports the error. */
  reject(error: Error, socket: TLSSocket, durationMs: number | undefined): void {
    handshakes.publish({ service: this.#settings.service, durationMs, peer: undefined, error })
    this.#refuse(error, socket)
  }

  /** Authorizes every open connection again, and closes the denied ones. @returns the number of closed connections */
  async reauthorize(): Promise<number> {
    this.#epoch += 1
    const { current } = this.#settings.identity
    const withdrawn = current === undefined ? 0 : this.#withdraw(current.roots)
    return withdrawn + (await this.#admitted.reauthorize(true))
  }

  /** Admits no further connections, and destroys those whose decision is pending. */
  stop(): void {
    this.#isStopped = true
    for (const socket of this.#undecided) end(socket, RESET_CODES.refused)
    this.drainSessions()
  }

  /** Stops following intentions and roots; until then, open connections can be revoked. */
  close(): void {
    this.#settings.authorization.off('changed', this.#onDecisions)
    this.#settings.identity.off('changed', this.#onGeneration)
  }

  /** Closes the connections whose peer is not trusted under these roots. @returns the number of closed connections */
  #withdraw(roots: Roots): number {
    const count = this.#admitted.withdraw(roots)
    const now = this.#settings.clock.now()
    for (const [session, connection] of this.#sessions)
      if (!isPeerTrusted(connection, roots, now)) session.destroy(withdrawnRoot())
    return count
  }

  #openSession(socket: TLSSocket, connection: Connection): void {
    this.#endDecision(socket)
    if (this.#isStopped || socket.destroyed) {
      socket.destroy()
      return
    }
    this.#sessionSockets.add(socket)
    const { clock, sessionCounts: counts } = this.#settings
    const now = clock.now()
    const expiresAt = peerExpiresAt(connection, now)
    const session: MuxSession = new MuxSession(socket, {
      settings: OWN_SETTINGS,
      clock,
      counts,
      idleMs: IDLE_SESSION_MS,
      unusedMs: UNUSED_SESSION_MS,
      onStream: (stream) => {
        // A timer may be late, as after the machine was suspended.
        if (clock.now() < expiresAt) void this.#admitStream(stream, connection, session)
        else {
          stream.on('error', () => undefined).reset(RESET_CODES.refused)
          session.drain()
        }
      },
      onEnded: () => {
        cancelExpiry()
        this.#sessions.delete(session)
      },
    })
    // From then on, a new connection of the peer would be refused, and so are new streams.
    const cancelExpiry = clock.after(expiresAt - now, () => {
      session.drain()
    })
    this.#sessions.set(session, connection)
  }

  async #admitStream(stream: MuxStream, connection: Connection, session: MuxSession): Promise<void> {
    const { service } = this.#settings
    stream.on('error', (error: Error) => {
      log.listen('%s: %s', service, error.message)
    })
    if (this.refuseIfFull(stream)) return
    stream.allowHalfOpen = this.#settings.allowHalfOpen
    this.#undecided.add(stream)
    try {
      const connected = await this.#decide(stream, connection)
      if (connected === undefined || stream.destroyed) return
      session.accept(stream)
      await this.#handle(connected)
    } catch (error) {
      this.#refuse(toError(error), stream)
    }
  }

  #refuse(error: Error, socket: Undecided): void {
    const { service, reports } = this.#settings
    this.#endDecision(socket)
    const { remoteAddress } = socket
    end(socket, RESET_CODES.denied)
    log.listen('%s: rejected %s: %s', service, remoteAddress, error.message)
    reports.rejected(error, remoteAddress)
  }

  #endDecision(socket: Undecided): void {
    this.#undecided.delete(socket)
    if (this.#undecided.size === 0) this.#onEmpty()
  }

  /** Returns the connection if its peer is authorized. */
  async #decide(socket: Undecided, connection: Connection): Promise<MeshSocket | undefined> {
    const { authorization, handshakeTimeoutMs, decidesRequests = false } = this.#settings
    const begin = performance.now()
    const deadline = begin + handshakeTimeoutMs
    const gone = new AbortController()
    const onClose = (): void => {
      gone.abort(new Error('the peer closed the connection'))
    }
    socket.once('close', onClose)
    try {
      for (;;) {
        const epoch = this.#epoch
        const timeoutMs = Math.max(1, Math.ceil(deadline - performance.now()))
        const bounds = { signal: gone.signal, timeoutMs }
        const outcome = await authorization.decide(connection.peer, bounds, decidesRequests)
        this.#expectTrusted(connection)
        // Decide again if the intentions changed meanwhile: an open connection is only revisited at the next change.
        if (!outcome.authorized || epoch === this.#epoch)
          return this.#conclude(socket, connection, outcome, performance.now() - begin)
      }
    } finally {
      socket.off('close', onClose)
    }
  }

  /** Verifies the peer against the latest roots: OpenSSL used those of the start of the handshake. */
  #expectTrusted(connection: Connection): void {
    const { identity, clock } = this.#settings
    if (!isPeerTrusted(connection, identity.require().roots, clock.now())) throw withdrawnRoot()
  }

  #conclude(
    socket: Undecided,
    connection: Connection,
    outcome: Outcome,
    durationMs: number,
  ): MeshSocket | undefined {
    const { service, reports, decidesRequests, passthrough } = this.#settings
    const { peer } = connection
    const { authorized, reason, basis } = outcome
    decisions.publish({ service, peer, authorized, reason, basis, durationMs })
    this.#endDecision(socket)
    if (this.#isStopped) end(socket, RESET_CODES.refused)
    if (socket.destroyed) return undefined
    reports.decided(outcome)
    if (!authorized) {
      end(socket, RESET_CODES.denied)
      reports.denied(new DeniedError(peer, service, outcome, outcome))
      return undefined
    }
    log.listen('%s: %s connected', service, peer.spiffeId)
    const isPassed = passthrough !== undefined && outcome.requests === undefined
    const requests =
      decidesRequests === true && !isPassed
        ? new ConnectionRequests(peer, outcome.requests, reports)
        : undefined
    const opened = { ...connection, requests }
    const connected =
      socket instanceof MuxStream ? openStream(socket, opened) : openConnection(socket, opened)
    this.open.add(connected)
    this.#admitted.add(connected)
    return connected
  }

  async #handle(socket: MeshSocket): Promise<void> {
    const { handler, passthrough, reports } = this.#settings
    const isPassed = passthrough !== undefined && connectionOf(socket)?.requests === undefined
    try {
      await (isPassed ? passthrough : handler)(socket)
    } catch (cause) {
      socket.destroy()
      const message = `connection handler failed${withCause(cause)}`
      reports.warning(new ConnectError('ERR_CONNECT_HANDLER', message, { cause }))
    }
  }
}

/** Ends a connection that is not admitted. @param code - tells the peer of a session why */
function end(socket: Socket | Undecided, code: number): void {
  if (socket instanceof MuxStream) socket.reset(code)
  else socket.destroy()
}
