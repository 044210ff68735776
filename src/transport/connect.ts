import { type ConnectionOptions, connect as tlsConnect } from 'node:tls'
import { ConnectError, VerificationError, toError } from '../base/errors.js'
import type { Generation } from '../identity/identity-store.js'
import type { Endpoint } from '../resolve/resolver.js'
import { bufferedReads } from '../sockets/buffered-reads.js'
import { secureContext } from './tls-context.js'
import { openConnection } from './connection.js'
import { withShortMessage } from '../sockets/openssl-error.js'
import { type VerifiedPeer, expectVerified, identifyAs, pathError } from './verify-peer.js'
import { reportRejection } from './rejection.js'
import type { MeshSocket } from './mesh-socket.js'
import { TCP } from '../sockets/tcp-options.js'

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
    let verified: VerifiedPeer | undefined
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
          verified = identifyAs(given, generation, endpoint.identity)
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
        if (verified === undefined)
          throw new VerificationError('ERR_CONNECT_PEER_RESUMED', 'a full handshake', 'another')
        settle()
        const openedAt = performance.now()
        const opened = openConnection(socket, { side: 'outbound', ...verified, generation, openedAt })
        reportRejection(socket, {
          source: generation.leaf.id.service,
          destination: endpoint.identity.service,
          openedAt,
          expectsAnswer: patience.expectsAnswer,
        })
        resolve(opened)
      } catch (error) {
        fail(toError(error))
      }
    }
    const onError = (error: Error): void => {
      // Our own verdict of the identity comes this way too.
      fail(error instanceof ConnectError ? error : (pathError(socket) ?? withShortMessage(error)))
    }
    const onClose = (): void => {
      fail(new Error('the peer closed the connection during the handshake'))
    }
    const onAbort = (): void => {
      fail(toError(signal.reason))
    }
    const settle = (): void => {
      socket.off('secureConnect', onSecure).off('error', onError).off('close', onClose)
      signal.removeEventListener('abort', onAbort)
    }
    socket.on('secureConnect', onSecure).on('error', onError).on('close', onClose)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}
