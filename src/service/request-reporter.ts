import { RevokedError } from '../authorize/authorizer.js'
import { requests, revocations } from '../authorize/diagnostics.js'
import type { DeniedRequest, OpenRequest } from '../authorize/requests/connection-requests.js'
import { RequestDeniedError } from '../authorize/requests/request-denied-error.js'
import type { RequestDecision } from '../authorize/requests/request-policy.js'
import type { Clock } from '../base/clock.js'
import { log } from '../base/log.js'
import type { Peer } from '../identity/peer.js'
import type { RequestHead } from '../matching/request-matcher.js'
import { withoutQuery } from '../matching/target.js'
import { LimitedEvents } from './limited-events.js'
import type { StatsCollector } from './stats.js'

export interface RequestReporterOptions {
  readonly service: string
  readonly clock: Clock
  readonly stats: StatsCollector
  /** Receives the error of a denied request, and the number of requests that it stands for. */
  readonly onDenied: (error: RequestDeniedError, count: number) => void
  readonly onRevoked: (error: RevokedError) => void
}

/** Counts, publishes, and logs what is decided about the HTTP requests to a service. */
export class RequestReporter {
  readonly #options: RequestReporterOptions
  readonly #events: LimitedEvents<{ readonly peer: Peer; readonly denied: DeniedRequest }>

  constructor(options: RequestReporterOptions) {
    const { service, clock, onDenied } = options
    this.#options = options
    this.#events = new LimitedEvents(clock, ({ peer, denied }, count) => {
      const { head, status, decision } = denied
      const { method, path } = head
      const error = new RequestDeniedError(peer, service, { method, path, status }, decision)
      log.authorize('%s (%d)', error.message, count)
      onDenied(error, count)
    })
  }

  allowed(peer: Peer, head: RequestHead, decision: RequestDecision): void {
    this.#options.stats.requested(decision)
    this.#publish(peer, head, decision, undefined)
  }

  denied(peer: Peer, denied: DeniedRequest): void {
    const { head, decision, status } = denied
    this.#options.stats.requested(decision)
    this.#publish(peer, head, decision, status)
    this.#events.report({ peer, denied })
  }

  /** @returns the error to end the request with */
  revoked(peer: Peer, { head, since }: OpenRequest, decision: RequestDecision): RevokedError {
    const { service, stats, onRevoked } = this.#options
    const request = { method: head.method, path: withoutQuery(head.path) }
    const ageMs = Math.round(performance.now() - since)
    const error = new RevokedError(peer, service, decision, { side: 'inbound', ageMs, request })
    revocations.publish({ service, peer, error })
    stats.revoked(error)
    onRevoked(error)
    return error
  }

  /** Emits the pending event. */
  flush(): void {
    this.#events.flush()
  }

  #publish(
    peer: Peer,
    { method, path }: DeniedRequest['head'],
    decision: RequestDecision,
    status: number | undefined,
  ): void {
    if (!requests.hasSubscribers) return
    const { service } = this.#options
    requests.publish({ ...decision, service, peer, method, path: withoutQuery(path), status })
  }
}
