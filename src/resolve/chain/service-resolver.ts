import { isTransient } from '../../agent/agent-errors.js'
import {
  type CompiledChain,
  fetchBytesChain,
  fetchChain,
  isForRequests,
} from '../../agent/endpoints/chain.js'
import type { MeshGatewayMode } from '../../agent/endpoints/chain.js'
import { within } from '../../base/clock.js'
import { AgentError, ClosedError, DialError, toError } from '../../base/errors.js'
import type { ActiveUpstream } from '../active-upstream.js'
import { Balancer } from '../balancing/balancer.js'
import type { Endpoint, ResolveRequest, Resolver } from '../resolver.js'
import { TtlCache, type Timed } from '../ttl-cache.js'
import type { ServiceUpstream } from '../upstream.js'
import type { ChainChanges } from './chain-changes.js'
import { type Failover, followChain, withoutChain } from './failover.js'
import { Leg } from './leg.js'
import { type Routes, followRoutes } from './routes.js'
import type { TargetContext } from './target-resolver.js'

/** TTL of a current chain whose changes are watched. */
const WATCHED_TTL_MS = 300_000
/** TTL of any other chain. */
const UNWATCHED_TTL_MS = 10_000
/** How long the first chain waits for the watches. */
const LONGEST_READY_MS = 500

/** What the upstreams of a process share. */
export interface ChainContext extends Omit<TargetContext, 'own'> {
  readonly changes: ChainChanges
  /** Called when a chain can no longer be read or followed, so that the last good one stays in use, or only in part. */
  readonly onFailed: (error: Error) => void
}

/** The chain of a service, followed. A new object each time it is read. */
export interface ServiceChain {
  /** Where connections go; undefined if connections have a chain of their own. */
  readonly failover: Failover | undefined
  /** Where requests go; undefined if they go where connections go. */
  readonly routes: Routes | undefined
}

/** Resolves a service to the instances that its discovery chain leads to. */
export class ServiceResolver implements Resolver {
  readonly name: string
  readonly isSorted: boolean
  readonly #upstream: ServiceUpstream
  readonly #context: ChainContext
  readonly #cache: TtlCache<ServiceChain>
  /** The chain for bytes of a service with a router or splitter. */
  readonly #bytesChain: TtlCache<Failover>
  readonly #bytes: Leg
  readonly #legs = new Map<string, { readonly leg: Leg; readonly active: ActiveUpstream }>()
  /** Ends the use of the watches of config entries. */
  #stopWatching: (() => void) | undefined
  /** The last good chain, since the watches began. */
  #lastGood: ServiceChain | undefined
  readonly #warned = new Set<string>()
  /** Whether the agent has ever returned a chain. */
  #hasChain = false
  #isClosed = false

  constructor(upstream: ServiceUpstream, context: ChainContext) {
    const { clock } = context.time
    this.name = upstream.service
    this.isSorted = upstream.near !== undefined
    this.#upstream = upstream
    this.#context = context
    const what = `discovery chain of ${this.name}`
    this.#cache = new TtlCache(what, clock, (signal) => this.#fetchChain(signal))
    this.#bytesChain = new TtlCache(what, clock, (signal) => this.#fetchBytesChain(signal))
    this.#bytes = new Leg(this.name, upstream, context)
  }

  get lastError(): Error | undefined {
    return this.#bytes.lastError ?? this.#cache.lastError ?? this.#bytesChain.lastError
  }

  get isEmpty(): boolean {
    return this.#bytes.isEmpty && [...this.#legs.values()].every(({ leg }) => leg.isEmpty)
  }

  /** @throws DialError with ERR_CONNECT_NO_INSTANCES, ERR_CONNECT_CHAIN, or the code of a target; AgentError */
  resolve(request: ResolveRequest): Promise<readonly Endpoint[]> {
    return this.#follow(this.#bytes, request, async () => {
      const { failover } = await this.readChain(request.signal)
      return failover ?? this.#bytesChain.get(request.signal, false)
    })
  }

  /** Returns the endpoints that can be dialed without waiting. */
  known(): readonly Endpoint[] | undefined {
    const failover = this.chain()?.failover
    return failover === undefined ? undefined : this.#bytes.known(failover)
  }

  /** Returns the chain; undefined if it must be read first. */
  chain(): ServiceChain | undefined {
    return this.#cache.fresh
  }

  /** @throws DialError with ERR_CONNECT_CHAIN, AgentError */
  async readChain(signal: AbortSignal): Promise<ServiceChain> {
    if (this.#isClosed) throw new ClosedError(`resolve ${this.name}`)
    this.#stopWatching ??= this.#watchChanges()
    const chain = await this.#cache.get(signal, false)
    // The chain may have changed in the meantime.
    if (this.chain() === chain) this.#dropLegs(chain)
    return chain
  }

  /** Returns the upstream of a leg: the same object while the routes lead to it. */
  legUpstream(key: string): ActiveUpstream {
    const known = this.#legs.get(key)
    if (known !== undefined) return known.active
    const leg = new Leg(this.name, this.#upstream, this.#context)
    const failoverIn = (chain: ServiceChain | undefined): Failover | undefined => chain?.routes?.legs.get(key)
    const resolver: Resolver = {
      name: this.name,
      isSorted: this.isSorted,
      get lastError() {
        return leg.lastError
      },
      known: () => {
        const failover = failoverIn(this.chain())
        return failover === undefined ? undefined : leg.known(failover)
      },
      resolve: (request) =>
        this.#follow(leg, request, async () => {
          const failover = failoverIn(await this.readChain(request.signal))
          if (failover !== undefined && this.#legs.get(key)?.leg === leg) return failover
          const message = 'its discovery chain has changed: the leg was removed'
          throw new DialError('ERR_CONNECT_CHAIN', this.name, message)
        }),
    }
    const active = { resolver, balancer: new Balancer(this.#context.time) }
    this.#legs.set(key, { leg, active })
    return active
  }

  /** Reports a part of the chain that is not followed, once. */
  reportUnsupported(problem: string): void {
    if (this.#warned.has(problem) || this.#warned.size >= MOST_WARNED) return
    this.#warned.add(problem)
    const message = `a part of its discovery chain is left out: ${problem}`
    this.#context.onFailed(new DialError('ERR_CONNECT_CHAIN', this.name, message))
  }

  /** Ends the watches. The next `resolve` starts them again. */
  stop(): void {
    this.#stopWatching?.()
    this.#stopWatching = undefined
    this.#lastGood = undefined
    this.#bytes.stop()
    this.#dropLegs(undefined)
    this.#expire()
  }

  close(): void {
    this.#isClosed = true
    this.stop()
    this.#bytes.close()
    this.#cache.close()
    this.#bytesChain.close()
  }

  /** Resolves along a leg. The chain may change in the meantime. */
  async #follow(
    leg: Leg,
    request: ResolveRequest,
    find: () => Promise<Failover>,
  ): Promise<readonly Endpoint[]> {
    for (;;) {
      if (this.#isClosed) throw new ClosedError(`resolve ${this.name}`)
      const failover = await find()
      try {
        return await leg.resolve(failover, request)
      } catch (error) {
        if (error instanceof ClosedError && leg.hasLeft(failover)) continue
        throw error
      }
    }
  }

  #watchChanges(): () => void {
    const { changes } = this.#context
    const onChanged = (): void => {
      this.#expire()
    }
    const release = changes.use()
    changes.on('changed', onChanged)
    return () => {
      changes.off('changed', onChanged)
      release()
    }
  }

  #expire(): void {
    this.#cache.expire()
    this.#bytesChain.expire()
  }

  async #fetchChain(signal: AbortSignal): Promise<Timed<ServiceChain>> {
    const { agent, changes, onFailed, time } = this.#context
    const { service, meshGateway: gatewayMode } = this.#upstream
    await within(time.clock, LONGEST_READY_MS, signal, changes.ready())
    // A cluster without a leader answers stale reads only.
    const stale = this.#lastGood === undefined
    try {
      const response = await fetchChain(agent, { ...this.#upstream, stale }, signal)
      const value = serviceChainOf(response.value, gatewayMode)
      for (const place of response.value.ignored) this.reportUnsupported(`${place} is not supported`)
      this.#hasChain = true
      this.#lastGood = value
      return { value, ttlMs: this.#ttlMs(stale, response.lastContactMs) }
    } catch (thrown) {
      const error = toError(thrown)
      // An agent before 1.6 has no such endpoint. Once there was a chain, it is an error of the agent.
      const isMissing = error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND'
      if (isMissing && !this.#hasChain) {
        const value = { failover: withoutChain(service, gatewayMode), routes: undefined }
        return { value, ttlMs: UNWATCHED_TTL_MS }
      }
      if (this.#lastGood === undefined || isTransient(error)) throw error
      onFailed(error)
      return { value: this.#lastGood, ttlMs: UNWATCHED_TTL_MS }
    }
  }

  async #fetchBytesChain(signal: AbortSignal): Promise<Timed<Failover>> {
    const { agent, onFailed } = this.#context
    const last = this.#bytes.failover
    const stale = last === undefined
    try {
      const response = await fetchBytesChain(agent, { ...this.#upstream, stale }, signal)
      const value = followChain(response.value, this.#upstream.meshGateway)
      return { value, ttlMs: this.#ttlMs(stale, response.lastContactMs) }
    } catch (thrown) {
      const error = toError(thrown)
      if (last === undefined || isTransient(error)) throw error
      onFailed(error)
      return { value: last, ttlMs: UNWATCHED_TTL_MS }
    }
  }

  #ttlMs(stale: boolean, lastContactMs: number | undefined): number {
    const { namespace, partition } = this.#upstream
    // The watches are for the namespace and the partition of the agent's settings.
    const isWatched = this.#context.changes.isComplete && namespace === undefined && partition === undefined
    const isCurrent = isWatched && (!stale || lastContactMs === 0)
    return isCurrent ? WATCHED_TTL_MS : UNWATCHED_TTL_MS
  }

  #dropLegs(chain: ServiceChain | undefined): void {
    for (const [key, { leg }] of this.#legs) {
      if (chain?.routes?.legs.has(key) === true) continue
      leg.close()
      this.#legs.delete(key)
    }
  }
}

/** Upper bound on the parts of a chain that are named in warnings. */
const MOST_WARNED = 100

/** @throws DialError with ERR_CONNECT_CHAIN */
function serviceChainOf(chain: CompiledChain, gatewayMode: MeshGatewayMode | undefined): ServiceChain {
  return {
    failover: isForRequests(chain) ? undefined : followChain(chain, gatewayMode),
    routes: followRoutes(chain, gatewayMode),
  }
}
