import type { AgentClient } from '../agent/client.js'
import { isNoAnswer } from '../agent/agent-errors.js'
import { type ConnectInstance, fetchConnectInstances } from '../agent/endpoints/health.js'
import { CachedWatch } from '../agent/cached-watch.js'
import { ClosedError, DialError } from '../base/errors.js'
import { log } from '../base/log.js'
import type { Time } from '../base/clock.js'
import { publishResolution, publishResolutionFailure } from './diagnostics.js'
import { type Emptiness, noneAlive, toEndpoints, unexplained, whyUnknown } from './instances.js'
import { TtlCache } from './ttl-cache.js'
import type { Endpoint, ResolveRequest, Resolver } from './resolver.js'
import type { ServiceUpstream } from './upstream.js'

/** How long the reason for an empty result is cached. */
const EMPTINESS_MS = 2_000

/** The poll interval of instances that cannot be watched: longer for upstreams that have not been used recently. */
const SHORTEST_POLL_MS = 5_000
const LONGEST_POLL_MS = 60_000

/** Resolves a service to its instances, from a watched copy of the health endpoint of the agent. */
export class HealthResolver implements Resolver {
  readonly name: string
  readonly isSorted: boolean
  readonly #agent: AgentClient
  readonly #upstream: ServiceUpstream
  readonly #time: Time
  readonly #emptiness: TtlCache<Emptiness>
  readonly #onFailed: (error: Error) => void
  #isClosed = false
  #isBehind = false
  #usedAt = -Infinity
  #watched: CachedWatch<readonly ConnectInstance[]> | undefined
  #last: { instances: readonly ConnectInstance[]; own: string; endpoints: readonly Endpoint[] } | undefined

  /** @param onFailed - called when the instances can no longer be read; the last known ones stay in use */
  constructor(agent: AgentClient, upstream: ServiceUpstream, time: Time, onFailed: (error: Error) => void) {
    this.name = upstream.service
    this.#onFailed = onFailed
    this.isSorted = upstream.near !== undefined
    this.#agent = agent
    this.#upstream = upstream
    this.#time = time
    this.#emptiness = new TtlCache(`why there is no ${this.name}`, time.clock, async (signal) => ({
      value: await whyUnknown(agent, upstream, signal).catch(unexplained),
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
        ? noneAlive(instances, this.name, this.#upstream.tags)
        : await this.#emptiness.get(signal, false)
    throw new DialError('ERR_CONNECT_NO_INSTANCES', this.name, message, { reason })
  }

  /**
   * Called after this process registered an instance, which the watch may receive later: the next dial reads the
   * instances again before it fails for lack of instances.
   */
  registered(): void {
    this.#isBehind = true
  }

  /** Ends the watch. The next `resolve` starts another one. */
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
      fetch: (query) => fetchConnectInstances(this.#agent, this.#upstream, query),
      slots: this.#agent.upstreamSlots,
      waitMs: this.#agent.settings.waitMs,
      // Without permission, Consul 1.16 answers a blocking read with an empty list, and a plain read with 403.
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
      // Publishes the change even if no dial follows.
      if (watched.value !== undefined && this.#last !== undefined) {
        this.#endpoints(watched.value, this.#last.own)
      }
    })
    return watched
  }

  /** Returns the same frozen list while nothing changes, so that the balancer need not compare it at each dial. */
  #endpoints(instances: readonly ConnectInstance[], own: string): readonly Endpoint[] {
    if (this.#last?.instances === instances && this.#last.own === own) return this.#last.endpoints
    const { onlyPassing = true, ...upstream } = this.#upstream
    const endpoints = toEndpoints(instances, { ...upstream, own, onlyPassing })
    this.#last = { instances, own, endpoints }
    publishResolution(this.name, endpoints, this.isSorted)
    return endpoints
  }
}
