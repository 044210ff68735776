import { TLSSocket } from 'node:tls'
import { isEndOfTcp } from '../base/node-internals.js'
import { resetError } from './network-errors.js'

/** Sockets whose TCP connection has ended, until it is known whether a close_notify came first. */
const doubtful = new WeakSet<TLSSocket>()

/**
 * Makes an end without a close_notify of the peer an error with the code ECONNRESET, after all received bytes have been
 * read. Anyone on the network path can end a TCP connection, so the received data may be truncated (RFC 8446, section
 * 6.1). Node.js treats such an end as orderly.
 */
export function refuseTruncation(socket: TLSSocket): void {
  socket.push = push
}

function push(this: TLSSocket, chunk: unknown): boolean {
  if (chunk !== null) return TLSSocket.prototype.push.call(this, chunk)
  if (doubtful.delete(this)) {
    // Node.js reported the end of TLS and the end of TCP in the same turn of the event loop.
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
      resetError('the peer closed the connection without a close_notify; the received data may be truncated'),
    )
  }
  if (socket.readableLength === 0) {
    fail()
    return
  }
  // The application may read later. An empty chunk ends the pending read, so that `_read` is called again for each one.
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
 * Makes an accepted socket that is ended in the turn of its handshake send a close_notify. OpenSSL cannot send one
 * before its session tickets, which it sends after Node.js has reported the handshake; Node.js 20 and 22 would end the
 * TCP connection without a close_notify.
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
