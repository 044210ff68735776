import type { RequestHead } from '../../matching/request-matcher.js'
import type { Peer } from '../../identity/peer.js'
import { decideRequest } from './decide-request.js'
import type { ReceivedRequest } from './received-request.js'
import type { RequestDecision, RequestPolicy } from './request-policy.js'

/** An admitted request that has not ended. */
export interface OpenRequest {
  /** As its handler sees it. */
  readonly head: RequestHead
  /** The request as it was received, if it was not decided then: its path is not normalized. */
  readonly undecided: ReceivedRequest | undefined
  /** By `performance.now()`. */
  readonly since: number
  /** Ends the request, which is no longer allowed. */
  cut(error: Error): void
}

/** A request that was denied, or could not be decided. */
export interface DeniedRequest {
  readonly head: Pick<RequestHead, 'method' | 'path'>
  readonly decision: RequestDecision
  /** The HTTP status of the answer. */
  readonly status: number
}

/** Callbacks for what happens to the requests of a listener. */
export interface RequestReports {
  requestAllowed(peer: Peer, head: RequestHead, decision: RequestDecision): void
  requestDenied(peer: Peer, denied: DeniedRequest): void
  /** An open request has to end. @returns the error to end it with */
  requestRevoked(peer: Peer, request: OpenRequest, decision: RequestDecision): Error
}

/** The HTTP requests of one connection. Each is decided when it begins, and again when the rules change. */
export class ConnectionRequests {
  readonly peer: Peer
  readonly #reports: RequestReports
  readonly #open = new Set<OpenRequest>()
  #policy: RequestPolicy | undefined

  constructor(peer: Peer, policy: RequestPolicy | undefined, reports: RequestReports) {
    this.peer = peer
    this.#policy = policy
    this.#reports = reports
  }

  /** Decides the requests; undefined if the peer may send any. */
  get policy(): RequestPolicy | undefined {
    return this.#policy
  }

  /** Follows an allowed request until it is released. */
  add(request: OpenRequest): void {
    this.#open.add(request)
  }

  release(request: OpenRequest): void {
    this.#open.delete(request)
  }

  allowed(head: RequestHead, decision: RequestDecision): void {
    this.#reports.requestAllowed(this.peer, head, decision)
  }

  denied(denied: DeniedRequest): void {
    this.#reports.requestDenied(this.peer, denied)
  }

  /**
   * Decides by other rules from now on.
   * @param cutsOpen - whether open requests that they do not allow end
   */
  follow(policy: RequestPolicy | undefined, cutsOpen: boolean): void {
    this.#policy = policy
    if (policy === undefined || !cutsOpen) return
    // Copied, because a request that ends removes itself.
    for (const request of [...this.#open]) {
      const { undecided } = request
      const decision =
        undecided === undefined ? policy.decide(request.head) : decideRequest(undecided, policy).decision
      if (decision.authorized) continue
      this.#open.delete(request)
      request.cut(this.#reports.requestRevoked(this.peer, request, decision))
    }
  }
}
