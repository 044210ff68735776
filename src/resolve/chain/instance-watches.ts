import { EventEmitter } from 'eventemitter3'
import { isNoAnswer } from '../../agent/agent-errors.js'
import { CachedWatch } from '../../agent/cached-watch.js'
import type { AgentClient } from '../../agent/client.js'
import {
  type ConnectInstance,
  type HealthQuery,
  fetchConnectInstances,
} from '../../agent/endpoints/health.js'
import type { Time } from '../../base/clock.js'
import { log } from '../../base/log.js'
import { publishResolutionFailure } from '../diagnostics.js'
import { type Emptiness, unexplained, whyUnknown } from '../instances.js'
import { TtlCache } from '../ttl-cache.js'

/** How long the reason for an empty result is cached. */
const EMPTINESS_MS = 2_000

/** The poll interval of instances that cannot be watched: longer for upstreams that have not been used recently. */
const SHORTEST_POLL_MS = 5_000
const LONGEST_POLL_MS = 60_000

/**
 * How a read waits. `first`: transient errors are waited out. `now`: the next read must succeed. `refreshed`: a copy of
 * more than a second is read again.
 */
export type Patience = 'first' | 'now' | 'refreshed'

/** What all watches of instances need. */
export interface InstanceContext {
  readonly agent: AgentClient
  readonly time: Time
  /** Called when instances can no longer be read; the last known ones stay in use. */
  readonly onFailed: (error: Error) => void
}

interface InstanceWatchEvents {
  /** The instances have changed. */
  value: []
}

/** A watched copy of some instances of a service, from the health endpoint of the agent. */
export class InstanceWatch extends EventEmitter<InstanceWatchEvents> {
  readonly query: HealthQuery
  readonly #context: InstanceContext
  readonly #emptiness: TtlCache<Emptiness>
  readonly #watched: CachedWatch<readonly ConnectInstance[]>
  #isBehind = false
  #usedAt: number

  constructor(query: HealthQuery, context: InstanceContext) {
    super()
    const { agent, time } = context
    this.query = query
    this.#context = context
    this.#usedAt = time.clock.now()
    this.#emptiness = new TtlCache(`why there is no ${query.service}`, time.clock, async (signal) => ({
      value: await whyUnknown(agent, query, signal).catch(unexplained),
      ttlMs: EMPTINESS_MS,
    }))
    this.#watched = this.#watch()
  }

  /** The last good value; undefined before the first. */
  get value(): readonly ConnectInstance[] | undefined {
    return this.#watched.value
  }

  get lastError(): Error | undefined {
    return this.#watched.lastError
  }

  get isEmpty(): boolean {
    return this.value === undefined || this.value.length === 0
  }

  /** Whether `read` would return the value without a request. */
  get isCurrent(): boolean {
    return this.value !== undefined && !(this.#isBehind && this.value.length === 0)
  }

  /** Notes a use, after which polls are more frequent. */
  touch(): void {
    this.#usedAt = this.#context.time.clock.now()
  }

  /** @throws AgentError, ClosedError, and the signal's reason */
  async read(signal: AbortSignal, patience: Patience): Promise<readonly ConnectInstance[]> {
    const isBehind = this.#isBehind && this.value?.length === 0
    this.#isBehind = false
    if (isBehind) return this.#watched.refreshed(signal, 0)
    if (patience === 'refreshed' && this.value !== undefined) return this.#watched.refreshed(signal)
    return patience === 'first' ? this.#watched.first(signal) : this.#watched.now(signal)
  }

  /** Explains an empty value. */
  whyEmpty(signal: AbortSignal): Promise<Emptiness> {
    return this.#emptiness.get(signal, false)
  }

  /**
   * Called after this process registered an instance, which the watch may receive later: the next dial reads the
   * instances again before it fails for lack of instances.
   */
  registered(): void {
    this.#isBehind = true
  }

  close(): void {
    this.#watched.close()
    this.#emptiness.close()
  }

  #watch(): CachedWatch<readonly ConnectInstance[]> {
    const { agent, time, onFailed } = this.#context
    const { service } = this.query
    const watched: CachedWatch<readonly ConnectInstance[]> = new CachedWatch({
      name: `instances of ${service}`,
      fetch: (query) => fetchConnectInstances(agent, this.query, query),
      slots: agent.upstreamSlots,
      waitMs: agent.settings.waitMs,
      // Without permission, Consul 1.16 answers a blocking read with an empty list, and a plain read with 403.
      isDoubtful: (instances) => instances.length === 0 && !this.isEmpty,
      pollMs: () => {
        const unusedMs = time.clock.now() - this.#usedAt
        return Math.min(LONGEST_POLL_MS, Math.max(SHORTEST_POLL_MS, unusedMs))
      },
      ...time,
    })
    watched.on('failed', (error) => {
      publishResolutionFailure(service, error)
      if (!this.isEmpty && !isNoAnswer(error)) onFailed(error)
    })
    watched.on('value', () => {
      log.resolve('%s: %d instances known', service, watched.value?.length)
      this.emit('value')
    })
    return watched
  }
}

/** The watches of instances in a process: upstreams that lead to the same instances share one. */
export class InstanceWatches {
  readonly #context: InstanceContext
  readonly #held = new Map<string, { readonly watch: InstanceWatch; users: number }>()

  constructor(context: InstanceContext) {
    this.#context = context
  }

  /** Returns the watch for a query. The caller must release it. */
  acquire(query: HealthQuery): InstanceWatch {
    const key = JSON.stringify(query)
    const held = this.#held.get(key) ?? { watch: new InstanceWatch(query, this.#context), users: 0 }
    held.users += 1
    this.#held.set(key, held)
    return held.watch
  }

  /** Gives a watch back. It is closed when nothing else uses it. */
  release({ query }: InstanceWatch): void {
    const key = JSON.stringify(query)
    const held = this.#held.get(key)
    if (held === undefined) return
    held.users -= 1
    if (held.users > 0) return
    this.#held.delete(key)
    held.watch.close()
  }

  /** Called after this process registered an instance of a service, so that the next dials find it. */
  registered(service: string): void {
    for (const { watch } of this.#held.values()) if (watch.query.service === service) watch.registered()
  }
}
