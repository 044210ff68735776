import { EventEmitter } from 'eventemitter3'
import type { Bounds } from '../base/deadline.js'
import type { Peer } from '../identity/peer.js'
import { type Authorizer, type IntentionDecision, type Outcome, runAuthorizer } from './authorizer.js'
import type { IntentionRegistry, IntentionsLease } from './intention-registry.js'
import type { Staleness } from './destination-intentions.js'

interface ServiceAuthorizerEvents {
  /** Decisions may have changed. */
  changed: []
  stale: [staleness: Staleness]
  fresh: []
  failed: [error: Error]
}

export interface ServiceAuthorizerOptions {
  readonly service: string
  readonly authorizer: Authorizer
  readonly destinations: IntentionRegistry
  readonly staleMs: number
}

/** Decides who may connect to a service, by its authorizer. Intentions are watched from their first use. */
export class ServiceAuthorizer extends EventEmitter<ServiceAuthorizerEvents> {
  readonly #options: ServiceAuthorizerOptions
  #lease: IntentionsLease | undefined
  #isClosed = false

  constructor(options: ServiceAuthorizerOptions) {
    super()
    this.#options = options
  }

  /** The number of intentions; undefined before their first use and while they cannot be read. */
  get intentions(): number | undefined {
    return this.#lease?.intentions.size
  }

  /** Since when the agent has not answered, in milliseconds since the Unix epoch. */
  get staleSince(): number | undefined {
    return this.#lease?.intentions.staleSince
  }

  /**
   * Decides whether a peer may connect. Errors deny, with a reason.
   * @param decidesRequests - whether the caller decides each request by the `requests` of the outcome
   */
  decide(peer: Peer, bounds: Bounds, decidesRequests: boolean): Promise<Outcome> {
    const { authorizer, service } = this.#options
    const ask = (signal: AbortSignal): IntentionDecision | Promise<IntentionDecision> =>
      this.#watched().decide(peer, { signal, decidesRequests })
    return runAuthorizer(authorizer, { peer, service }, ask, bounds)
  }

  close(): void {
    this.#isClosed = true
    this.removeAllListeners()
    if (this.#lease === undefined) return
    const { intentions } = this.#lease
    intentions.off('changed', this.#onChanged).off('stale', this.#onStale)
    intentions.off('fresh', this.#onFresh).off('failed', this.#onFailed)
    this.#lease.release()
  }

  #watched(): IntentionsLease['intentions'] {
    if (this.#isClosed) throw new Error('the service is closed')
    if (this.#lease === undefined) {
      const { destinations, service, staleMs } = this.#options
      this.#lease = destinations.lease(service, staleMs)
      const { intentions } = this.#lease
      intentions.on('changed', this.#onChanged).on('stale', this.#onStale)
      intentions.on('fresh', this.#onFresh).on('failed', this.#onFailed)
    }
    return this.#lease.intentions
  }

  // Properties, so that only the listeners of this object are removed from the shared intentions.
  readonly #onChanged = (): void => {
    this.emit('changed')
  }
  readonly #onStale = (staleness: Staleness): void => {
    this.emit('stale', staleness)
  }
  readonly #onFresh = (): void => {
    this.emit('fresh')
  }
  readonly #onFailed = (error: Error): void => {
    this.emit('failed', error)
  }
}
