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
 * - `permissions`: an intention with permissions, which decide each HTTP request; other connections are denied
 * - `malformed`: an HTTP request that cannot be decided
 * - `default`: no intention applies, or no permission is for the request; the default policy decided
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
  | 'malformed'
  | 'default'
  | 'agent'
  | 'stale'
  | 'authorizer'
  | 'late'
  | 'failed'
  | 'expired'
  | 'roots'

export const BASES: ReadonlySet<unknown> = new Set<DecisionBasis>([
  'intention',
  'permissions',
  'malformed',
  'default',
  'agent',
  'stale',
  'authorizer',
  'late',
  'failed',
  'expired',
  'roots',
])

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
