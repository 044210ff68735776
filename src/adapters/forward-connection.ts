import type { Socket } from 'node:net'
import type { Peer } from '../identity/peer.js'
import type { MeshSocket } from '../transport/mesh-socket.js'

/** A connection through a forward. */
export interface ForwardConnection {
  /** The number of bytes from the local client to the upstream. */
  readonly sent: number
  /** The number of bytes from the upstream to the local client. */
  readonly received: number
  /** The age of the connection, in milliseconds; its total duration after the end. */
  readonly durationMs: number
  /** The duration of the dial, in milliseconds; undefined unless it has succeeded. */
  readonly dialMs: number | undefined
  /** The peer; undefined unless the dial has succeeded. */
  readonly peer: Peer | undefined
  /** The address and port of the peer. */
  readonly remote: string | undefined
  /** Why the connection ended; undefined after an orderly end of both sides. */
  readonly error: Error | undefined
}

/** The live record of a connection. */
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

  dialed({ peer, remoteAddress, remotePort }: MeshSocket): void {
    this.dialMs = this.durationMs
    this.peer = peer
    if (remoteAddress === undefined || remotePort === undefined) return
    this.remote = remoteAddress.includes(':')
      ? `[${remoteAddress}]:${remotePort}`
      : `${remoteAddress}:${remotePort}`
  }

  ended(error: Error | undefined): void {
    this.error = error
    // An application may keep the record, which must not keep the socket.
    this.#final = { sent: this.sent, received: this.received }
    this.#endedAt = performance.now()
  }
}
