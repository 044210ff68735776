import type { Socket } from 'node:net'
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
  socket.destroySoon = destroySoon
}

function destroySoon(this: Socket): void {
  if (this.writable) this.end()
  if (this.writableFinished) linger(this)
  else {
    this.once('finish', () => {
      linger(this)
    })
  }
}

function linger(socket: Socket): void {
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
