import { isDeepStrictEqual } from 'node:util'
import { isTransient } from '../../agent/agent-errors.js'
import { fetchChain } from '../../agent/endpoints/chain.js'
import { within } from '../../base/clock.js'
import { AgentError, ClosedError, toError } from '../../base/errors.js'
import { log } from '../../base/log.js'
import type { Endpoint, ResolveRequest, Resolver } from '../resolver.js'
import { TtlCache, type Timed } from '../ttl-cache.js'
import type { ServiceUpstream } from '../upstream.js'
import type { ChainChanges } from './chain-changes.js'
import { type Failover, followChain, withoutChain } from './failover.js'
import { FailoverResolver } from './failover-resolver.js'
import type { TargetContext } from './target-resolver.js'

/** How long a chain is cached that is current, and of which all changes are seen; a safety net. */
const WATCHED_TTL_MS = 300_000
/** How long a chain is cached otherwise. */
const UNWATCHED_TTL_MS = 10_000
/** How long the first chain waits for the watches. */
const LONGEST_READY_MS = 500

/** What the upstreams of a process share. */
export interface ChainContext extends Omit<TargetContext, 'own'> {
  readonly changes: ChainChanges
  /** Called when a chain can no longer be read or followed; the last good one stays in use. */
  readonly onFailed: (error: Error) => void
}

/** Resolves a service to the instances that its discovery chain leads to. */
export class ServiceResolver implements Resolver {
  readonly name: string
  readonly isSorted: boolean
  readonly #upstream: ServiceUpstream
  readonly #context: ChainContext
  readonly #chain: TtlCache<Failover>
  /** Ends the use of the watches of config entries. */
  #stopWatching: (() => void) | undefined
  #followed:
    { readonly failover: Failover; readonly own: string; readonly resolver: FailoverResolver } | undefined
  /** Whether the agent has ever returned a chain. */
  #hasChain = false
  #isClosed = false

  constructor(upstream: ServiceUpstream, context: ChainContext) {
    this.name = upstream.service
    this.isSorted = upstream.near !== undefined
    this.#upstream = upstream
    this.#context = context
    this.#chain = new TtlCache(`discovery chain of ${this.name}`, context.time.clock, (signal) =>
      this.#readChain(signal),
    )
  }

  get lastError(): Error | undefined {
    return this.#followed?.resolver.lastError ?? this.#chain.lastError
  }

  get isEmpty(): boolean {
    return this.#followed?.resolver.isEmpty !== false
  }

  /** @throws DialError with ERR_CONNECT_NO_INSTANCES, ERR_CONNECT_CHAIN, or the code of a target; AgentError */
  async resolve(request: ResolveRequest): Promise<readonly Endpoint[]> {
    for (;;) {
      if (this.#isClosed) throw new ClosedError(`resolve ${this.name}`)
      this.#stopWatching ??= this.#watchChanges()
      const failover = await this.#chain.get(request.signal, false)
      const resolver = this.#resolverOf(failover, request.datacenter)
      try {
        return await resolver.resolve(request)
      } catch (error) {
        // The chain may have changed in the meantime, which closes the resolver.
        const hasChanged = this.#followed !== undefined && this.#followed.resolver !== resolver
        if (error instanceof ClosedError && hasChanged) continue
        throw error
      }
    }
  }

  /** Ends the watches. The next `resolve` starts them again. */
  stop(): void {
    this.#stopWatching?.()
    this.#stopWatching = undefined
    this.#followed?.resolver.close()
    this.#followed = undefined
    this.#chain.expire()
  }

  close(): void {
    this.#isClosed = true
    this.stop()
    this.#chain.close()
  }

  #watchChanges(): () => void {
    const { changes } = this.#context
    const onChanged = (): void => {
      this.#chain.expire()
    }
    const release = changes.use()
    changes.on('changed', onChanged)
    return () => {
      changes.off('changed', onChanged)
      release()
    }
  }

  async #readChain(signal: AbortSignal): Promise<Timed<Failover>> {
    const { service, datacenter, namespace, partition, meshGateway: gatewayMode } = this.#upstream
    const scope = { datacenter, namespace, partition }
    const { agent, changes, onFailed, time } = this.#context
    await within(time.clock, LONGEST_READY_MS, signal, changes.ready())
    // A cluster without a leader answers stale reads only.
    const stale = this.#followed === undefined
    try {
      const response = await fetchChain(agent, { service, ...scope, isForBytes: true, stale }, signal)
      const value = followChain(response.value, gatewayMode)
      this.#hasChain = true
      // The watches are for the namespace and the partition of the agent's settings.
      const isWatched = changes.isComplete && namespace === undefined && partition === undefined
      const isCurrent = isWatched && (!stale || response.lastContactMs === 0)
      return { value, ttlMs: isCurrent ? WATCHED_TTL_MS : UNWATCHED_TTL_MS }
    } catch (thrown) {
      const error = toError(thrown)
      // An agent before 1.6 has no such endpoint.
      const isMissing = error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND'
      if (isMissing && !this.#hasChain)
        return { value: withoutChain(service, gatewayMode), ttlMs: UNWATCHED_TTL_MS }
      if (this.#followed === undefined || isTransient(error)) throw error
      onFailed(error)
      return { value: this.#followed.failover, ttlMs: UNWATCHED_TTL_MS }
    }
  }

  /** Returns the resolver for a chain: the same one while the chain does not change. */
  #resolverOf(failover: Failover, own: string): FailoverResolver {
    if (this.#isClosed) throw new ClosedError(`resolve ${this.name}`)
    const before = this.#followed
    if (before?.own === own) {
      if (before.failover === failover) return before.resolver
      if (isDeepStrictEqual(before.failover, failover)) {
        this.#followed = { ...before, failover }
        return before.resolver
      }
    }
    const resolver = new FailoverResolver(this.name, failover, this.#upstream, { ...this.#context, own })
    this.#followed = { failover, own, resolver }
    // After the new one was created: the watches of targets that stay are kept.
    before?.resolver.close()
    log.resolve('%s: leads to %s', this.name, resolver.description)
    return resolver
  }
}
