import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import type { Roots } from '../identity/roots.js'
import type { Generation } from '../identity/identity-store.js'
import { lingerWhenDestroyedSoon } from '../sockets/linger.js'
import { attachPeer } from './verify-peer.js'
import { readOnAfterWriteErrors } from '../sockets/read-on.js'
import { type PeerPath, RootsCheck } from './roots-check.js'
import type { MeshSocket } from './mesh-socket.js'
import { endAfterHandshake, refuseTruncation } from '../sockets/truncation.js'

/** What a connection of the mesh was verified by, from its handshake until it is closed. */
export interface Connection extends PeerPath {
  /** Our identity and the roots that the handshake began with. */
  readonly generation: Generation
  /** When its handshake was over, by performance.now(). */
  readonly openedAt: number
}

const connections = new WeakMap<Duplex, Connection>()
/** Turns a verified socket into a connection of the mesh. */
export function openConnection(socket: TLSSocket, connection: Connection): MeshSocket {
  connections.set(socket, connection)
  refuseTruncation(socket)
  if (connection.side === 'inbound') endAfterHandshake(socket)
  readOnAfterWriteErrors(socket)
  lingerWhenDestroyedSoon(socket)
  return attachPeer(socket, connection.peer)
}

/** Undefined for a socket that did not come from `openConnection`. */
export function connectionOf(socket: Duplex): Connection | undefined {
  return connections.get(socket)
}

/** Whether the peer would be accepted under these roots. A path was verified only against those of its handshake. */
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

/** When the first certificate of the peer's path expires, in milliseconds since the Unix epoch. */
export function peerExpiresAt(connection: Connection, now: number): number {
  return RootsCheck.under(connection.generation.roots).peerExpiry(connection, now)
}

/** When the first certificate of either end's path expires, in milliseconds since the Unix epoch. */
export function expiresAt(connection: Connection, now: number): number {
  return Math.min(connection.generation.leaf.expiresAt.getTime(), peerExpiresAt(connection, now))
}
