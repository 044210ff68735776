/**
 * The only file that touches private members of Node.js. Each function says what it falls back to on a version on which
 * it was not tried, so that a new version of Node.js is slower or less precise, and never less secure.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { SecureContext, Server as TlsServer, TLSSocket } from 'node:tls'

const TRIED_VERSIONS = { from: 20, to: 26 }

const major = Number(process.versions.node.split('.', 1)[0])
const isTriedVersion = major >= TRIED_VERSIONS.from && major <= TRIED_VERSIONS.to

/**
 * Makes a TLS server use this context for new connections. `setSecureContext` would build another context, ignore
 * `allowPartialTrustChain`, and keep the private key on the server, which every accepted socket leads to.
 * @returns whether it was done; when not, use `setSecureContext`
 */
export function useSecureContext(server: TlsServer, context: SecureContext): boolean {
  if (!isTriedVersion || !('_sharedCreds' in server)) return false
  server._sharedCreds = context
  return true
}

const [libuvMajor = 0, libuvMinor = 0] = process.versions.uv.split('.').map(Number)
/** libuv before 1.52 takes a reset that arrives with the last bytes for an end (libuv pull request 4997). */
const mayHideReset = libuvMajor === 1 && libuvMinor < 52

/** Where Node.js keeps what it knows of a socket with the option `onread`, by the names of its symbols. */
const ONREAD_SYMBOLS = ['kBuffer', 'kBufferCb', 'kBufferGen'] as const

interface Handle {
  useUserBuffer?(buffer: Uint8Array): void
  readonly writeQueueSize?: number
  /** Whether Node.js wants to read. */
  readonly reading?: boolean
  /** What TLS reads from and writes to. */
  readonly _parent?: Handle
  /** Returns 0 when it has started to read, and an error when it was reading already. */
  readStart?(): number
  readStop?(): number
  /** Called with what was read. */
  onread?: () => void
}

function handleOf(stream: Duplex): Handle | null | undefined {
  return (stream as { _handle?: Handle | null })._handle
}

/**
 * Gives an accepted socket what the option `onread` gives to a socket that connects: reads go into one buffer, instead
 * of a new one for each read, which costs a pump a third of its speed.
 * @param callback - called with the number of bytes read; returns whether to read on
 * @returns whether it was done; when not, nothing has changed and the socket can be read as any stream
 */
export function adoptReads(socket: Duplex, buffer: Buffer, callback: (size: number) => boolean): boolean {
  if (!(socket instanceof Socket) || !isTriedVersion) return false
  const symbols = Object.getOwnPropertySymbols(socket)
  const [kBuffer, kBufferCb, kBufferGen] = ONREAD_SYMBOLS.map((name) =>
    symbols.find(({ description }) => description === name),
  )
  const handle = handleOf(socket)
  if (kBuffer === undefined || kBufferCb === undefined || kBufferGen === undefined) return false
  if (typeof handle?.useUserBuffer !== 'function') return false
  const own = socket as unknown as Record<symbol, unknown>
  // The socket was opened with the option already.
  if (own[kBuffer] !== null || own[kBufferGen] !== null) return false
  own[kBuffer] = buffer
  own[kBufferCb] = callback
  handle.useUserBuffer(buffer)
  return true
}

/**
 * Bytes that a stream has accepted and not passed on, in Node's buffers and in those below, as Node's own timeouts
 * count.
 */
export function pendingWriteBytes(stream: Duplex): number {
  return stream.writableLength + (handleOf(stream)?.writeQueueSize ?? 0)
}

/**
 * Whether a TLS socket is told of its end because the TCP connection ended, and not because of a close_notify. To be
 * asked in the call of `push(null)`. libuv stops to read at the end of a TCP connection before it tells of it, while a
 * close_notify is told of in the middle of a read; nothing else distinguishes the two.
 *
 * When both ends come in one read, as they may just after the handshake, Node.js 20 and 22 call `push(null)` twice in
 * one turn of the event loop, and this is true both times.
 * @returns false where it cannot be known
 */
export function isEndOfTcp(socket: TLSSocket): boolean {
  const handle = handleOf(socket)
  const tcp = handle?._parent
  if (!isTriedVersion || tcp?.readStart === undefined || tcp.readStop === undefined) return false
  // Who has stopped to read, in the same read, is told of nothing but what that read brought.
  if (handle?.reading !== true) return false
  if (tcp.readStart() !== 0) return false
  tcp.readStop()
  return true
}

/**
 * Makes a destroyed socket drop what it still reads. Its handle is closed by its `_destroy`, and Node.js throws an
 * uncaught error for bytes that arrive between the two.
 * @returns whether it was done; when not, call `_destroy` in the same turn
 */
export function dropReads(socket: Duplex): boolean {
  const handle = handleOf(socket)
  if (!isTriedVersion || handle == null) return false
  handle.onread = () => undefined
  return true
}

/**
 * Makes a TCP socket report a reset that libuv may take for an end, by reading once more before its `end`: after an end
 * there is nothing to read, and after a reset there is its error, which destroys the socket. A TLS socket needs no such
 * check, since an end without a close_notify is an error there.
 */
export function confirmEnd(socket: Socket): void {
  if (mayHideReset && isTriedVersion) socket.push = pushConfirmed
}

function pushConfirmed(this: Socket, chunk: unknown): boolean {
  if (chunk !== null) return Socket.prototype.push.call(this, chunk)
  // Not deleted, since V8 is slow with objects that have lost a property.
  this.push = Socket.prototype.push.bind(this)
  // Node.js calls again when this read brings the end as well.
  return handleOf(this)?.readStart?.() === 0 ? false : this.push(null)
}

/**
 * Whether a server of node:http has this connection and is not answering on it: it waits for a request, or has refused
 * one that it could not read. False for a connection that was upgraded.
 */
export function isIdleInHttpServer(socket: Duplex): boolean {
  const { parser, _httpMessage: answer } = socket as { parser?: unknown; _httpMessage?: unknown }
  return isTriedVersion && parser != null && answer == null
}

/** The response that a server of node:http is sending on this connection; undefined when there is none. */
export function serverResponseOn(socket: Duplex): ServerResponse | undefined {
  const { _httpMessage: response } = socket as { _httpMessage?: ServerResponse | null }
  return isTriedVersion ? (response ?? undefined) : undefined
}

/** The answer that a client of node:http is receiving on this connection; undefined when there is none. */
export function responseOn(socket: Duplex): IncomingMessage | undefined {
  const { _httpMessage: request } = socket as { _httpMessage?: { readonly res?: IncomingMessage } | null }
  return isTriedVersion ? request?.res : undefined
}

/**
 * The TCP socket below a server's TLS socket. A TLS socket whose connection has ended has no addresses, and nothing
 * public leads from it to its connection.
 * @returns undefined where it cannot be known
 */
export function tcpSocketOf(socket: TLSSocket): Socket | undefined {
  const { _parent: parent } = socket as TLSSocket & { readonly _parent?: unknown }
  return parent instanceof Socket ? parent : undefined
}
