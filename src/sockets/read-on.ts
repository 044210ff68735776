import { Socket } from 'node:net'
import { systemClock } from '../base/clock.js'
import { isNetworkError } from './network-errors.js'
import { onceDestroyed } from './destruction.js'

/** How long received bytes may stay unread before the socket is destroyed, in milliseconds. */
const UNREAD_TIMEOUT_MS = 2_000

/**
 * Keeps a socket readable after a failed write. A server that rejects an upload sends its response and closes the
 * connection; Node.js destroys the socket at the write error and discards the response. With this, the socket reads to
 * its end and is destroyed with the same error afterwards. Writes in the meantime are discarded.
 */
export function keepReadingAfterWriteError(socket: Socket): void {
  if (socket._write === write) return
  socket._write = write
  // The types of Node.js lack `_writev`.
  if ('_writev' in Socket.prototype) socket._writev = writev
}

type Callback = (error?: Error | null) => void
type Chunks = Parameters<NonNullable<Socket['_writev']>>[0]

function write(this: Socket, chunk: unknown, encoding: BufferEncoding, callback: Callback): void {
  Socket.prototype._write.call(this, chunk, encoding, whenWritten(this, callback))
}

function writev(this: Socket, chunks: Chunks, callback: Callback): void {
  Socket.prototype._writev?.call(this, chunks, whenWritten(this, callback))
}

function whenWritten(socket: Socket, callback: Callback): Callback {
  return (error) => {
    if (!isNetworkError(error) || socket.destroyed || socket.readableEnded) {
      callback(error)
      return
    }
    readOn(socket, error)
    callback()
  }
}

function readOn(socket: Socket, error: Error): void {
  if (socket._write === discard) return
  socket._write = discard
  socket._writev = (_chunks, callback) => {
    setImmediate(callback)
  }
  // The writable side can no longer finish.
  socket._final = () => undefined
  const fail = (): void => {
    socket.destroy(error)
  }
  // Added last, so that earlier `end` listeners see an orderly end.
  socket.once('end', fail)
  let cancel = (): void => undefined
  const arm = (bytesRead: number): void => {
    cancel = systemClock.after(UNREAD_TIMEOUT_MS, () => {
      if (socket.bytesRead > bytesRead) arm(socket.bytesRead)
      else fail()
    })
  }
  arm(socket.bytesRead)
  onceDestroyed(socket, () => {
    cancel()
  })
}

/** Discards a chunk, one per turn of the event loop: a writer that never waits would block reading. */
function discard(_chunk: unknown, _encoding: BufferEncoding, callback: Callback): void {
  setImmediate(callback)
}
