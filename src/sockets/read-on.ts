import { Socket } from 'node:net'
import { systemClock } from '../base/clock.js'
import { isNetworkError } from './network-errors.js'
import { onceDestroyed } from './open-sockets.js'

/** How long what the other end had said may wait for its reader, in milliseconds, without a byte of it being read. */
const PATIENCE_MS = 2_000

/**
 * When a write fails, the other end may have answered before it closed: a server that refuses an upload says so and
 * hangs up. Node.js destroys the socket at once, with what the kernel has received for it. This reads on to the end, and
 * fails with the same error after that; what is written in the meantime is dropped.
 */
export function readOnAfterWriteErrors(socket: Socket): void {
  if (socket._write === write) return
  socket._write = write
  // Node's own, which its published types lack.
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
  if (socket._write === dropped) return
  socket._write = dropped
  socket._writev = (_chunks, callback) => {
    setImmediate(callback)
  }
  // It cannot finish any more.
  socket._final = () => undefined
  const fail = (): void => {
    socket.destroy(error)
  }
  // After those who wait for the end: it is a good one to them.
  socket.once('end', fail)
  let cancel = (): void => undefined
  const arm = (bytesRead: number): void => {
    cancel = systemClock.after(PATIENCE_MS, () => {
      if (socket.bytesRead > bytesRead) arm(socket.bytesRead)
      else fail()
    })
  }
  arm(socket.bytesRead)
  onceDestroyed(socket, () => {
    cancel()
  })
}

/** Takes one turn of the event loop for each chunk: a writer that never waits would leave no turn for reading. */
function dropped(_chunk: unknown, _encoding: BufferEncoding, callback: Callback): void {
  setImmediate(callback)
}
