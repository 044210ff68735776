import type { Socket } from 'node:net'
import type { Peer } from '../identity/peer.js'
import type { MeshSocket } from '../transport/mesh-socket.js'

/** One local connection on its way to an upstream. */
export interface ForwardConnection {
  /** Bytes that the local end has sent, so far. */
  readonly sent: number
  /** Bytes that it was sent. */
  readonly received: number
  /** Since it was accepted, in milliseconds; when it has ended, how long it lasted. */
  readonly durationMs: number
  /** How long the dial took, in milliseconds; undefined before it has succeeded, and when it has not. */
  readonly dialMs: number | undefined
  /** Who it was taken to; undefined before the dial has succeeded. */
  readonly peer: Peer | undefined
  /** Where that is: an address and port. */
  readonly remote: string | undefined
  /** When it has ended: why, if not by both ends' having said all. */
  readonly error: Error | undefined
}

/** What is known of a connection, as it goes. */
export class ConnectionRecord implements ForwardConnection {
  readonly #local: Socket
  readonly #since = performance.now()
  #endedAt: number | undefined
  #final: { readonly sent: number; readonly received: number } | undefined
  dialMs: number | undefined
  peer: Peer | undefined
  remote: string | undefined
  error: Error | undefined

  constructor(local: Socket) {
    this.#local = local
  }

  get sent(): number {
    return this.#final?.sent ?? this.#local.bytesRead
  }

  get received(): number {
    return this.#final?.received ?? this.#local.bytesWritten
  }

  get durationMs(): number {
    return (this.#endedAt ?? performance.now()) - this.#since
  }

  dialled({ peer, remoteAddress, remotePort }: MeshSocket): void {
    this.dialMs = this.durationMs
    this.peer = peer
    if (remoteAddress === undefined || remotePort === undefined) return
    this.remote = remoteAddress.includes(':')
      ? `[${remoteAddress}]:${remotePort}`
      : `${remoteAddress}:${remotePort}`
  }

  ended(error: Error | undefined): void {
    this.error = error
    // A record may be kept; its socket should not be for its sake.
    this.#final = { sent: this.sent, received: this.received }
    this.#endedAt = performance.now()
  }
}
