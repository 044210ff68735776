import { type AgentClient, isNoAnswer } from '../agent/client.js'
import { type ConnectInstance, fetchConnectInstances } from '../agent/endpoints/health.js'
import { CachedWatch } from '../agent/cached-watch.js'
import { ClosedError, DialError } from '../base/errors.js'
import { log } from '../base/log.js'
import type { Time } from '../base/clock.js'
import { publishResolution, publishResolutionFailure } from './diagnostics.js'
import { type Emptiness, noneAlive, toEndpoints, unexplained, whyUnknown } from './instances.js'
import { TtlCache } from './ttl-cache.js'
import type { Endpoint, ResolveRequest, Resolver } from './resolver.js'
import type { ServiceTarget } from './upstream.js'

/** How long the answer to "why is there none" is kept. */
const EMPTINESS_MS = 2_000

/** How often instances are read while they cannot be watched: the longer ago an upstream was used, the less often. */
const SHORTEST_POLL_MS = 5_000
const LONGEST_POLL_MS = 60_000

/** Resolves a service to its instances that can be reached over Connect, from a watched copy of what the agent knows. */
export class HealthResolver implements Resolver {
  readonly name: string
  readonly isSorted: boolean
  readonly #agent: AgentClient
  readonly #target: ServiceTarget
  readonly #time: Time
  readonly #emptiness: TtlCache<Emptiness>
  readonly #onFailed: (error: Error) => void
  #isClosed = false
  #isBehind = false
  #usedAt = -Infinity
  #watched: CachedWatch<readonly ConnectInstance[]> | undefined
  #last: { instances: readonly ConnectInstance[]; own: string; endpoints: readonly Endpoint[] } | undefined

  /** @param onFailed - called when the instances may not be read any more; those that are known stay in use */
  constructor(agent: AgentClient, target: ServiceTarget, time: Time, onFailed: (error: Error) => void) {
    this.name = target.service
    this.#onFailed = onFailed
    this.isSorted = target.near !== undefined
    this.#agent = agent
    this.#target = target
    this.#time = time
    this.#emptiness = new TtlCache(`why there is no ${this.name}`, time.clock, async (signal) => ({
      value: await whyUnknown(agent, target, signal).catch(unexplained),
      ttlMs: EMPTINESS_MS,
    }))
  }

  get lastError(): Error | undefined {
    return this.#watched?.lastError
  }

  get isEmpty(): boolean {
    return this.#watched?.value === undefined || this.#watched.value.length === 0
  }

  /** @throws DialError with ERR_CONNECT_NO_INSTANCES, AgentError */
  async resolve({ signal, datacenter, refresh }: ResolveRequest): Promise<readonly Endpoint[]> {
    if (this.#isClosed) throw new ClosedError(`resolve ${this.name}`)
    this.#usedAt = this.#time.clock.now()
    this.#watched ??= this.#watch()
    const instances = await this.#instances(this.#watched, signal, refresh)
    const endpoints = this.#endpoints(instances, datacenter)
    if (endpoints.length > 0) return endpoints
    const { reason, message } =
      instances.length > 0
        ? noneAlive(instances, this.name, this.#target.tags)
        : await this.#emptiness.get(signal, false)
    throw new DialError('ERR_CONNECT_NO_INSTANCES', this.name, message, { reason })
  }

  /**
   * This process has registered an instance, of which the watch may learn a moment later: a dial reads the instances
   * again before it says that there are none.
   */
  registered(): void {
    this.#isBehind = true
  }

  /** Ends the watch; the next `resolve` begins another. */
  stop(): void {
    this.#watched?.close()
    this.#watched = undefined
    this.#last = undefined
  }

  close(): void {
    this.#isClosed = true
    this.stop()
    this.#emptiness.close()
  }

  async #instances(
    watched: CachedWatch<readonly ConnectInstance[]>,
    signal: AbortSignal,
    refresh: boolean,
  ): Promise<readonly ConnectInstance[]> {
    const isBehind = this.#isBehind && watched.value?.length === 0
    this.#isBehind = false
    if (isBehind) return watched.refreshed(signal, 0)
    return refresh ? watched.refreshed(signal) : watched.first(signal)
  }

  #watch(): CachedWatch<readonly ConnectInstance[]> {
    const watched: CachedWatch<readonly ConnectInstance[]> = new CachedWatch({
      name: `instances of ${this.name}`,
      fetch: (query) => fetchConnectInstances(this.#agent, this.#target, query),
      slots: this.#agent.upstreamSlots,
      waitMs: this.#agent.settings.waitMs,
      // Consul 1.16 answers a blocking read without the right with an empty list, where a plain one is a 403.
      isDoubtful: (instances) => instances.length === 0 && !this.isEmpty,
      pollMs: () => {
        const unusedMs = this.#time.clock.now() - this.#usedAt
        return Math.min(LONGEST_POLL_MS, Math.max(SHORTEST_POLL_MS, unusedMs))
      },
      ...this.#time,
    })
    watched.on('failed', (error) => {
      publishResolutionFailure(this.name, error)
      if (!this.isEmpty && !isNoAnswer(error)) this.#onFailed(error)
    })
    watched.on('value', () => {
      log.resolve('%s: %d instances known', this.name, watched.value?.length)
      // Reports the change also when no dial follows.
      if (watched.value !== undefined && this.#last !== undefined) {
        this.#endpoints(watched.value, this.#last.own)
      }
    })
    return watched
  }

  /** The same list for as long as nothing changes: what is known of it need not be found out again on each dial. */
  #endpoints(instances: readonly ConnectInstance[], own: string): readonly Endpoint[] {
    if (this.#last?.instances === instances && this.#last.own === own) return this.#last.endpoints
    const { onlyPassing = true, ...target } = this.#target
    const endpoints = toEndpoints(instances, { ...target, own, onlyPassing })
    this.#last = { instances, own, endpoints }
    publishResolution(this.name, endpoints, this.isSorted)
    return endpoints
  }
}
