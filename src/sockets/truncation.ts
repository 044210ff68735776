import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { dropReads, isEndOfTcp } from '../base/node-internals.js'
import { resetError } from './network-errors.js'

/** Sockets whose TCP connection has ended, while it is not known yet whether TLS had ended before. */
const doubtful = new WeakSet<TLSSocket>()

/**
 * Makes an end without the peer's close_notify an error with the code ECONNRESET, after what came before it: anybody on
 * the way can end a TCP connection, so what was received may be cut short (RFC 8446, section 6.1). Node.js takes such
 * an end for a good one.
 */
export function refuseTruncation(socket: TLSSocket): void {
  socket.push = push
}

function push(this: TLSSocket, chunk: unknown): boolean {
  if (chunk !== null) return TLSSocket.prototype.push.call(this, chunk)
  if (doubtful.delete(this)) {
    // Node.js told of the end of TLS, and in the same turn of the event loop of that of TCP.
    return TLSSocket.prototype.push.call(this, null)
  }
  if (!isEndOfTcp(this)) return TLSSocket.prototype.push.call(this, null)
  doubtful.add(this)
  setImmediate(() => {
    if (doubtful.delete(this)) truncated(this)
  })
  return false
}

function truncated(socket: TLSSocket): void {
  const fail = (): void => {
    socket.destroy(
      resetError('the peer closed the connection without a close_notify: what it sent may be cut short'),
    )
  }
  if (socket.readableLength === 0) {
    fail()
    return
  }
  // A reader may come later. An empty chunk ends the read under way, so that `_read` is called for each further one.
  const endRead = (): void => {
    TLSSocket.prototype.push.call(socket, Buffer.alloc(0))
  }
  socket._read = () => {
    if (socket.readableLength === 0) fail()
    else endRead()
  }
  endRead()
}

/**
 * Makes an accepted socket that is ended in the turn of its handshake send its close_notify: OpenSSL refuses to before it
 * has sent its session tickets, which it does after Node.js has told of the handshake, and Node.js 20 and 22 then end
 * the TCP connection without.
 */
export function endAfterHandshake(socket: TLSSocket): void {
  const final = socket._final.bind(socket)
  let isHandshakeTurn = true
  setImmediate(() => {
    isHandshakeTurn = false
  })
  socket._final = (callback) => {
    if (isHandshakeTurn) {
      setImmediate(() => {
        final(callback)
      })
    } else final(callback)
  }
}

/**
 * Makes `destroy` send a close_notify while `isDone()`: when whatever would be cut short says so itself, as an HTTP
 * message does. The clients and servers of Node.js end their idle connections by `destroy`, which sends none.
 */
export function closeWhenDestroyed(socket: Duplex, isDone: () => boolean): void {
  const destroy = socket._destroy.bind(socket)
  socket._destroy = (error, callback) => {
    if (socket.writableEnded || !isDone() || !dropReads(socket)) {
      destroy(error, callback)
      return
    }
    // What has just been written is on its way after this turn, and a close_notify is only sent after it.
    setImmediate(() => {
      // It is not waited for: what does not fit into the kernel's buffer was not read by the peer either.
      Socket.prototype._final.call(socket, () => undefined)
      destroy(error, callback)
    })
  }
}
