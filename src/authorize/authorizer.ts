import { type Bounds, withDeadline } from '../base/deadline.js'
import { ConnectError, TimeoutError, withCause } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'

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

/** The decision of an authorizer. */
export interface Decision {
  readonly authorized: boolean
  /** The reason, for people. */
  readonly reason: string
  /** The basis of the decision, for metrics. @default authorizer */
  readonly basis?: DecisionBasis
}

/**
 * The basis of a decision.
 *
 * - `intention`: an intention for the peer, exact or by a wildcard
 * - `permissions`: an intention with L7 permissions, which denies connections
 * - `default`: no intention applies; the agent decided by the default policy
 * - `agent`: the agent decided, because the token cannot read intentions
 * - `stale`: the agent has not answered for `staleIntentionsMs`
 * - `authorizer`: a function of the application
 * - `late`: the decision timed out
 * - `failed`: the decision failed
 * - `expired`: the certificate of the peer has expired, with `maxPeerAge` set
 * - `roots`: the CA root of the peer has been withdrawn
 */
export type DecisionBasis =
  | 'intention'
  | 'permissions'
  | 'default'
  | 'agent'
  | 'stale'
  | 'authorizer'
  | 'late'
  | 'failed'
  | 'expired'
  | 'roots'

const BASES: ReadonlySet<unknown> = new Set<DecisionBasis>([
  'intention',
  'permissions',
  'default',
  'agent',
  'stale',
  'authorizer',
  'late',
  'failed',
  'expired',
  'roots',
])

/**
 * Decides whether a peer may connect. Called for each connection, and again when intentions change. An exception, a
 * timeout, or an invalid result denies.
 */
export type Authorizer = (request: AuthorizeRequest) => Decision | Promise<Decision>

/** A complete decision. */
export interface Outcome extends Required<Decision> {
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

/** An open connection was closed because its peer is no longer authorized or trusted. */
export class RevokedError extends ConnectError {
  static override readonly brand: string = 'RevokedError'
  readonly peer: Peer
  readonly reason: string
  readonly basis: DecisionBasis
  /** `inbound`: the peer had connected to this service; `outbound`: this service had dialed the peer. */
  readonly side: 'inbound' | 'outbound'
  /** The age of the connection, in milliseconds. */
  readonly ageMs: number

  constructor(
    peer: Peer,
    service: string,
    decision: Required<Decision>,
    details: { side: 'inbound' | 'outbound'; ageMs: number; cause?: unknown },
  ) {
    const { reason, basis } = decision
    const ends = details.side === 'inbound' ? [peer.service, service] : [service, peer.service]
    super('ERR_CONNECT_REVOKED', `${ends.join(' to ')}: connection revoked; ${reason}`, details)
    this.side = details.side
    this.peer = peer
    this.reason = reason
    this.basis = basis
    this.ageMs = details.ageMs
  }
}

/** Runs an authorizer within bounds. Errors and timeouts deny, with a reason. */
export async function runAuthorizer(
  authorizer: Authorizer,
  request: Omit<AuthorizeRequest, 'signal' | 'intentions'>,
  intentions: (signal: AbortSignal) => Decision | Promise<Decision>,
  bounds: Bounds,
): Promise<Outcome> {
  try {
    const decision = await withDeadline('decision', bounds, async (signal) =>
      authorizer({ ...request, signal, intentions: () => intentions(signal) }),
    )
    const { authorized, reason, basis } = expectDecision(decision)
    // Metrics are labeled by it: ignore unknown values.
    return { authorized, reason, basis: basis !== undefined && BASES.has(basis) ? basis : 'authorizer' }
  } catch (cause) {
    const basis = cause instanceof TimeoutError ? 'late' : 'failed'
    return { authorized: false, reason: `authorizer failed${withCause(cause)}`, basis, cause }
  }
}

/** Validates the result of an authorizer: callers may not use TypeScript. */
export function expectDecision(value: unknown): Decision {
  if (isDecision(value)) return value
  throw new Error('expected { authorized, reason } from the authorizer')
}

function isDecision(value: unknown): value is Decision {
  if (typeof value !== 'object' || value === null) return false
  const { authorized, reason } = value as Partial<Record<keyof Decision, unknown>>
  return typeof authorized === 'boolean' && typeof reason === 'string'
}
