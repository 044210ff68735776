/**
 * The only file that uses private members of Node.js. Each function documents its fallback for untested versions, so
 * that a new version of Node.js may be slower or less precise, but never less secure.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Server, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { SecureContext, Server as TlsServer, TLSSocket } from 'node:tls'

const TESTED_VERSIONS = { from: 20, to: 26 }

const major = Number(process.versions.node.split('.', 1)[0])
const isTestedVersion = major >= TESTED_VERSIONS.from && major <= TESTED_VERSIONS.to

/**
 * Makes a TLS server use this context for new connections. `setSecureContext` would create another context, ignore
 * `allowPartialTrustChain`, and keep the private key on the server, which can be reached from each accepted socket.
 * @returns false if not supported: use `setSecureContext`
 */
export function useSecureContext(server: TlsServer, context: SecureContext): boolean {
  if (!isTestedVersion || !('_sharedCreds' in server)) return false
  server._sharedCreds = context
  return true
}

const [libuvMajor = 0, libuvMinor = 0] = process.versions.uv.split('.').map(Number)
/** libuv before 1.52 reports a reset that arrives with the last bytes as an end (libuv pull request 4997). */
const mayHideReset = libuvMajor === 1 && libuvMinor < 52

/** The symbols under which Node.js stores the option `onread` of a socket. */
const ONREAD_SYMBOLS = ['kBuffer', 'kBufferCb', 'kBufferGen'] as const

interface Handle {
  useUserBuffer?(buffer: Uint8Array): void
  readonly writeQueueSize?: number
  /** Whether Node.js is reading. */
  readonly reading?: boolean
  /** The TCP handle below TLS. */
  readonly _parent?: Handle
  /** Returns 0 if it started reading, and an error code if it was reading already. */
  readStart?(): number
  readStop?(): number
  /** Called for each read. */
  onread?: () => void
}

function handleOf(stream: Duplex): Handle | null | undefined {
  return (stream as { _handle?: Handle | null })._handle
}

/**
 * Makes an accepted socket read into one buffer, as the option `onread` does for a connecting socket. A new buffer for
 * each read costs a pump a third of its speed.
 * @param callback - called with the number of bytes read; returns whether to continue reading
 * @returns false if not supported: read the socket as a stream
 */
export function adoptReads(socket: Duplex, buffer: Buffer, callback: (size: number) => boolean): boolean {
  if (!(socket instanceof Socket) || !isTestedVersion) return false
  const symbols = Object.getOwnPropertySymbols(socket)
  const [kBuffer, kBufferCb, kBufferGen] = ONREAD_SYMBOLS.map((name) =>
    symbols.find(({ description }) => description === name),
  )
  const handle = handleOf(socket)
  if (kBuffer === undefined || kBufferCb === undefined || kBufferGen === undefined) return false
  if (typeof handle?.useUserBuffer !== 'function') return false
  const own = socket as unknown as Record<symbol, unknown>
  // The socket was created with `onread`.
  if (own[kBuffer] !== null || own[kBufferGen] !== null) return false
  own[kBuffer] = buffer
  own[kBufferCb] = callback
  handle.useUserBuffer(buffer)
  return true
}

/** Returns the number of buffered bytes of a stream, in Node.js and below, as counted by the timeouts of Node.js. */
export function pendingWriteBytes(stream: Duplex): number {
  return stream.writableLength + (handleOf(stream)?.writeQueueSize ?? 0)
}

/**
 * Whether a TLS socket ends because the TCP connection ended, and not because of a close_notify. Must be called inside
 * `push(null)`. At the end of TCP, libuv stops reading before it reports the end, while a close_notify is reported
 * during a read; there is no other difference.
 *
 * If both ends arrive in one read, as they may just after the handshake, Node.js 20 and 22 call `push(null)` twice in
 * one turn of the event loop, and the result is true both times.
 * @returns false if not supported
 */
export function isEndOfTcp(socket: TLSSocket): boolean {
  const handle = handleOf(socket)
  const tcp = handle?._parent
  if (!isTestedVersion || tcp?.readStart === undefined || tcp.readStop === undefined) return false
  // If the application has paused the socket in this read, the end belongs to the same read.
  if (handle?.reading !== true) return false
  if (tcp.readStart() !== 0) return false
  tcp.readStop()
  return true
}

/**
 * Makes a destroyed socket discard bytes until its handle is closed by `_destroy`. Node.js throws an uncaught error for
 * bytes that arrive between the two.
 * @returns false if not supported: call `_destroy` in the same turn
 */
export function dropReads(socket: Duplex): boolean {
  const handle = handleOf(socket)
  if (!isTestedVersion || handle == null) return false
  handle.onread = () => undefined
  return true
}

/**
 * Makes a TCP socket detect a reset that libuv reports as an end, by another read before `end`: after a reset, the read
 * fails and destroys the socket. TLS sockets need no such check, because an end without a close_notify is an error.
 */
export function confirmEnd(socket: Socket): void {
  if (mayHideReset && isTestedVersion) socket.push = pushConfirmed
}

function pushConfirmed(this: Socket, chunk: unknown): boolean {
  if (chunk !== null) return Socket.prototype.push.call(this, chunk)
  // Not deleted, because V8 is slow with objects that have lost a property.
  this.push = Socket.prototype.push.bind(this)
  // Node.js calls this again if the read returns an end.
  return handleOf(this)?.readStart?.() === 0 ? false : this.push(null)
}

/**
 * Whether a connection of a node:http server is idle: it waits for a request, or has rejected a malformed one. False
 * for an upgraded connection.
 */
export function isIdleInHttpServer(socket: Duplex): boolean {
  const { parser } = socket as { parser?: unknown }
  return isTestedVersion && parser != null && serverResponseOn(socket) === undefined
}

/** Returns the pending response of a node:http server on this connection. */
export function serverResponseOn(socket: Duplex): ServerResponse | undefined {
  const { _httpMessage: response } = socket as { _httpMessage?: ServerResponse | null }
  return isTestedVersion ? (response ?? undefined) : undefined
}

/**
 * Returns the server of node:http2 to which a connection was delivered.
 * @returns undefined if not supported: the requests of the connection cannot be decided
 */
export function http2ServerOf(socket: Duplex): Server | undefined {
  if (!isTestedVersion) return undefined
  const own = socket as unknown as Record<symbol, unknown>
  const kServer = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'server')
  const server = kServer === undefined ? undefined : own[kServer]
  return server instanceof Server ? server : undefined
}

/** Returns the response that a node:http client is receiving on this connection. */
export function responseOn(socket: Duplex): IncomingMessage | undefined {
  const { _httpMessage: request } = socket as { _httpMessage?: { readonly res?: IncomingMessage } | null }
  return isTestedVersion ? request?.res : undefined
}

/**
 * Returns the TCP socket below the TLS socket of a server. There is no public access to it, and a TLS socket has no
 * addresses after its connection has ended.
 * @returns undefined if not supported
 */
export function tcpSocketOf(socket: TLSSocket): Socket | undefined {
  const { _parent: parent } = socket as TLSSocket & { readonly _parent?: unknown }
  return parent instanceof Socket ? parent : undefined
}
