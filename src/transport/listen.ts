import { type AddressInfo, type Server, type Socket, createServer } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { ServiceAuthorizer } from '../authorize/service-authorizer.js'
import { DeniedError, type Outcome, type RevokedError } from '../authorize/authorizer.js'
import { decisions } from '../authorize/diagnostics.js'
import { withDeadline } from '../base/deadline.js'
import type { Clock } from '../base/clock.js'
import { type CloseOptions, drainTimeout } from '../base/close-options.js'
import { ConnectError, VerificationError, withCause, toError } from '../base/errors.js'
import type { Generation, IdentityStore } from '../identity/identity-store.js'
import { log } from '../base/log.js'
import { AdmittedConnections } from './revocation.js'
import { handshakes } from './diagnostics.js'
import { type Connection, isPeerTrusted, openConnection } from './connection.js'
import { type FinishedHandshake, Handshakes } from './handshakes.js'
import { type ListenAddress, bindServer } from '../sockets/bind-server.js'
import { OpenSockets, withinDrain } from '../sockets/open-sockets.js'
import { withShortMessage } from '../sockets/openssl-error.js'
import { pathError, verifySocket, withdrawnRoot } from './verify-peer.js'
import type { MeshSocket } from './mesh-socket.js'
import { TCP } from '../sockets/tcp-options.js'
import { SecureServer } from './secure-server.js'

/** How long `close` waits for pending handshakes and authorization decisions, which usually take milliseconds. */
const PENDING_MS = 1_000

/** Receives each connection whose peer is verified and authorized. */
export type ConnectionHandler = (socket: MeshSocket) => unknown

/** Callbacks for events of a listener that its handler does not see. */
export interface ListenerReports {
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

export interface ListenerSettings {
  readonly identity: IdentityStore
  readonly service: string
  readonly handler: ConnectionHandler
  readonly authorization: ServiceAuthorizer
  /** Whether open connections are authorized again when the intentions change. */
  readonly revoke: boolean
  /** Whether open connections end when their peer's certificate expires. */
  readonly maxPeerAge: 'certificate' | undefined
  readonly maxConnections: number
  readonly maxHandshakes: number
  readonly clock: Clock
  readonly reports: ListenerReports
  readonly handshakeTimeoutMs: number
  readonly drainTimeoutMs: number
  readonly allowHalfOpen: boolean
  readonly alpnProtocols: readonly string[] | undefined
  /** Called when a drain begins. The returned function is called when the drain is over. */
  readonly onDrain?: (timeoutMs: number) => () => void
  /** Called before the listener stops accepting. The listener waits for the returned promise. */
  readonly onClosing: () => Promise<unknown> | undefined
  /** Called when the server and all connections are closed. */
  readonly onClosed: () => void
}

/**
 * Accepts mutual-TLS connections. A connection passes four steps, and each of them can reject it: the TLS handshake, in
 * which OpenSSL verifies the certificate path to the roots; the verification of the SPIFFE identity; the authorizer;
 * and the handler.
 */
export class Listener implements AsyncDisposable {
  readonly #settings: ListenerSettings
  readonly #tcpServer: Server
  readonly #tls: SecureServer
  // A connection is in one of three sets: pending handshakes, as a TCP socket; undecided; or open. In the last two it
  // is a TLS socket, and its TCP socket must not be touched: Node.js 20 crashes when both are destroyed inside the
  // callback that ends a handshake.
  readonly #handshakes: Handshakes
  readonly #undecided = new Set<TLSSocket>()
  #onPendingEnded: (() => void) | undefined
  readonly #open = new OpenSockets()
  readonly #connections: AdmittedConnections
  /** Incremented whenever the outcome of a decision may have changed. */
  #epoch = 0
  readonly #onGeneration = (generation: Generation, what: 'leaf' | 'roots'): void => {
    this.#tls.use(generation)
    if (what === 'roots') this.#connections.withdraw(generation.roots)
  }
  readonly #onDecisions = (): void => {
    this.#epoch += 1
    if (this.#settings.revoke) void this.#connections.reauthorize()
  }
  readonly #closed: Promise<void>
  #closing: Promise<void> | undefined
  #isStopped = false

  /** @throws IdentityError when there is no certificate to listen with */
  constructor(settings: ListenerSettings) {
    const { handshakeTimeoutMs, allowHalfOpen, alpnProtocols } = settings
    this.#settings = settings
    this.#handshakes = new Handshakes(settings.maxHandshakes, {
      oversized: ({ remoteAddress }, bytes) => {
        const message = `handshake of ${remoteAddress ?? 'a peer'} ended: it had sent ${bytes} bytes`
        settings.reports.rejected(new ConnectError('ERR_CONNECT_LIMIT', message), remoteAddress)
      },
      empty: () => this.#onPendingEnded?.(),
    })
    this.#tls = new SecureServer(settings.identity.require(), { handshakeTimeoutMs, alpnProtocols })
    const { server } = this.#tls
    server.on('secureConnection', (socket) => {
      socket.allowHalfOpen = allowHalfOpen
      const handshake = this.#handshakes.end(socket)
      if (this.#isFull(socket)) return
      this.#undecided.add(socket)
      void this.#admit(socket, handshake)
    })
    server.on('tlsClientError', (error, socket) => {
      const handshake = this.#handshakes.end(socket)
      // The TCP check of an agent, or a port scan: nothing has been rejected.
      if (handshake?.bytes === 0) {
        log.listen('%s: %s left before its first byte', settings.service, socket.remoteAddress)
        socket.destroy()
      } else this.#reject(explain(error, socket), socket, handshake?.durationMs)
    })
    // Without allowHalfOpen: a client that ends its side during the handshake is gone.
    this.#tcpServer = createServer(TCP, (socket) => {
      this.#accept(socket)
    })
    this.#closed = new Promise((resolve) => this.#tcpServer.once('close', resolve))
    void this.#closed.then(settings.onClosed)
    this.#connections = new AdmittedConnections({
      ...settings,
      timeoutMs: handshakeTimeoutMs,
      endsWithCertificate: settings.maxPeerAge === 'certificate',
      revoked: (error) => {
        settings.reports.revoked(error)
      },
    })
    settings.authorization.on('changed', this.#onDecisions)
    settings.identity.on('changed', this.#onGeneration)
    // Connections can still be revoked during a drain.
    void this.#closed.then(() => {
      settings.authorization.off('changed', this.#onDecisions)
      settings.identity.off('changed', this.#onGeneration)
    })
  }

  /**
   * Starts to listen.
   * @throws ConnectError with ERR_CONNECT_LISTEN
   */
  async open(address: ListenAddress): Promise<void> {
    await bindServer(this.#tcpServer, address, this.#closed).catch((error: unknown) => {
      this.destroy()
      throw error
    })
    // An accept error such as EMFILE does not end the listener.
    this.#tcpServer.on('error', (error) => {
      this.#settings.reports.warning(error)
    })
  }

  /** The address and port, or the path of the Unix socket; null after the listener has stopped accepting. */
  address(): AddressInfo | string | null {
    return this.#tcpServer.address()
  }

  /** The number of open connections that were passed to the handler. */
  get connections(): number {
    return this.#open.size
  }

  /**
   * Authorizes every open connection again, and closes those that are denied; each emits a `revoked` event. This
   * happens automatically when intentions change. Call it when data changes that a custom authorizer depends on.
   * @returns the number of closed connections
   */
  async reauthorize(): Promise<number> {
    this.#epoch += 1
    const { current } = this.#settings.identity
    const withdrawn = current === undefined ? 0 : this.#connections.withdraw(current.roots)
    return withdrawn + (await this.#connections.reauthorize())
  }

  /**
   * Deregisters the instance at this port, if it was registered through the same service, stops accepting, and waits
   * for the open connections. Connections that are still open after `drainTimeoutMs` are cut, and so are handshakes
   * that take longer than a second. Idempotent.
   */
  async close(options?: CloseOptions): Promise<void> {
    const timeoutMs = drainTimeout(options, this.#settings.drainTimeoutMs)
    this.#closing ??= this.#drain(timeoutMs)
    await withinDrain(this.#closing, timeoutMs, () => {
      this.destroy()
    })
  }

  /** Deregisters the instance at this port, and destroys all connections. */
  destroy(): void {
    void this.#settings.onClosing()
    this.#stop()
    this.#open.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /**
   * Waits until the pending connections are open or refused: a client whose side of the handshake is over could not
   * tell a listener that closes from one that denies.
   */
  async #waitForPending(timeoutMs: number): Promise<void> {
    const isOver = async (): Promise<void> => {
      while (this.#handshakes.size > 0 || this.#undecided.size > 0) {
        await new Promise<void>((resolve) => {
          this.#onPendingEnded = resolve
        })
      }
    }
    // Those that take longer are ended.
    await withDeadline('drain', { timeoutMs }, isOver).catch(() => undefined)
  }

  #endDecision(socket: TLSSocket): void {
    this.#undecided.delete(socket)
    if (this.#undecided.size === 0) this.#onPendingEnded?.()
  }

  #stop(): void {
    this.#isStopped = true
    this.#tcpServer.close()
    this.#handshakes.destroy()
    for (const socket of this.#undecided) socket.destroy()
  }

  async #drain(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    // Deregister first, so that clients choose other instances before this one refuses connections.
    const withdrawal = this.#settings.onClosing()
    if (withdrawal !== undefined) await withdrawal
    const endDrain = this.#settings.onDrain?.(timeoutMs)
    try {
      this.#tcpServer.close()
      await this.#waitForPending(Math.min(PENDING_MS, timeoutMs))
      this.#stop()
      const cut = await this.#open.drain(Math.max(0, deadline - performance.now()))
      if (cut > 0) log.listen('%s: %d connections cut after %d ms', this.#settings.service, cut, timeoutMs)
    } finally {
      endDrain?.()
    }
    // The server emits `close` one turn after its last socket.
    await this.#closed
  }

  #accept(socket: Socket): void {
    try {
      // Throws when our certificate has expired.
      this.#settings.identity.require()
    } catch (error) {
      this.#settings.reports.warning(toError(error))
      socket.destroy()
      return
    }
    if (this.#isFull(socket)) return
    this.#handshakes.begin(socket, this.#tls.generation)
    this.#tls.server.emit('connection', socket)
  }

  /** Whether the connection limit is reached. Destroys the socket then. */
  #isFull(socket: Socket): boolean {
    const { maxConnections, service, reports } = this.#settings
    // Undecided connections count: their peers are verified, and most of them will be authorized.
    if (this.#open.size + this.#undecided.size < maxConnections) return false
    const message = `${service}: connection limit reached (${maxConnections}); raise maxConnections or close connections`
    const { remoteAddress } = socket
    socket.destroy()
    reports.rejected(new ConnectError('ERR_CONNECT_LIMIT', message), remoteAddress)
    return true
  }

  async #admit(socket: TLSSocket, handshake: FinishedHandshake | undefined): Promise<void> {
    const { identity, service } = this.#settings
    const durationMs = handshake?.durationMs
    // Stays for the life of the socket: a reset must not end a process that has no `error` listener.
    socket.on('error', (error: Error) => {
      log.listen('%s: %s', service, error.message)
    })
    try {
      const generation = handshake?.generation ?? identity.require()
      const { peer, chain } = verifySocket(socket, generation.roots)
      const openedAt = performance.now()
      const connection: Connection = { side: 'inbound', peer, generation, chain, openedAt }
      handshakes.publish({ service, durationMs, peer, error: undefined })
      const connected = await this.#decide(socket, connection)
      // Node.js may have destroyed the socket in the meantime.
      if (connected?.destroyed === false) await this.#handle(connected)
    } catch (error) {
      this.#reject(toError(error), socket, durationMs)
    }
  }

  /** Returns the connection if its peer is authorized. */
  async #decide(socket: TLSSocket, connection: Connection): Promise<MeshSocket | undefined> {
    const { authorization, handshakeTimeoutMs } = this.#settings
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
        const outcome = await authorization.decide(connection.peer, { signal: gone.signal, timeoutMs })
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
    socket: TLSSocket,
    connection: Connection,
    outcome: Outcome,
    durationMs: number,
  ): MeshSocket | undefined {
    const { service, reports } = this.#settings
    const { peer } = connection
    const { authorized, reason, basis } = outcome
    decisions.publish({ service, peer, authorized, reason, basis, durationMs })
    this.#endDecision(socket)
    if (this.#isStopped) socket.destroy()
    if (socket.destroyed) return undefined
    reports.decided(outcome)
    if (!authorized) {
      socket.destroy()
      reports.denied(new DeniedError(peer, service, outcome, outcome))
      return undefined
    }
    log.listen('%s: %s connected', service, peer.spiffeId)
    const connected = openConnection(socket, connection)
    this.#open.add(connected)
    this.#connections.add(connected)
    return connected
  }

  async #handle(socket: MeshSocket): Promise<void> {
    const { handler, reports } = this.#settings
    try {
      await handler(socket)
    } catch (cause) {
      socket.destroy()
      const message = `connection handler failed${withCause(cause)}`
      reports.warning(new ConnectError('ERR_CONNECT_HANDLER', message, { cause }))
    }
  }

  #reject(error: Error, socket: TLSSocket, durationMs: number | undefined): void {
    const { service } = this.#settings
    this.#endDecision(socket)
    const { remoteAddress } = socket
    socket.destroy()
    log.listen('%s: rejected %s: %s', service, remoteAddress, error.message)
    handshakes.publish({ service, durationMs, peer: undefined, error })
    this.#settings.reports.rejected(error, remoteAddress)
  }
}

/** Translates the error of a failed handshake. */
function explain(error: Error, socket: TLSSocket): Error {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE') {
    return new VerificationError('ERR_CONNECT_CERTIFICATE_MISSING', 'a certificate of the mesh', 'none', {
      cause: error,
    })
  }
  // Node.js reports a reset when it has rejected the certificate itself.
  return pathError(socket) ?? withShortMessage(error)
}
