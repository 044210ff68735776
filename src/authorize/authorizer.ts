import { type Bounds, withDeadline } from '../base/deadline.js'
import { ConnectError, TimeoutError, withCause } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { BASES, type Decision, type DecisionBasis, expectDecision } from './decision.js'
import type { RequestPolicy } from './requests/request-policy.js'

/** The request to an authorizer. */
export interface AuthorizeRequest {
  /** The verified peer. */
  readonly peer: Peer
  /** The name of the destination service. */
  readonly service: string
  /** Aborted when the decision is no longer needed. */
  readonly signal: AbortSignal
  /** Decides by the intentions of the mesh. */
  readonly intentions: () => Decision | Promise<Decision>
}

/**
 * Decides whether a peer may connect. Called for each connection, and again when intentions change. An exception, a
 * timeout, or an invalid result denies.
 */
export type Authorizer = (request: AuthorizeRequest) => Decision | Promise<Decision>

/** A complete decision. */
export interface Outcome extends Required<Decision> {
  /** Decides each request of the peer; undefined if it may send any. */
  readonly requests: RequestPolicy | undefined
  /** Why the decision failed. */
  readonly cause?: unknown
}

/** A verified peer was denied. */
export class DeniedError extends ConnectError {
  static override readonly brand: string = 'DeniedError'
  readonly peer: Peer
  readonly reason: string
  readonly basis: DecisionBasis

  constructor(peer: Peer, service: string, decision: Required<Decision>, options?: { cause?: unknown }) {
    const { reason, basis } = decision
    super('ERR_CONNECT_DENIED', `${peer.service} to ${service}: connection denied; ${reason}`, options)
    this.peer = peer
    this.reason = reason
    this.basis = basis
  }
}

/** An open connection or HTTP request was ended because its peer is no longer authorized or trusted. */
export class RevokedError extends ConnectError {
  static override readonly brand: string = 'RevokedError'
  readonly peer: Peer
  readonly reason: string
  readonly basis: DecisionBasis
  /** `inbound`: the peer had connected to this service; `outbound`: this service had dialed the peer. */
  readonly side: 'inbound' | 'outbound'
  /** The age of the connection or request, in milliseconds. */
  readonly ageMs: number
  /** The request that was ended, its path without the query; undefined if the connection was closed. */
  readonly request: { readonly method: string; readonly path: string } | undefined

  constructor(
    peer: Peer,
    service: string,
    decision: Required<Decision>,
    details: {
      side: 'inbound' | 'outbound'
      ageMs: number
      request?: { readonly method: string; readonly path: string } | undefined
      cause?: unknown
    },
  ) {
    const { reason, basis } = decision
    const { request } = details
    const ends = details.side === 'inbound' ? [peer.service, service] : [service, peer.service]
    const what = request === undefined ? 'connection' : `${request.method} ${request.path}`
    super('ERR_CONNECT_REVOKED', `${ends.join(' to ')}: ${what} revoked; ${reason}`, details)
    this.request = request
    this.side = details.side
    this.peer = peer
    this.reason = reason
    this.basis = basis
    this.ageMs = details.ageMs
  }
}

/** A decision by intentions. */
export interface IntentionDecision {
  readonly decision: Decision
  /** Decides each request of the peer; undefined if the decision covers all of them. */
  readonly requests?: RequestPolicy | undefined
}

/**
 * Runs an authorizer within bounds. Errors and timeouts deny, with a reason. If it asks for the decision of the
 * intentions, their permissions hold for each request, whatever the authorizer makes of the decision.
 */
export async function runAuthorizer(
  authorizer: Authorizer,
  request: Omit<AuthorizeRequest, 'signal' | 'intentions'>,
  intentions: (signal: AbortSignal) => IntentionDecision | Promise<IntentionDecision>,
  bounds: Bounds,
): Promise<Outcome> {
  let requests: RequestPolicy | undefined
  const ask = async (signal: AbortSignal): Promise<Decision> => {
    const found = await intentions(signal)
    requests = found.requests ?? requests
    return found.decision
  }
  try {
    const given = await withDeadline('decision', bounds, async (signal) =>
      authorizer({ ...request, signal, intentions: () => ask(signal) }),
    )
    const { authorized, reason, basis } = expectDecision(given)
    // Metrics are labeled by it: ignore unknown values.
    const known = basis !== undefined && BASES.has(basis) ? basis : 'authorizer'
    return { authorized, reason, basis: known, requests: authorized ? requests : undefined }
  } catch (cause) {
    const basis = cause instanceof TimeoutError ? 'late' : 'failed'
    const reason = `authorizer failed${withCause(cause)}`
    return { authorized: false, reason, basis, requests: undefined, cause }
  }
}
