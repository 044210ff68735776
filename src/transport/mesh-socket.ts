import type { Duplex } from 'node:stream'
import type { Peer } from '../identity/peer.js'

/**
 * A mesh connection: a Duplex with a verified peer, and the methods of a socket that client libraries call. It is a
 * TLSSocket, unless it is a connection in a session (`mux`).
 */
export interface MeshSocket extends Duplex {
  /** The verified identity of the other end. */
  readonly peer: Peer
  /** The negotiated ALPN protocol; false or null without one. */
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
