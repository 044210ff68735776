import { ConnectError } from '../../base/errors.js'
import type { Peer } from '../../identity/peer.js'
import { withoutQuery } from '../../matching/target.js'
import type { DecisionBasis } from '../decision.js'
import type { RequestDecision } from './request-policy.js'

/** How much of a path a message shows. */
const MAX_SHOWN = 256

/** An HTTP request of a verified peer was denied, or could not be decided. Its connection stays open. */
export class RequestDeniedError extends ConnectError {
  static override readonly brand: string = 'RequestDeniedError'
  readonly peer: Peer
  readonly method: string
  /** Without the query. */
  readonly path: string
  /** The HTTP status of the answer: 403 for a denied request, 400 or 307 for a path that the mesh does not accept. */
  readonly status: number
  readonly reason: string
  readonly basis: DecisionBasis
  /** The intention whose permissions decided, such as `default/web => default/api`. */
  readonly intention: string | undefined
  /** The number of the permission that decided, from 1; undefined if none is for the request. */
  readonly permission: number | undefined

  constructor(
    peer: Peer,
    service: string,
    request: { readonly method: string; readonly path: string; readonly status: number },
    decision: RequestDecision,
  ) {
    const { method, status } = request
    const path = withoutQuery(request.path)
    const shown = path.length > MAX_SHOWN ? `${path.slice(0, MAX_SHOWN)}…` : path
    super(
      'ERR_CONNECT_REQUEST_DENIED',
      `${peer.service} to ${service}: ${method} ${shown} denied; ${decision.reason}`,
    )
    this.peer = peer
    this.method = method
    this.path = path
    this.status = status
    this.reason = decision.reason
    this.basis = decision.basis
    this.intention = decision.intention
    this.permission = decision.permission
  }
}
