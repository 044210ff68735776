import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { dropReads } from '../base/node-internals.js'
import { LendingDuplex } from './buffered-reads.js'

type ErrorMap = (error: Error | null) => Error | null

/** Actions that run when a socket is destroyed. */
interface Destruction {
  /** Applied to the error in the order in which they were added. */
  readonly errorMaps: ErrorMap[]
  isIdle: () => boolean
  readonly callbacks: (() => void)[]
}

const destructions = new WeakMap<Duplex, Destruction>()

/**
 * Calls back when a socket is destroyed, just before its `close` event. Not an event listener, because an application
 * may remove all listeners of its socket.
 */
export function onceDestroyed(socket: Duplex, callback: () => void): void {
  if (socket.destroyed) callback()
  else destructionOf(socket).callbacks.push(callback)
}

/** Maps the error with which a socket is destroyed; null is an orderly end. */
export function mapDestroyError(socket: Duplex, map: ErrorMap): void {
  destructionOf(socket).errorMaps.push(map)
}

/**
 * Makes `destroy()` send an end, for TLS a close_notify, if `isIdle()` returns true. The HTTP clients and servers of Node.js
 * end idle connections by `destroy()`, which sends none, so that the peer would report a truncation.
 */
export function closeWhenDestroyed(socket: Duplex, isIdle: () => boolean): void {
  destructionOf(socket).isIdle = isIdle
}

function destructionOf(socket: Duplex): Destruction {
  const known = destructions.get(socket)
  if (known !== undefined) return known
  const added: Destruction = { errorMaps: [], isIdle: () => false, callbacks: [] }
  destructions.set(socket, added)
  const destroy = socket._destroy.bind(socket)
  socket._destroy = (given, done): void => {
    const error = added.errorMaps.reduce((mapped, map) => map(mapped), given)
    const end = (): void => {
      destroy(error, (failure) => {
        for (const callback of added.callbacks) callback()
        done(failure)
      })
    }
    if (socket.writableEnded || !added.isIdle()) {
      end()
      return
    }
    // Bytes that were just written are sent after this turn, and the end must follow them.
    if (socket instanceof LendingDuplex)
      setImmediate(() => {
        socket.endNow()
        end()
      })
    else if (dropReads(socket))
      setImmediate(() => {
        // Not awaited: bytes that do not fit into the buffer of the kernel were not read by the peer either.
        Socket.prototype._final.call(socket, () => undefined)
        end()
      })
    else end()
  }
  return added
}
