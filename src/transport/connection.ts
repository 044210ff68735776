import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import type { ConnectionRequests } from '../authorize/requests/connection-requests.js'
import type { Roots } from '../identity/roots.js'
import type { Generation } from '../identity/identity-store.js'
import { lingerOnDestroySoon } from '../sockets/linger.js'
import { attachPeer } from './verify-peer.js'
import { keepReadingAfterWriteError } from '../sockets/read-on.js'
import { type PeerPath, RootsCheck } from './roots-check.js'
import type { MeshSocket } from './mesh-socket.js'
import type { MuxStream } from './mux/stream.js'
import { endAfterHandshake, refuseTruncation } from '../sockets/truncation.js'

/** The record of a mesh connection: its peer, and the certificates and roots by which the peer was verified. */
export interface Connection extends PeerPath {
  /** Our own identity and the roots at the start of the handshake. */
  readonly generation: Generation
  /** When the handshake completed, by `performance.now()`. */
  readonly openedAt: number
  /** The HTTP requests of the connection; undefined if they are not decided one by one. */
  readonly requests?: ConnectionRequests | undefined
}

const connections = new WeakMap<Duplex, Connection>()

/** Makes a verified TLS socket a mesh connection. */
export function openConnection(socket: TLSSocket, connection: Connection): MeshSocket {
  connections.set(socket, connection)
  refuseTruncation(socket)
  if (connection.side === 'inbound') endAfterHandshake(socket)
  keepReadingAfterWriteError(socket)
  lingerOnDestroySoon(socket)
  return attachPeer(socket, connection.peer)
}

/** Makes a stream of a session a mesh connection. Its record begins now, with the peer of the session. */
export function openStream(stream: MuxStream, session: Connection): MeshSocket {
  connections.set(stream, { ...session, openedAt: performance.now() })
  return attachPeer(stream, session.peer)
}

/** Returns the record of a socket; undefined for a socket that `openConnection` did not see. */
export function connectionOf(socket: Duplex): Connection | undefined {
  return connections.get(socket)
}

/** Whether the peer would be accepted under these roots, which may differ from those of the handshake. */
export function isPeerTrusted(connection: Connection, roots: Roots, now: number): boolean {
  return connection.generation.roots === roots || RootsCheck.under(roots).peerExpiry(connection, now) > now
}

/** Whether each end would accept the other under these roots. */
export function areBothTrusted(connection: Connection, roots: Roots, now: number): boolean {
  if (connection.generation.roots === roots) return true
  return (
    isPeerTrusted(connection, roots, now) &&
    RootsCheck.under(roots).ownExpiry(connection.generation, now) > now
  )
}

/** Returns when the first certificate in the path of the peer expires, in milliseconds since the Unix epoch. */
export function peerExpiresAt(connection: Connection, now: number): number {
  return RootsCheck.under(connection.generation.roots).peerExpiry(connection, now)
}

/** Returns when the first certificate in either path expires, in milliseconds since the Unix epoch. */
export function expiresAt(connection: Connection, now: number): number {
  return Math.min(connection.generation.leaf.expiresAt.getTime(), peerExpiresAt(connection, now))
}
