import { type Channel, openChannel } from '../base/channel.js'
import type { DialAttempt } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'

/** What `consul-connect:dial` carries: a dial that is over, by `dial` itself or by whatever stands on it. */
export interface DialMessage {
  /** The service that dialled. */
  readonly service: string
  /** The upstream, as errors call it. */
  readonly upstream: string
  readonly durationMs: number
  /** The tries that failed, also when another went well in the end. */
  readonly attempts: readonly DialAttempt[]
  /** Who answered, when it went well. */
  readonly peer: Peer | undefined
  /** `host:port` of who answered. */
  readonly address: string | undefined
  /** Why nobody did. */
  readonly error: Error | undefined
}

/** What `consul-connect:handshake` carries: an inbound handshake that is over, the identity step included. */
export interface HandshakeMessage {
  /** The service that listens. */
  readonly service: string
  /** Since the connection was accepted; undefined when it was gone too early to tell. */
  readonly durationMs: number | undefined
  /** Who it is, when it went well. Whether it may connect is decided afterwards. */
  readonly peer: Peer | undefined
  /** Why it did not. */
  readonly error: Error | undefined
}

export const dials: Channel<DialMessage> = openChannel('consul-connect:dial')
export const handshakes: Channel<HandshakeMessage> = openChannel('consul-connect:handshake')
