import { type ConnectionOptions, connect as tlsConnect } from 'node:tls'
import { ConnectError, VerificationError, toError } from '../../base/errors.js'
import type { Generation } from '../../identity/identity-store.js'
import { serverName } from '../../identity/server-name.js'
import { expectedAt } from '../../identity/verify.js'
import type { Endpoint } from '../../resolve/resolver.js'
import { bufferedReads } from '../../sockets/buffered-reads.js'
import { secureContext } from '../tls-context.js'
import { openConnection } from '../connection.js'
import { withShortMessage } from '../../base/openssl-error.js'
import { type VerifiedPeer, expectVerified, identifyAs, pathError } from '../verify-peer.js'
import { reportRejection } from './rejection.js'
import type { MeshSocket } from '../mesh-socket.js'
import { TCP } from '../../sockets/tcp-options.js'

/** How a dialed socket behaves. */
export interface SocketSettings {
  /** Whether our side stays open after the peer has ended its side. */
  readonly allowHalfOpen: boolean
  /**
   * Whether an end before the first byte of the peer, while our side is open, is an error: the peer has most likely
   * rejected us. False for a caller that set `allowHalfOpen` and handles the end itself.
   */
  readonly expectsAnswer: boolean
  /** Whether only a pump reads the socket, so that it needs no `data` events. */
  readonly isForPump?: boolean
  /** ALPN protocols to offer, the preferred one first. @default none */
  readonly alpnProtocols?: readonly string[] | undefined
}

export interface ConnectOptions {
  readonly signal: AbortSignal
  readonly socketSettings: SocketSettings
}

/**
 * Connects to one instance, completes the TLS handshake, and verifies the identity of the peer. No socket stays open
 * when it fails.
 */
export function connect(
  endpoint: Endpoint,
  generation: Generation,
  { signal, socketSettings }: ConnectOptions,
): Promise<MeshSocket> {
  return new Promise((resolve, reject) => {
    let verified: VerifiedPeer | undefined
    const { leaf, roots } = generation
    const servername =
      endpoint.serverName ??
      serverName(expectedAt(leaf.id, endpoint.identity), roots.trustDomain, endpoint.subset)
    // Node.js documents allowHalfOpen here, but its types lack it.
    const options: ConnectionOptions & { allowHalfOpen: boolean } = {
      host: endpoint.host,
      port: endpoint.port,
      ...(servername !== undefined && { servername }),
      secureContext: secureContext(generation),
      allowHalfOpen: socketSettings.allowHalfOpen,
      rejectUnauthorized: true,
      ...(socketSettings.alpnProtocols !== undefined && { ALPNProtocols: [...socketSettings.alpnProtocols] }),
      // Called after OpenSSL has verified the certificate path. The host name is no identity in a mesh.
      checkServerIdentity: (_host, given) => {
        try {
          verified = identifyAs(given, generation, endpoint.identity)
          return undefined
        } catch (error) {
          return toError(error)
        }
      },
    }
    const reads = socketSettings.isForPump === true ? bufferedReads() : undefined
    const socket = tlsConnect({ ...options, ...(reads && { onread: reads.onread }) })
    reads?.bind(socket)
    // tls.connect() ignores these as options, unlike net.connect().
    socket.setNoDelay(TCP.noDelay)
    socket.setKeepAlive(TCP.keepAlive, TCP.keepAliveInitialDelay)
    const fail = (error: Error): void => {
      settle()
      // An error event after this point must not end the process.
      socket.on('error', () => undefined)
      socket.destroy()
      reject(error)
    }
    const onSecure = (): void => {
      try {
        expectVerified(socket)
        // Node.js skips checkServerIdentity for a resumed session.
        if (verified === undefined)
          throw new VerificationError('ERR_CONNECT_PEER_RESUMED', 'a full handshake', 'another')
        settle()
        const openedAt = performance.now()
        const opened = openConnection(socket, { side: 'outbound', ...verified, generation, openedAt })
        reportRejection(socket, {
          source: leaf.id.service,
          destination: endpoint.identity.service,
          openedAt,
          expectsAnswer: socketSettings.expectsAnswer,
        })
        resolve(opened)
      } catch (error) {
        fail(toError(error))
      }
    }
    const onError = (error: Error): void => {
      // An error returned by checkServerIdentity arrives here as well.
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
