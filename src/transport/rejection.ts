import type { TLSSocket } from 'node:tls'
import { DialError, withCause } from '../base/errors.js'
import { isNetworkError, resetError } from '../sockets/network-errors.js'

/** For so long after the handshake an end is taken for a rejection, in milliseconds; a later one has another reason. */
const PLAUSIBLE_MS = 2_000

/** What is known of a connection that may be rejected. */
export interface Dialled {
  /** Our service, and that of the peer. */
  readonly source: string
  readonly destination: string
  /** When the handshake was over, by performance.now(). */
  readonly openedAt: number
  /** Whether an end before the first byte is an error although no error came with it. */
  readonly expectsAnswer: boolean
}

/**
 * In TLS 1.3 the client is done before the server has judged its certificate. A server that says no closes then,
 * or sends an alert, and what the client sees is a connection that ends before its first byte. That is turned into
 * an error that says so, because an empty answer would look like a success.
 */
export function reportRejection(socket: TLSSocket, dialled: Dialled): void {
  let hasPushed = false
  // HTTP/2 takes the bytes from below, without the stream's knowledge.
  const hasSpoken = (): boolean => hasPushed || socket.bytesRead > 0
  // Put back as they are: with a bound method or a deleted property, V8 makes each use of the socket slower (10 % of all
  // requests on Node.js 24).
  const push = Reflect.get<TLSSocket, 'push'>(socket, 'push')
  const emit = Reflect.get<TLSSocket, 'emit'>(socket, 'emit')
  const destroy = socket._destroy.bind(socket)
  // The first thing that the peer says, or its end, passes here; afterwards the socket is as it was.
  socket.push = (chunk: unknown): boolean => {
    const ended = chunk === null
    // Somebody who has said everything and wants no answer is not rejected.
    if (ended && !hasSpoken() && !socket.writableEnded && dialled.expectsAnswer) {
      socket.destroy(rejection(dialled) ?? resetError('the peer closed the connection before its first byte'))
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
    const rejected = !hasSpoken() && isNetworkError(error) ? rejection(dialled, error) : undefined
    destroy(rejected ?? error, callback)
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

/** Undefined when it is too late for one. */
function rejection({ source, destination, openedAt }: Dialled, cause?: Error): DialError | undefined {
  const ageMs = Math.round(performance.now() - openedAt)
  if (ageMs > PLAUSIBLE_MS) return undefined
  const message =
    `the connection was closed before its first byte, ${ageMs} ms after the handshake${withCause(cause)}; ` +
    `an intention (consul intention check ${source} ${destination} tells), our certificate or the application may be the reason`
  return new DialError('ERR_CONNECT_REJECTED', destination, message, { cause })
}
