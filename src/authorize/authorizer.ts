import { type Bounds, withDeadline } from '../base/deadline.js'
import { ConnectError, TimeoutError, withCause } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'

/** What an authorizer is asked. */
export interface AuthorizeRequest {
  /** Who wants in. Its identity has been proved. */
  readonly peer: Peer
  /** The name of the service that is being connected to. */
  readonly service: string
  /** Aborted when the answer is no longer wanted. */
  readonly signal: AbortSignal
  /** What the mesh's intentions say of this peer and this service. */
  readonly intentions: () => Decision | Promise<Decision>
}

export interface Decision {
  readonly authorized: boolean
  /** Why, for people. */
  readonly reason: string
  /** On what ground, for figures. @default authorizer */
  readonly basis?: DecisionBasis
}

/**
 * On what ground a decision stands.
 *
 * - `intention`: one that speaks of the peer, exactly or by a wildcard
 * - `permissions`: one that decides by HTTP request; connections are denied
 * - `default`: no intention speaks of the peer; the agent's word on what holds then
 * - `agent`: the agent's word, since its token may not read the intentions
 * - `stale`: the agent has been away for longer than `staleIntentionsMs`
 * - `authorizer`: a function of the application's
 * - `late`: no decision came in time
 * - `failed`: no decision could be made
 * - `expired`: the peer's certificate has expired, and the listener's `maxPeerAge` is set
 * - `roots`: the CA root of the peer's certificate has been withdrawn
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
 * Decides whether a peer may connect: when it does, and again whenever the intentions change. A throw, a rejection, a
 * late answer, or an answer of another shape denies.
 */
export type Authorizer = (request: AuthorizeRequest) => Decision | Promise<Decision>

/** A decision of which everything is known. */
export interface Outcome extends Required<Decision> {
  /** What kept it from being made. */
  readonly cause?: unknown
}

/** A peer proved its identity and was not let in. */
export class DeniedError extends ConnectError {
  static override readonly brand: string = 'DeniedError'
  readonly peer: Peer
  readonly reason: string
  readonly basis: DecisionBasis

  constructor(peer: Peer, service: string, decision: Required<Decision>, options?: { cause?: unknown }) {
    const { reason, basis } = decision
    super('ERR_CONNECT_DENIED', `${peer.service} may not connect to ${service}: ${reason}`, options)
    this.peer = peer
    this.reason = reason
    this.basis = basis
  }
}

/** An open connection was ended because its peer may not be connected any more. */
export class RevokedError extends ConnectError {
  static override readonly brand: string = 'RevokedError'
  readonly peer: Peer
  readonly reason: string
  readonly basis: DecisionBasis
  /** `inbound`: the peer had connected to us; `outbound`: we had dialed it. */
  readonly side: 'inbound' | 'outbound'
  /** How long the connection had been open, in milliseconds. */
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

/** Runs an authorizer within bounds, so that whatever goes wrong is a denial with a reason. */
export async function runAuthorizer(
  authorizer: Authorizer,
  request: Omit<AuthorizeRequest, 'signal' | 'intentions'>,
  intentions: (signal: AbortSignal) => Decision | Promise<Decision>,
  bounds: Bounds,
): Promise<Outcome> {
  try {
    const decision = await withDeadline('the decision', bounds, async (signal) =>
      authorizer({ ...request, signal, intentions: () => intentions(signal) }),
    )
    const { authorized, reason, basis } = expectDecision(decision)
    // ServiceStats are counted by it: a text of anybody's making is none.
    return { authorized, reason, basis: basis !== undefined && BASES.has(basis) ? basis : 'authorizer' }
  } catch (cause) {
    const basis = cause instanceof TimeoutError ? 'late' : 'failed'
    return { authorized: false, reason: `no decision could be made${withCause(cause)}`, basis, cause }
  }
}

/** An authorizer's answer, whatever its type says: a function may have been written without types. */
export function expectDecision(value: unknown): Decision {
  if (isDecision(value)) return value
  throw new Error('the authorizer gave no decision of the form { authorized, reason }')
}

function isDecision(value: unknown): value is Decision {
  if (typeof value !== 'object' || value === null) return false
  const { authorized, reason } = value as Partial<Record<keyof Decision, unknown>>
  return typeof authorized === 'boolean' && typeof reason === 'string'
}
