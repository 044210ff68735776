import { type Channel, openChannel } from '../base/channel.js'
import type { Peer } from '../identity/peer.js'
import type { Decision, RevokedError } from './authorizer.js'

/** Message of `consul-connect:decision`: the decision for an inbound connection. */
export interface DecisionMessage extends Required<Decision> {
  /** The destination service. */
  readonly service: string
  readonly peer: Peer
  readonly durationMs: number
}

/**
 * Message of `consul-connect:revocation`: a connection that was closed because its peer is no longer authorized or
 * trusted.
 */
export interface RevocationMessage {
  readonly service: string
  readonly peer: Peer
  /** Contains the reason, its basis, the side, and the age of the connection. */
  readonly error: RevokedError
}

export const decisions: Channel<DecisionMessage> = openChannel('consul-connect:decision')
export const revocations: Channel<RevocationMessage> = openChannel('consul-connect:revocation')
