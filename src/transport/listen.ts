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
import { type ListenAddress, openServer } from '../sockets/bind-server.js'
import { OpenSockets, drained } from '../sockets/open-sockets.js'
import { withShortMessage } from '../sockets/openssl-error.js'
import { pathError, verifySocket, withdrawnRoot } from './verify-peer.js'
import type { MeshSocket } from './mesh-socket.js'
import { TCP } from '../sockets/tcp-options.js'
import { SecureServer } from './secure-server.js'

/** How long a listener that closes waits for handshakes and decisions, which take milliseconds. */
const PENDING_MS = 1_000

/** Called with every connection that is verified and authorized, and with no other. */
export type ConnectionHandler = (socket: MeshSocket) => unknown

/** What a listener tells of connections that its handler never sees. */
export interface ListenerReports {
  /** The peer proved who it is, and this was decided of it. */
  decided(outcome: Outcome): void
  /** It may not connect. */
  denied(error: DeniedError): void
  /** The connection was with its handler, and was ended. */
  revoked(error: RevokedError): void
  /** The peer did not prove who it is. */
  rejected(error: Error, remoteAddress: string | undefined): void
  /** Something an operator should know; the listener goes on. */
  warning(error: Error): void
}

export interface ListenerSettings {
  readonly identity: IdentityStore
  readonly service: string
  readonly handler: ConnectionHandler
  readonly authorization: ServiceAuthorizer
  /** Whether open connections are decided again when decisions may have become others. */
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
  /** Called when a drain begins; what it returns is called when it is over. */
  readonly onDrain?: (timeoutMs: number) => () => void
  /** Called before the listener stops to accept, which waits for what it returns. */
  readonly onClosing: () => Promise<unknown> | undefined
  /** Called when nothing of it is left. */
  readonly onClosed: () => void
}

/**
 * A mutual-TLS listener. A connection takes four steps, each of which can end it: a handshake that OpenSSL verifies
 * against the mesh's roots, our identity step, the authorizer, and only then the handler.
 */
export class Listener implements AsyncDisposable {
  readonly #settings: ListenerSettings
  readonly #front: Server
  readonly #tls: SecureServer
  // A connection is in one of three places: in its handshake, as a TCP socket by its two ends; before the authorizer;
  // or open. From the second on it is a TLS socket and its TCP socket must be left alone: Node 20 crashes when both
  // are destroyed inside the callback that ends a handshake.
  readonly #handshakes: Handshakes
  readonly #deciding = new Set<TLSSocket>()
  #onPendingEnded: (() => void) | undefined
  readonly #open = new OpenSockets()
  readonly #admitted: AdmittedConnections
  // Counts the changes after which a decision may be another.
  #epoch = 0
  readonly #onGeneration = (generation: Generation, what: 'leaf' | 'roots'): void => {
    this.#tls.use(generation)
    if (what === 'roots') this.#admitted.withdraw(generation.roots)
  }
  readonly #onDecisions = (): void => {
    this.#epoch += 1
    if (this.#settings.revoke) void this.#admitted.reauthorize()
  }
  readonly #closed: Promise<void>
  #closing: Promise<void> | undefined
  #stopped = false

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
      this.#deciding.add(socket)
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
    // Not half-open before the handshake is over: one who ends it early is gone.
    this.#front = createServer(TCP, (socket) => {
      this.#accept(socket)
    })
    this.#closed = new Promise((resolve) => this.#front.once('close', resolve))
    void this.#closed.then(settings.onClosed)
    this.#admitted = new AdmittedConnections({
      ...settings,
      timeoutMs: handshakeTimeoutMs,
      endsWithCertificate: settings.maxPeerAge === 'certificate',
      revoked: (error) => {
        settings.reports.revoked(error)
      },
    })
    settings.authorization.on('changed', this.#onDecisions)
    settings.identity.on('changed', this.#onGeneration)
    // While it drains, connections may still be revoked.
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
    await openServer(this.#front, address, this.#closed).catch((error: unknown) => {
      this.destroy()
      throw error
    })
    // An accept error (EMFILE, say) never ends a listener.
    this.#front.on('error', (error) => {
      this.#settings.reports.warning(error)
    })
  }

  /** Where it listens: an address and port, or the path of a unix socket; null once closed. */
  address(): AddressInfo | string | null {
    return this.#front.address()
  }

  /** How many connections are with the handler. */
  get connections(): number {
    return this.#open.size
  }

  /**
   * Decides every open connection again, now, and ends those whose peer may no longer be connected; each is told of by
   * a `revoked` event. It happens by itself when the mesh's intentions change; call it when something changes on which
   * an authorizer of your own depends. Returns how many connections were ended.
   */
  async reauthorize(): Promise<number> {
    this.#epoch += 1
    const { current } = this.#settings.identity
    const withdrawn = current === undefined ? 0 : this.#admitted.withdraw(current.roots)
    return withdrawn + (await this.#admitted.reauthorize())
  }

  /**
   * Deregisters the instance at this port, if it was registered through the same service, stops accepting, and waits
   * for the open connections. Connections that are still open after `drainTimeoutMs` are cut, and so are handshakes
   * that take longer than a second. Idempotent.
   */
  async close(options?: CloseOptions): Promise<void> {
    const timeoutMs = drainTimeout(options, this.#settings.drainTimeoutMs)
    this.#closing ??= this.#drain(timeoutMs)
    await drained(this.#closing, timeoutMs, () => {
      this.destroy()
    })
  }

  /** Deregisters the instance at this port, and cuts everything at once. */
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
      while (this.#handshakes.size > 0 || this.#deciding.size > 0) {
        await new Promise<void>((resolve) => {
          this.#onPendingEnded = resolve
        })
      }
    }
    // Those that take longer are ended.
    await withDeadline('drain', { timeoutMs }, isOver).catch(() => undefined)
  }

  #endDecision(socket: TLSSocket): void {
    this.#deciding.delete(socket)
    if (this.#deciding.size === 0) this.#onPendingEnded?.()
  }

  #stop(): void {
    this.#stopped = true
    this.#front.close()
    this.#handshakes.destroy()
    for (const socket of this.#deciding) socket.destroy()
  }

  async #drain(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    // New connections go to other instances before this one refuses them.
    const withdrawal = this.#settings.onClosing()
    if (withdrawal !== undefined) await withdrawal
    const endDrain = this.#settings.onDrain?.(timeoutMs)
    try {
      this.#front.close()
      await this.#waitForPending(Math.min(PENDING_MS, timeoutMs))
      this.#stop()
      const cut = await this.#open.drain(Math.max(0, deadline - performance.now()))
      if (cut > 0) log.listen('%s: %d connections cut after %d ms', this.#settings.service, cut, timeoutMs)
    } finally {
      endDrain?.()
    }
    // The sockets are gone; the server says so a turn later.
    await this.#closed
  }

  #accept(socket: Socket): void {
    try {
      // A certificate that has expired is not offered.
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

  /** Whether there may be no other connection; this one is refused then, by whom or in what state it may be. */
  #isFull(socket: Socket): boolean {
    const { maxConnections, service, reports } = this.#settings
    // Those that are being decided have proved who they are, and will mostly be let in.
    if (this.#open.size + this.#deciding.size < maxConnections) return false
    const message = `${service} has ${maxConnections} connections, and may have no other`
    const { remoteAddress } = socket
    socket.destroy()
    reports.rejected(new ConnectError('ERR_CONNECT_LIMIT', message), remoteAddress)
    return true
  }

  async #admit(socket: TLSSocket, handshake: FinishedHandshake | undefined): Promise<void> {
    const { identity, service } = this.#settings
    const durationMs = handshake?.durationMs
    // Kept for good: a peer's reset must not end the process when the application does not listen for it.
    socket.on('error', (error: Error) => {
      log.listen('%s: %s', service, error.message)
    })
    try {
      const generation = handshake?.generation ?? identity.require()
      const { peer, chain } = verifySocket(socket, generation.roots)
      const openedAt = performance.now()
      const connection: Connection = { side: 'inbound', peer, generation, chain, openedAt }
      handshakes.publish({ service, durationMs, peer, error: undefined })
      const admitted = await this.#decide(socket, connection)
      // It may have been ended again already.
      if (admitted?.destroyed === false) await this.#handle(admitted)
    } catch (error) {
      this.#reject(toError(error), socket, durationMs)
    }
  }

  /** The connection, if it is let in. */
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
        // What was decided by what was known before is decided again: from now on only a change is looked at.
        if (!outcome.authorized || epoch === this.#epoch)
          return this.#conclude(socket, connection, outcome, performance.now() - begin)
      }
    } finally {
      socket.off('close', onClose)
    }
  }

  /** The roots may have changed since the handshake began: OpenSSL verified the path against those of that moment. */
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
    if (this.#stopped) socket.destroy()
    if (socket.destroyed) return undefined
    reports.decided(outcome)
    if (!authorized) {
      socket.destroy()
      reports.denied(new DeniedError(peer, service, outcome, outcome))
      return undefined
    }
    log.listen('%s: %s connected', service, peer.spiffeId)
    const admitted = openConnection(socket, connection)
    this.#open.add(admitted)
    this.#admitted.add(admitted)
    return admitted
  }

  async #handle(socket: MeshSocket): Promise<void> {
    const { handler, service, reports } = this.#settings
    try {
      await handler(socket)
    } catch (cause) {
      socket.destroy()
      const message = `the connection handler of ${service} threw${withCause(cause)}`
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

/** A failed handshake, as what it means. */
function explain(error: Error, socket: TLSSocket): Error {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE') {
    return new VerificationError('ERR_CONNECT_CERTIFICATE_MISSING', 'a certificate of the mesh', 'none', {
      cause: error,
    })
  }
  // Node ends an unauthorized connection with a reset.
  return pathError(socket) ?? withShortMessage(error)
}
