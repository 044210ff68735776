import { isAmbiguous } from '../../matching/path-normalization.js'
import type { ConnectionRequests } from '../../authorize/requests/connection-requests.js'
import {
  type RequestOutcome,
  decideRequest,
  malformed,
  parseTarget,
} from '../../authorize/requests/decide-request.js'
import type { ReceivedRequest } from '../../authorize/requests/received-request.js'
import type { RequestDecision } from '../../authorize/requests/request-policy.js'
import type { GateSettings } from './gate-options.js'

const decisions = new WeakMap<object, RequestDecision>()

/** Keeps the decision for a request object or HTTP/2 stream. */
export function keepDecision(request: object, decision: RequestDecision): void {
  decisions.set(request, decision)
}

/**
 * Returns the decision for a request of a served HTTP server, or for its HTTP/2 stream; undefined if the intention for its
 * source has no permissions, so that any request is allowed.
 * @example
 * ```ts
 * http.createServer((request, response) => {
 *   response.end(connect.requestDecision(request)?.reason ?? 'allowed for all requests')
 * })
 * ```
 */
export function requestDecision(request: object): RequestDecision | undefined {
  const { stream } = request as { readonly stream?: unknown }
  return (
    decisions.get(request) ??
    (typeof stream === 'object' && stream !== null ? decisions.get(stream) : undefined)
  )
}

/**
 * Decides a received request, and reports the decision.
 * @returns undefined if the peer may send any request, and this one has nothing to change
 */
export function admitRequest(
  request: ReceivedRequest,
  requests: ConnectionRequests,
  { strictPaths }: Pick<GateSettings, 'strictPaths'>,
): RequestOutcome | undefined {
  const { policy } = requests
  const outcome =
    strictPaths && isAmbiguous(parseTarget(request)?.path ?? request.target)
      ? malformed(request, 'a path that servers read in different ways')
      : policy && decideRequest(request, policy)
  if (outcome === undefined) return undefined
  const { head, decision, status } = outcome
  if (decision.authorized) requests.allowed(head, decision)
  else requests.denied({ head, decision, status })
  return outcome
}
