import type { TLSSocket } from 'node:tls'
import { DialError, withCause } from '../../base/errors.js'
import { mapDestroyError } from '../../sockets/destruction.js'
import { isNetworkError, resetError } from '../../sockets/network-errors.js'

/** How long after the handshake an end counts as a rejection, in milliseconds; a later end has another reason. */
const PLAUSIBLE_MS = 2_000

/** A dialed connection that the server may still reject. */
export interface DialedConnection {
  /** Our service. */
  readonly source: string
  /** The service of the peer. */
  readonly destination: string
  /** When the handshake completed, by `performance.now()`. */
  readonly openedAt: number
  /** Whether an orderly end before the first byte is an error. */
  readonly expectsAnswer: boolean
}

/**
 * Reports a connection that ends before its first byte as rejected (ERR_CONNECT_REJECTED). In TLS 1.3 the client
 * completes the handshake before the server has verified the certificate of the client: a server that rejects it closes
 * the connection or sends an alert afterwards, which would look like an empty response.
 */
export function reportRejection(socket: TLSSocket, connection: DialedConnection): void {
  let hasPushed = false
  // node:http2 reads the bytes below the stream, so that `push` is never called.
  const hasSpoken = (): boolean => hasPushed || socket.bytesRead > 0
  // Put back as they are: with a bound method or a deleted property, V8 makes each use of the socket slower (10 % of
  // all requests on Node.js 24).
  const push = Reflect.get<TLSSocket, 'push'>(socket, 'push')
  const emit = Reflect.get<TLSSocket, 'emit'>(socket, 'emit')
  // Called for the first bytes of the peer or for its end; then the socket gets its own methods back.
  socket.push = (chunk: unknown): boolean => {
    const ended = chunk === null
    // A client that has ended its own side does not wait for a response.
    if (ended && !hasSpoken() && !socket.writableEnded && connection.expectsAnswer) {
      socket.destroy(
        rejection(connection) ?? resetError('the peer closed the connection before its first byte'),
      )
      return false
    }
    socket.push = push
    // After a bare end the peer may still send an alert or a reset.
    if (!ended) {
      hasPushed = true
      socket.emit = emit
    }
    return push.call(socket, chunk)
  }
  mapDestroyError(socket, (error) => {
    const rejected = !hasSpoken() && isNetworkError(error) ? rejection(connection, error) : undefined
    return rejected ?? error
  })
  // Node.js emits an alert after the handshake as an error, but does not destroy the socket.
  socket.emit = (event: string | symbol, ...args: unknown[]): boolean => {
    const [error] = args
    if (event !== 'error' || !isNetworkError(error))
      return Reflect.apply(emit, socket, [event, ...args]) as boolean
    socket.destroy(error)
    return true
  }
}

/** Returns the error for an early end; undefined when the end is too late for a rejection. */
function rejection(
  { source, destination, openedAt }: DialedConnection,
  cause?: Error,
): DialError | undefined {
  const ageMs = Math.round(performance.now() - openedAt)
  if (ageMs > PLAUSIBLE_MS) return undefined
  const message =
    `the connection was closed before its first byte, ${ageMs} ms after the handshake${withCause(cause)}; ` +
    `possible reasons are an intention (run: consul intention check ${source} ${destination}), our certificate, or the application`
  return new DialError('ERR_CONNECT_REJECTED', destination, message, { cause })
}
