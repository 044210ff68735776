import { EventEmitter } from 'eventemitter3'
import type { Bounds } from '../base/deadline.js'
import type { Peer } from '../identity/peer.js'
import { type Authorizer, type Decision, type Outcome, runAuthorizer } from './authorizer.js'
import type { IntentionRegistry, IntentionsLease } from './intention-registry.js'
import type { Staleness } from './destination-intentions.js'

interface ServiceAuthorizerEvents {
  /** Decisions may have become others. */
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

/** Who may connect to one service: its authorizer, and the intentions, which are watched once it has asked for them. */
export class ServiceAuthorizer extends EventEmitter<ServiceAuthorizerEvents> {
  readonly #options: ServiceAuthorizerOptions
  #lease: IntentionsLease | undefined
  #isClosed = false

  constructor(options: ServiceAuthorizerOptions) {
    super()
    this.#options = options
  }

  /** How many intentions are known; undefined while none are asked for, or they cannot be read. */
  get intentions(): number | undefined {
    return this.#lease?.intentions.size
  }

  /** Since when the agent has been away, in milliseconds since the epoch. */
  get staleSince(): number | undefined {
    return this.#lease?.intentions.staleSince
  }

  /** Whether a peer may connect now. Whatever goes wrong is a denial with a reason. */
  decide(peer: Peer, bounds: Bounds): Promise<Outcome> {
    const { authorizer, service } = this.#options
    const ask = (signal: AbortSignal): Decision | Promise<Decision> => this.#watched().decide(peer, signal)
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

  // Properties and not methods, since others share the intentions and only ours are taken away.
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
