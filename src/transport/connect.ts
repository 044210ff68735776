import type { X509Certificate } from 'node:crypto'
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls'
import { ConnectError, DialError, VerificationError, because, toError } from '../errors.js'
import type { Peer } from '../identity/peer.js'
import type { Generation } from '../identity/store.js'
import type { Endpoint } from '../resolve/resolver.js'
import { bufferedReads } from './buffered-reads.js'
import { secureContext } from './context.js'
import { openConnection } from './connection.js'
import { type PresentedCertificate, expectVerified, identifyAs, pathError } from './peer.js'
import type { MeshSocket } from './socket.js'
import { TCP } from './tcp.js'

/** What a peer may do before its first byte. */
export interface Patience {
  /** Whether our side stays open when the peer ends its own. */
  readonly allowHalfOpen: boolean
  /**
   * Whether a peer that ends before it has said anything, while we have not ended, has rejected us. Who keeps its
   * side open for the peer's end judges that itself, unless it only copies.
   */
  readonly expectsAnswer: boolean
  /** Whether it is for a pump, and for nobody who listens to `data`. */
  readonly isForPump?: boolean
  /** ALPN names to offer, the one that is liked best first. @default none */
  readonly alpnProtocols?: readonly string[] | undefined
}

export interface ConnectOptions {
  readonly signal: AbortSignal
  readonly patience: Patience
}

/**
 * One try at one instance: connect, handshake, and the peer's identity. Resolves with a socket that is proved, or
 * rejects and leaves nothing open.
 */
export function connect(
  endpoint: Endpoint,
  generation: Generation,
  { signal, patience }: ConnectOptions,
): Promise<MeshSocket> {
  return new Promise((resolve, reject) => {
    let peer: Peer | undefined
    let certificate: PresentedCertificate | undefined
    // Node documents allowHalfOpen here; its published types lack it.
    const options: ConnectionOptions & { allowHalfOpen: boolean } = {
      host: endpoint.host,
      port: endpoint.port,
      secureContext: secureContext(generation),
      allowHalfOpen: patience.allowHalfOpen,
      rejectUnauthorized: true,
      ...(patience.alpnProtocols !== undefined && { ALPNProtocols: [...patience.alpnProtocols] }),
      // The host's name proves nothing in a mesh. Node calls this when OpenSSL has verified the path.
      checkServerIdentity: (_host, given) => {
        try {
          certificate = given
          peer = identifyAs(given, generation, endpoint.identity)
          return undefined
        } catch (error) {
          return toError(error)
        }
      },
    }
    const reads = patience.isForPump === true ? bufferedReads() : undefined
    const socket = tlsConnect({ ...options, ...(reads && { onread: reads.onread }) })
    reads?.bind(socket)
    // Node takes these as options of net.connect, and not of tls.connect.
    socket.setNoDelay(TCP.noDelay)
    socket.setKeepAlive(TCP.keepAlive, TCP.keepAliveInitialDelay)
    const getPeerCertificate = methodOf(socket, 'getPeerCertificate')
    takeCertificateCheaply(socket)
    const fail = (error: Error): void => {
      settle()
      // A late error has nobody left to tell.
      socket.on('error', () => undefined)
      socket.destroy()
      reject(error)
    }
    const onSecure = (): void => {
      try {
        expectVerified(socket)
        // A resumed session would have come here without the check above.
        if (peer === undefined || certificate === undefined)
          throw new VerificationError('ERR_CONNECT_PEER_RESUMED', 'a full handshake', 'another')
        settle()
        reportRejection(socket, endpoint.identity.service, patience)
        resolve(
          openConnection(socket, {
            side: 'outbound',
            peer,
            generation,
            certificate,
            openedAt: performance.now(),
          }),
        )
      } catch (error) {
        fail(toError(error))
      }
    }
    const onError = (error: Error): void => {
      // Our own verdict of the identity comes this way too.
      fail(error instanceof ConnectError ? error : (pathError(socket) ?? error))
    }
    const onClose = (): void => {
      fail(new Error('the peer closed the connection during the handshake'))
    }
    const onAbort = (): void => {
      fail(toError(signal.reason))
    }
    const settle = (): void => {
      socket.getPeerCertificate = getPeerCertificate
      socket.off('secureConnect', onSecure).off('error', onError).off('close', onClose)
      signal.removeEventListener('abort', onAbort)
    }
    socket.on('secureConnect', onSecure).on('error', onError).on('close', onClose)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}

/**
 * For checkServerIdentity Node takes the certificate apart, keys, names and all, which costs more than the rest of what
 * we do for a connection. The identity step needs its bytes alone. Should Node not ask the socket any more, it passes
 * its own object, which serves as well.
 */
function takeCertificateCheaply(socket: TLSSocket): void {
  const take = (): X509Certificate | undefined => socket.getPeerX509Certificate()
  Object.defineProperty(socket, 'getPeerCertificate', { value: take, configurable: true, writable: true })
}

/**
 * In TLS 1.3 the client is done before the server has judged its certificate. A server that says no closes then,
 * or sends an alert, and what the client sees is a connection that ends before its first byte. That is turned into
 * an error that says so, because an empty answer would look like a success.
 */
function reportRejection(socket: TLSSocket, upstream: string, { expectsAnswer }: Patience): void {
  const rejected = (cause: Error | undefined): DialError => {
    const message = `the connection was closed before its first byte${because(cause)}; an intention, our certificate or the application may be the reason`
    return new DialError('ERR_CONNECT_REJECTED', upstream, message, { cause })
  }
  let hasPushed = false
  // HTTP/2 takes the bytes from below, without the stream's knowledge.
  const hasSpoken = (): boolean => hasPushed || socket.bytesRead > 0
  const push = methodOf(socket, 'push')
  const emit = methodOf(socket, 'emit')
  const destroy = socket._destroy.bind(socket)
  // The first thing that the peer says, or its end, passes here; afterwards the socket is as it was.
  socket.push = (chunk: unknown): boolean => {
    const ended = chunk === null
    // Somebody who has said everything and wants no answer is not rejected.
    if (ended && !hasSpoken() && !socket.writableEnded && expectsAnswer) {
      socket.destroy(rejected(undefined))
      return false
    }
    socket.push = push
    // A peer that is only done with talking may still reset what it is sent.
    if (!ended) {
      hasPushed = true
      socket.emit = emit
    }
    return push.call(socket, chunk)
  }
  // Not put back, since others may have put theirs before it.
  socket._destroy = (error, callback): void => {
    destroy(!hasSpoken() && isNetworkError(error) ? rejected(error) : error, callback)
  }
  // An alert after the handshake is emitted by Node as an error that does not end the socket.
  socket.emit = (event: string | symbol, ...args: unknown[]): boolean => {
    const [error] = args
    if (event !== 'error' || !isNetworkError(error))
      return Reflect.apply(emit, socket, [event, ...args]) as boolean
    socket.destroy(error)
    return true
  }
}

/**
 * A method as it stands on a socket, to be put back there. A bound one in its place, or a property that is deleted again,
 * would make every use of the socket slower, by a tenth of all requests on Node 24: V8 keeps such an object in another
 * form.
 */
function methodOf<K extends 'emit' | 'push' | 'getPeerCertificate'>(
  socket: TLSSocket,
  name: K,
): TLSSocket[K] {
  return socket[name]
}

function isNetworkError(error: unknown): error is Error {
  if (!(error instanceof Error)) return false
  const { code } = error as NodeJS.ErrnoException
  return code === 'ECONNRESET' || code === 'EPIPE' || code?.startsWith('ERR_SSL_') === true
}
