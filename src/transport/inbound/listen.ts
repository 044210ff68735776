import { type AddressInfo, type Server, type Socket, createServer } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { type CloseOptions, drainTimeout } from '../../base/options/close-options.js'
import { withDeadline } from '../../base/deadline.js'
import { ConnectError, TimeoutError, VerificationError, toError } from '../../base/errors.js'
import { log } from '../../base/log.js'
import type { Generation } from '../../identity/identity-store.js'
import { type ListenAddress, bindServer } from '../../sockets/bind-server.js'
import { withinDrain } from '../../sockets/open-sockets.js'
import { withShortMessage } from '../../base/openssl-error.js'
import { TCP } from '../../sockets/tcp-options.js'
import { Admission, type AdmissionSettings } from './admission.js'
import { Handshakes } from './handshakes.js'
import { onceOffered } from './client-hello.js'
import { ALPN_NAME } from '../mux/session.js'
import { SecureServer } from './secure-server.js'
import { pathError } from '../verify-peer.js'

/** How long `close` waits for pending handshakes and authorization decisions, which usually take milliseconds. */
const PENDING_MS = 1_000

/** A server of the application whose TCP connections a listener accepts. */
export interface AdoptedServer {
  readonly server: Server
  /** Passes each TCP connection of the server to the listener. */
  onConnection(accept: (socket: Socket) => void): void
  /** Makes the server stop listening. Its open connections stay. */
  stopListening(): void
}

export interface ListenerSettings extends AdmissionSettings {
  readonly maxHandshakes: number
  readonly drainTimeoutMs: number
  /** Whether peers may send many connections over one. */
  readonly mux: boolean
  readonly alpnProtocols: readonly string[] | undefined
  /** @default a TCP server of the listener, which `open` binds */
  readonly adopted?: AdoptedServer | undefined
  /** Called when a drain begins. The returned function is called when the drain is over. */
  readonly onDrain?: (timeoutMs: number) => () => void
  /** Called before the listener stops accepting. The listener waits for the returned promise. */
  readonly onClosing: () => Promise<unknown> | undefined
  /** Called when the server and all connections are closed. */
  readonly onClosed: () => void
}

/**
 * Accepts mutual-TLS connections. A connection passes the TLS handshake, in which OpenSSL verifies the certificate path
 * to the roots, and then the steps of `Admission`.
 */
export class Listener implements AsyncDisposable {
  readonly #settings: ListenerSettings
  readonly #tcpServer: Server
  readonly #tls: SecureServer
  /** For peers that send many connections over one. */
  readonly #muxTls: SecureServer | undefined
  // A connection is a pending handshake, as a TCP socket, or in the admission, as a TLS socket. Then its TCP socket must
  // not be touched: Node.js 20 crashes when both are destroyed inside the callback that ends a handshake.
  readonly #handshakes: Handshakes
  readonly #admission: Admission
  #onPendingEnded: (() => void) | undefined
  readonly #onGeneration = (generation: Generation): void => {
    this.#tls.use(generation)
    this.#muxTls?.use(generation)
  }
  readonly #closed: Promise<void>
  #closing: Promise<void> | undefined
  #hasStoppedListening = false
  #isStopped = false

  /** @throws IdentityError when there is no certificate to listen with */
  constructor(settings: ListenerSettings) {
    const { handshakeTimeoutMs, allowHalfOpen, alpnProtocols, adopted, mux } = settings
    this.#settings = settings
    this.#admission = new Admission(settings, () => this.#onPendingEnded?.())
    const limits = { count: settings.maxHandshakes, timeoutMs: handshakeTimeoutMs }
    this.#handshakes = new Handshakes(limits, {
      fault: ({ remoteAddress }, fault) => {
        const what = `handshake of ${remoteAddress ?? 'a peer'}`
        const error =
          'bytes' in fault
            ? new ConnectError('ERR_CONNECT_LIMIT', `${what} ended: it had sent ${fault.bytes} bytes`)
            : new TimeoutError(what, handshakeTimeoutMs)
        settings.reports.rejected(error, remoteAddress)
      },
      empty: () => this.#onPendingEnded?.(),
    })
    const generation = settings.identity.require()
    this.#tls = new SecureServer(generation, { handshakeTimeoutMs, alpnProtocols })
    // A server of its own: with ALPN protocols, OpenSSL refuses clients that offer only others.
    this.#muxTls = mux
      ? new SecureServer(generation, { handshakeTimeoutMs, alpnProtocols: [ALPN_NAME] })
      : undefined
    for (const { server } of [this.#tls, ...(this.#muxTls === undefined ? [] : [this.#muxTls])]) {
      server.on('secureConnection', (socket) => {
        socket.allowHalfOpen = allowHalfOpen
        void this.#admission.admit(socket, this.#handshakes.end(socket))
      })
      server.on('tlsClientError', (error, socket) => {
        if (this.#handshakes.hasEnded(socket)) {
          socket.destroy()
          return
        }
        const handshake = this.#handshakes.end(socket)
        // The TCP check of an agent, or a port scan: nothing has been rejected.
        if (handshake?.bytes === 0) {
          log.listen('%s: %s left before its first byte', settings.service, socket.remoteAddress)
          socket.destroy()
        } else this.#admission.reject(explain(error, socket), socket, handshake?.durationMs)
      })
    }
    const accept = (socket: Socket): void => {
      this.#accept(socket)
    }
    adopted?.onConnection(accept)
    // Without allowHalfOpen: a client that ends its side during the handshake is gone.
    this.#tcpServer = adopted?.server ?? createServer(TCP, accept)
    settings.identity.on('changed', this.#onGeneration)
    this.#closed = new Promise((resolve) => {
      const onClose = (): void => {
        // An adopted server may emit the `close` of an earlier port.
        if (this.#hasStoppedListening) resolve()
        else this.#tcpServer.once('close', onClose)
      }
      this.#tcpServer.once('close', onClose)
    })
    void this.#closed.then(() => {
      settings.identity.off('changed', this.#onGeneration)
      this.#admission.close()
      settings.onClosed()
    })
  }

  /**
   * Starts to listen. Not for an adopted server, which the application binds.
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

  /** Whether peers may send many connections over one. */
  get takesSessions(): boolean {
    return this.#muxTls !== undefined
  }

  /** The address and port, or the path of the Unix socket; null after the listener has stopped accepting. */
  address(): AddressInfo | string | null {
    return this.#tcpServer.address()
  }

  /** The number of open connections that were passed to the handler. */
  get connections(): number {
    return this.#admission.open.size
  }

  /**
   * Authorizes every open connection again, and closes those that are denied; each emits a `revoked` event. This
   * happens automatically when intentions change. Call it when data changes that a custom authorizer depends on.
   * @returns the number of closed connections
   */
  async reauthorize(): Promise<number> {
    return this.#admission.reauthorize()
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
    this.#admission.open.destroy()
    this.#admission.destroySessions()
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
      while (this.#handshakes.size > 0 || this.#admission.pending > 0) {
        await new Promise<void>((resolve) => {
          this.#onPendingEnded = resolve
        })
      }
    }
    // Those that take longer are ended.
    await withDeadline('drain', { timeoutMs }, isOver).catch(() => undefined)
  }

  #stopListening(): void {
    this.#hasStoppedListening = true
    const { adopted } = this.#settings
    if (adopted === undefined) this.#tcpServer.close()
    else adopted.stopListening()
  }

  #stop(): void {
    this.#isStopped = true
    this.#stopListening()
    this.#handshakes.destroy()
    this.#admission.stop()
  }

  async #drain(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    // Deregister first, so that clients choose other instances before this one refuses connections.
    const withdrawal = this.#settings.onClosing()
    if (withdrawal !== undefined) await withdrawal
    const endDrain = this.#beginDrain(timeoutMs)
    try {
      this.#stopListening()
      this.#admission.drainSessions()
      await this.#waitForPending(Math.min(PENDING_MS, timeoutMs))
      this.#stop()
      const cut = await this.#admission.open.drain(Math.max(0, deadline - performance.now()))
      if (cut > 0) log.listen('%s: %d connections cut after %d ms', this.#settings.service, cut, timeoutMs)
    } finally {
      endDrain?.()
    }
    // The server emits `close` one turn after its last socket.
    await this.#closed
  }

  /** A failure in the server of the application must not keep the listener open. */
  #beginDrain(timeoutMs: number): (() => void) | undefined {
    try {
      return this.#settings.onDrain?.(timeoutMs)
    } catch (error) {
      this.#settings.reports.warning(toError(error))
      return undefined
    }
  }

  #accept(socket: Socket): void {
    if (this.#isStopped) {
      socket.destroy()
      return
    }
    try {
      // Throws when our certificate has expired.
      this.#settings.identity.require()
    } catch (error) {
      this.#settings.reports.warning(toError(error))
      socket.destroy()
      return
    }
    if (this.#admission.refuseIfFull(socket)) return
    this.#handshakes.begin(socket, this.#tls.generation)
    const muxTls = this.#muxTls
    if (muxTls === undefined) this.#tls.server.emit('connection', socket)
    else {
      onceOffered(socket, (protocols) => {
        const { server } = protocols.includes(ALPN_NAME) ? muxTls : this.#tls
        server.emit('connection', socket)
      })
    }
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
