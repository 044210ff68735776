import { systemClock } from '../base/clock.js'
import type { MeshSocket } from '../transport/mesh-socket.js'

/** The first bytes of HTTP/2 (RFC 9113, section 3.4). No method of HTTP/1 begins with them. */
const PREFACE = Buffer.from('PRI ')
/** How long a connection may take to show its version: as long as node:http waits for the headers of a request. */
const TIMEOUT_MS = 60_000

/**
 * Marks a connection as HTTP/2. Clients behind a proxy negotiate no ALPN protocol, which node:http2 treats as HTTP/1.1.
 */
export function speaksHttp2(socket: MeshSocket): void {
  setVersion(socket, 'h2')
}

/**
 * Calls back when the version of HTTP on a connection is known. If the server accepts both, it is read from the first bytes,
 * which are put back: a proxy may negotiate another version than its client speaks. A connection that ends first is
 * destroyed.
 * @param accepted - the names of the versions that the server accepts
 */
export function onceVersionIsKnown(
  socket: MeshSocket,
  accepted: readonly string[],
  callback: () => void,
): void {
  if (!accepted.includes('http/1.1')) {
    speaksHttp2(socket)
    callback()
    return
  }
  const read: Buffer[] = []
  const onReadable = (): void => {
    const chunk = socket.read() as Buffer | null
    if (chunk === null) return
    read.push(chunk)
    const bytes = Buffer.concat(read)
    const isHttp2 = startsLike(bytes, PREFACE)
    if (isHttp2 && bytes.length < PREFACE.length) return
    stop()
    socket.unshift(bytes)
    setVersion(socket, isHttp2 ? 'h2' : 'http/1.1')
    callback()
  }
  const end = (): void => {
    socket.destroy()
  }
  const cancelTimeout = systemClock.after(TIMEOUT_MS, end)
  const stop = (): void => {
    cancelTimeout()
    socket.off('readable', onReadable).off('end', end).off('close', stop)
  }
  socket.on('readable', onReadable).once('end', end).once('close', stop)
}

/** node:http2 reads it from this property. */
function setVersion(socket: MeshSocket, name: string): void {
  const given = socket as { alpnProtocol?: unknown }
  given.alpnProtocol = name
}

/** Whether one begins with the other. */
function startsLike(a: Buffer, b: Buffer): boolean {
  const length = Math.min(a.length, b.length)
  return a.subarray(0, length).equals(b.subarray(0, length))
}
