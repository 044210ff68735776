import { RevokedError } from '../authorize/authorizer.js'
import { revocations } from '../authorize/channel.js'
import type { Roots } from '../identity/roots.js'
import { type Connection, connectionOf, isPeerTrusted } from './connection.js'
import type { OpenSockets } from './open-sockets.js'
import type { MeshSocket } from './socket.js'

/** Why a connection ends whose peer has lost its CA root. */
export const UNTRUSTED = {
  authorized: false,
  basis: 'roots',
  reason: 'its certificate leads to no CA root of the mesh any more',
} as const

/** Ends the connections whose peer's certificate leads to none of these roots; returns the error of each. */
export function endUntrusted(
  sockets: OpenSockets,
  service: string,
  roots: Roots,
  now: number,
): RevokedError[] {
  const errors: RevokedError[] = []
  for (const socket of [...sockets] as MeshSocket[]) {
    const connection = connectionOf(socket)
    if (connection === undefined || isPeerTrusted(connection, roots, now)) continue
    const error = new RevokedError(connection.peer, service, UNTRUSTED, {
      side: connection.side,
      ageMs: ageOf(connection),
    })
    socket.destroy(error)
    revocations.publish({ service, peer: connection.peer, error })
    errors.push(error)
  }
  return errors
}

function ageOf({ openedAt }: Connection): number {
  return Math.round(performance.now() - openedAt)
}
