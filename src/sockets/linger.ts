import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { systemClock } from '../base/clock.js'
import { onceDestroyed } from './destruction.js'

/** How long to wait for the end of the peer, in milliseconds. */
export const LINGER_MS = 5_000

/**
 * Makes `socket.destroySoon()` read and discard until the peer has ended too, for at most 5 s. node:http calls it after
 * the last response on a connection. If a socket is closed with unread bytes, including the close_notify of the peer,
 * the kernel resets the connection, and the peer loses what it has not received yet (RFC 1122, section 4.2.2.13).
 */
export function lingerOnDestroySoon(socket: Socket): void {
  socket.destroySoon = function () {
    endAndLinger(this)
  }
}

/** Ends a stream, reads until the peer has ended too, for at most 5 s, and destroys it. */
export function endAndLinger(stream: Duplex): void {
  if (stream.writable) stream.end()
  if (stream.writableFinished) linger(stream)
  else {
    stream.once('finish', () => {
      linger(stream)
    })
  }
}

function linger(socket: Duplex): void {
  const destroy = (): void => {
    socket.destroy()
  }
  if (socket.destroyed || socket.readableEnded) {
    destroy()
    return
  }
  socket.once('end', destroy)
  onceDestroyed(socket, systemClock.after(LINGER_MS, destroy))
  // The application is done with the socket, and may have paused it.
  socket.removeAllListeners('data').removeAllListeners('readable')
  socket.on('data', () => undefined)
  socket.resume()
}
