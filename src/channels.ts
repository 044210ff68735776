import { channel } from 'node:diagnostics_channel'
import type { Peer } from './identity/peer.js'

/** What `consul-connect:handshake` carries: an inbound handshake that is over, the identity step included. */
export interface HandshakeMessage {
  /** The service that listens. */
  readonly service: string
  /** Since the connection was accepted, in milliseconds; undefined when it was gone too early to tell. */
  readonly durationMs: number | undefined
  /** Who it is, when it went well. Whether it may connect is decided afterwards. */
  readonly peer: Peer | undefined
  /** Why it did not. */
  readonly error: Error | undefined
}

/** The part of a channel that is used here; typed, as Node's own types are not. */
interface Publisher<T> {
  publish(message: T): void
}

/** Channels of node:diagnostics_channel; without a subscriber they cost next to nothing. */
export const channels: { readonly handshake: Publisher<HandshakeMessage> } = {
  handshake: channel('consul-connect:handshake'),
}
