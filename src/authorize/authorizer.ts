import { type AuthorizeAnswer, askAuthorize } from '../agent/authorize.js'
import type { AgentClient } from '../agent/client.js'
import { type Bounds, bounded } from '../bounded.js'
import { ConnectError, because } from '../errors.js'
import type { Peer } from '../identity/peer.js'

/** What an authorizer is asked. */
export interface AuthorizeRequest {
  /** Who wants in. Its identity has been proved. */
  readonly peer: Peer
  /** The name of the service that is being connected to. */
  readonly service: string
  /** Aborted when the answer is no longer wanted. */
  readonly signal: AbortSignal
}

export interface Decision {
  readonly authorized: boolean
  /** Why, for people. */
  readonly reason: string
}

/**
 * Decides whether a peer may connect. A throw, a rejection, a late answer, or an answer of another shape denies.
 */
export type Authorizer = (request: AuthorizeRequest) => Decision | Promise<Decision>

/** A peer proved its identity and was not allowed in. */
export class DeniedError extends ConnectError {
  static override readonly brand: string = 'DeniedError'
  readonly peer: Peer
  readonly reason: string

  constructor(peer: Peer, service: string, reason: string, options?: { cause?: unknown }) {
    super('ERR_CONNECT_DENIED', `${peer.service} may not connect to ${service}: ${reason}`, options)
    this.peer = peer
    this.reason = reason
  }
}

/** Asks the agent about every connection. */
export function authorizeByAgent(agent: AgentClient): Authorizer {
  return async ({ peer, service, signal }): Promise<AuthorizeAnswer> =>
    askAuthorize(
      agent,
      { target: service, clientCertUri: peer.spiffeId, clientCertSerial: peer.serialNumber },
      { signal },
    )
}

/** A decision, and what kept it from being made. */
export interface Outcome extends Decision {
  readonly cause?: unknown
}

/** Runs an authorizer within bounds, so that whatever goes wrong is a denial with a reason. */
export async function decide(
  authorizer: Authorizer,
  request: Omit<AuthorizeRequest, 'signal'>,
  bounds: Bounds,
): Promise<Outcome> {
  try {
    const decision: unknown = await bounded('the decision', bounds, async (signal) =>
      authorizer({ ...request, signal }),
    )
    if (isDecision(decision)) return decision
    return { authorized: false, reason: 'the authorizer gave no decision of the form { authorized, reason }' }
  } catch (cause) {
    return { authorized: false, reason: `no decision could be made${because(cause)}`, cause }
  }
}

function isDecision(value: unknown): value is Decision {
  if (typeof value !== 'object' || value === null) return false
  const { authorized, reason } = value as Partial<Record<keyof Decision, unknown>>
  return typeof authorized === 'boolean' && typeof reason === 'string'
}
