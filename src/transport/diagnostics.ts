import { type Channel, openChannel } from '../base/channel.js'
import type { DialAttempt, DialTarget } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'

/** Message of `consul-connect:dial`: a completed dial by `dial`, `fetch`, `forward`, or another function that dials. */
export interface DialMessage {
  /** The service that dialed. */
  readonly service: string
  /** The name of the upstream, as in errors. */
  readonly upstream: string
  readonly durationMs: number
  /** Failed attempts, also of a dial that succeeded. */
  readonly attempts: readonly DialAttempt[]
  /** The verified peer; undefined when the dial failed. */
  readonly peer: Peer | undefined
  /** `host:port` of the peer, or of the mesh gateway that leads to it; undefined when the dial failed. */
  readonly address: string | undefined
  /** The service, subset, and datacenter that the dial led to; undefined when the dial failed. */
  readonly target: DialTarget | undefined
  /** Undefined when the dial succeeded. */
  readonly error: Error | undefined
}

/** Message of `consul-connect:handshake`: a completed inbound handshake, including the verification of the identity. */
export interface HandshakeMessage {
  /** The listening service. */
  readonly service: string
  /** Time since the connection was accepted, in milliseconds; undefined when the handshake was not tracked. */
  readonly durationMs: number | undefined
  /** The verified peer, not yet authorized; undefined when the handshake failed. */
  readonly peer: Peer | undefined
  /** Undefined when the handshake succeeded. */
  readonly error: Error | undefined
}

export const dials: Channel<DialMessage> = openChannel('consul-connect:dial')
export const handshakes: Channel<HandshakeMessage> = openChannel('consul-connect:handshake')
