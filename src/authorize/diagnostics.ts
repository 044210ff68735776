import { type Channel, openChannel } from '../base/channel.js'
import type { Peer } from '../identity/peer.js'
import type { Decision, RevokedError } from './authorizer.js'

/** What `consul-connect:decision` carries: what was decided of a peer that wants in. */
export interface DecisionMessage extends Required<Decision> {
  /** The service that is being connected to. */
  readonly service: string
  readonly peer: Peer
  readonly durationMs: number
}

/** What `consul-connect:revocation` carries: a connection that was ended because its peer may not be connected any more. */
export interface RevocationMessage {
  readonly service: string
  readonly peer: Peer
  /** With the reason, its basis, the side, and the connection's age. */
  readonly error: RevokedError
}

export const decisions: Channel<DecisionMessage> = openChannel('consul-connect:decision')
export const revocations: Channel<RevocationMessage> = openChannel('consul-connect:revocation')
