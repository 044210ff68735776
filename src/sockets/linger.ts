import type { Socket } from 'node:net'
import { systemClock } from '../base/clock.js'
import { onceDestroyed } from './open-sockets.js'

/** How long the other end has to end as well, in milliseconds. */
export const LINGER_MS = 5_000

/**
 * Makes `destroySoon`, by which a server of node:http ends a connection after its last answer, read on until the other
 * end has ended too, for 5 s at most, and drop what it reads. Closed with anything unread, its end in TLS included, the
 * kernel resets the connection, and the other end loses what it has not received yet (RFC 1122, section 4.2.2.13).
 */
export function lingerWhenDestroyedSoon(socket: Socket): void {
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
  // Whoever read from it may have paused it, and has no use for more.
  socket.removeAllListeners('data').removeAllListeners('readable')
  socket.on('data', () => undefined)
  socket.resume()
}
