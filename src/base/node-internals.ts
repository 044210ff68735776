/**
 * The only file that touches private members of Node.js. Each function says what it falls back to on a version on which
 * it was not tried, so that a new version of Node.js is slower or less precise, and never less secure.
 */
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { SecureContext, Server as TlsServer } from 'node:tls'

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

/** Where Node.js keeps what it knows of a socket with the option `onread`, by the names of its symbols. */
const ONREAD_SYMBOLS = ['kBuffer', 'kBufferCb', 'kBufferGen'] as const

interface Handle {
  useUserBuffer?(buffer: Uint8Array): void
  readonly writeQueueSize?: number
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

/** Bytes that a stream has accepted and not passed on, in Node's buffers and in those below, as Node's own timeouts count. */
export function pendingWriteBytes(stream: Duplex): number {
  return stream.writableLength + (handleOf(stream)?.writeQueueSize ?? 0)
}
