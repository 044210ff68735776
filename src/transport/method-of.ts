import type { TLSSocket } from 'node:tls'

/**
 * A method as it stands on a socket, to be put back there. A bound one in its place, or a property that is deleted again,
 * would make every use of the socket slower, by a tenth of all requests on Node 24: V8 keeps such an object in another
 * form.
 */
export function methodOf<K extends 'emit' | 'push'>(socket: TLSSocket, name: K): TLSSocket[K] {
  return socket[name]
}
