import { type Channel, openChannel } from '../base/channel.js'
import type { Peer } from '../identity/peer.js'
import type { RevokedError } from './authorizer.js'
import type { Decision } from './decision.js'
import type { RequestDecision } from './requests/request-policy.js'

/** Message of `consul-connect:decision`: the decision for an inbound connection. */
export interface DecisionMessage extends Required<Decision> {
  /** The destination service. */
  readonly service: string
  readonly peer: Peer
  readonly durationMs: number
}

/**
 * Message of `consul-connect:revocation`: a connection or HTTP request that was ended because its peer is no longer
 * authorized or trusted.
 */
export interface RevocationMessage {
  readonly service: string
  readonly peer: Peer
  /** Contains the reason, its basis, the side, and the age of the connection. */
  readonly error: RevokedError
}

/** Message of `consul-connect:request`: the decision for an HTTP request of a peer whose requests are decided. */
export interface RequestMessage extends RequestDecision {
  /** The destination service. */
  readonly service: string
  readonly peer: Peer
  readonly method: string
  /** Without the query. */
  readonly path: string
  /** The HTTP status of the answer to a request that was not authorized. */
  readonly status: number | undefined
}

export const requests: Channel<RequestMessage> = openChannel('consul-connect:request')
export const decisions: Channel<DecisionMessage> = openChannel('consul-connect:decision')
export const revocations: Channel<RevocationMessage> = openChannel('consul-connect:revocation')
