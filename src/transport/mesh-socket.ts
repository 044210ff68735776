import type { Duplex } from 'node:stream'
import type { Peer } from '../identity/peer.js'

/**
 * A connection of the mesh: a Duplex whose other end has proved who it is. It has the methods of a socket that
 * client libraries call; that it is a TLS socket today is no promise.
 */
export interface MeshSocket extends Duplex {
  /** Who is at the other end. */
  readonly peer: Peer
  /** What both ends agreed on, of the names that were offered; false or null when none were. */
  readonly alpnProtocol?: string | false | null
  readonly remoteAddress?: string | undefined
  readonly remotePort?: number | undefined
  readonly remoteFamily?: string | undefined
  readonly localAddress?: string | undefined
  readonly localPort?: number | undefined
  readonly bytesRead: number
  readonly bytesWritten: number
  setNoDelay(noDelay?: boolean): this
  setKeepAlive(enable?: boolean, initialDelay?: number): this
  setTimeout(timeout: number, callback?: () => void): this
  ref(): this
  unref(): this
}
