import { isDeepStrictEqual } from 'node:util'
import { ClosedError } from '../../base/errors.js'
import { log } from '../../base/log.js'
import type { Endpoint, ResolveRequest } from '../resolver.js'
import type { Failover } from './failover.js'
import { FailoverResolver } from './failover-resolver.js'
import type { Conditions, TargetContext } from './target-resolver.js'

interface Followed {
  readonly failover: Failover
  readonly own: string
  readonly resolver: FailoverResolver
}

/** Resolves along one resolver of a chain, which may change. */
export class Leg {
  readonly #name: string
  readonly #conditions: Conditions
  readonly #context: Omit<TargetContext, 'own'>
  #followed: Followed | undefined
  #isClosed = false

  /** @param name - the name of the upstream, for messages */
  constructor(name: string, conditions: Conditions, context: Omit<TargetContext, 'own'>) {
    this.#name = name
    this.#conditions = conditions
    this.#context = context
  }

  get lastError(): Error | undefined {
    return this.#followed?.resolver.lastError
  }

  get isEmpty(): boolean {
    return this.#followed?.resolver.isEmpty !== false
  }

  /** Where the leg led last; undefined before the first resolution. */
  get failover(): Failover | undefined {
    return this.#followed?.failover
  }

  /**
   * Resolves a failover that was read from the chain.
   * @throws ClosedError if the chain has changed in the meantime; see `FailoverResolver` for the others
   */
  resolve(failover: Failover, request: ResolveRequest): Promise<readonly Endpoint[]> {
    return this.#resolverOf(failover, request.datacenter).resolve(request)
  }

  /** Returns the endpoints that can be dialed without waiting, if the failover is the last one that was resolved. */
  known(failover: Failover): readonly Endpoint[] | undefined {
    return this.#followed?.failover === failover ? this.#followed.resolver.known() : undefined
  }

  /** Whether another failover was resolved since. */
  hasLeft(failover: Failover): boolean {
    return this.#followed !== undefined && this.#followed.failover !== failover
  }

  /** Ends the watches. The next `resolve` starts them again. */
  stop(): void {
    this.#followed?.resolver.close()
    this.#followed = undefined
  }

  close(): void {
    this.#isClosed = true
    this.stop()
  }

  /** Returns the resolver for a failover: the same one while the failover does not change. */
  #resolverOf(failover: Failover, own: string): FailoverResolver {
    if (this.#isClosed) throw new ClosedError(`resolve ${this.#name}`)
    const before = this.#followed
    if (before?.own === own) {
      if (before.failover === failover) return before.resolver
      if (isDeepStrictEqual(before.failover, failover)) {
        this.#followed = { ...before, failover }
        return before.resolver
      }
    }
    const resolver = new FailoverResolver(this.#name, failover, this.#conditions, { ...this.#context, own })
    this.#followed = { failover, own, resolver }
    // After the new one was created: the watches of targets that stay are kept.
    before?.resolver.close()
    log.resolve('%s: leads to %s', this.#name, resolver.description)
    return resolver
  }
}
