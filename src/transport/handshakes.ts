import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'

interface Handshake {
  readonly socket: Socket
  /** As performance.now() has it. */
  readonly since: number
}

/**
 * Connections in their handshake. Those who never finish keep nobody out: when there are as many as there may be, the
 * one that began first makes room for another.
 */
export class Handshakes {
  readonly #limit: number
  // By the two ends of the connection, the oldest first.
  readonly #underWay = new Map<string, Handshake>()

  constructor(limit: number) {
    this.#limit = limit
  }

  begin(socket: Socket): void {
    if (this.#underWay.size >= this.#limit) this.#makeRoom()
    const ends = bothEnds(socket)
    const handshake = { socket, since: performance.now() }
    this.#underWay.set(ends, handshake)
    socket.once('close', () => {
      if (this.#underWay.get(ends) === handshake) this.#underWay.delete(ends)
    })
  }

  /** How long it took, in milliseconds; undefined when the connection is gone already. */
  end(socket: TLSSocket): number | undefined {
    const ends = bothEnds(socket)
    const handshake = this.#underWay.get(ends)
    this.#underWay.delete(ends)
    return handshake && performance.now() - handshake.since
  }

  destroy(): void {
    for (const { socket } of this.#underWay.values()) socket.destroy()
  }

  #makeRoom(): void {
    for (const [ends, { socket }] of this.#underWay) {
      this.#underWay.delete(ends)
      socket.destroy()
      return
    }
  }
}

/**
 * What a TCP socket and the TLS socket over it have in common, and no other pair has. Unix sockets have nothing of
 * the kind: of those that are not authorized yet, only the last is known here, and the rest end by their handshake's
 * bound or before their handler.
 */
function bothEnds(socket: Socket): string {
  const { remoteAddress = '', remotePort = '', localAddress = '', localPort = '' } = socket
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}
