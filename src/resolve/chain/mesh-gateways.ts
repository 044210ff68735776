import { CachedWatch } from '../../agent/cached-watch.js'
import type { AgentClient } from '../../agent/client.js'
import type { ConnectInstance } from '../../agent/endpoints/health.js'
import {
  type GatewaysByDatacenter,
  fetchGatewayService,
  fetchMeshGateways,
} from '../../agent/endpoints/mesh-gateways.js'
import type { Time } from '../../base/clock.js'
import { BoundedMap } from '../../base/bounded-map.js'
import { toError } from '../../base/errors.js'
import { isAborted } from '../../base/deadline.js'
import { log } from '../../base/log.js'
import { TtlCache } from '../ttl-cache.js'

/** How long gateways that were found by the name of their service are cached. */
const BY_NAME_TTL_MS = 10_000
/** More datacenters than any federation has. */
const MAX_DATACENTERS = 256
/** The same list each time, so that nothing seems to have changed. */
const NO_GATEWAYS: readonly ConnectInstance[] = []

/** The mesh gateways of all datacenters, shared by the upstreams of a process and watched from their first use. */
export class MeshGateways {
  readonly #agent: AgentClient
  readonly #time: Time
  readonly #byName = new BoundedMap<string, TtlCache<readonly ConnectInstance[]>>(MAX_DATACENTERS)
  #watched: CachedWatch<GatewaysByDatacenter> | undefined

  constructor(agent: AgentClient, time: Time) {
    this.#agent = agent
    this.#time = time
  }

  /**
   * Returns the gateways of a datacenter, including unhealthy ones; an empty list if there are none. The same list while
   * nothing changes.
   * @throws AgentError
   */
  async list(datacenter: string, signal: AbortSignal): Promise<readonly ConnectInstance[]> {
    try {
      const listed = (await this.#use().now(signal)).get(datacenter)
      if (listed !== undefined && listed.length > 0) return listed
    } catch (error) {
      // The servers do not list gateways while some of them are older than 1.8.
      if (isAborted(signal)) throw error
      log.resolve('mesh gateways: %s', toError(error).message)
    }
    return this.#cacheOf(datacenter).get(signal, false)
  }

  /** Returns the gateways of a datacenter that are known without waiting. */
  known(datacenter: string): readonly ConnectInstance[] {
    const listed = this.#use().value?.get(datacenter)
    if (listed !== undefined && listed.length > 0) return listed
    return this.#byName.get(datacenter)?.value ?? NO_GATEWAYS
  }

  close(): void {
    this.#watched?.close()
    this.#watched = undefined
    for (const cache of this.#byName.values()) cache.close()
  }

  #use(): CachedWatch<GatewaysByDatacenter> {
    return (this.#watched ??= new CachedWatch({
      name: 'mesh gateways',
      fetch: (query) => fetchMeshGateways(this.#agent, query),
      slots: this.#agent.upstreamSlots,
      waitMs: this.#agent.settings.waitMs,
      ...this.#time,
    }))
  }

  /** A token may see the gateways of a service although the list of all gateways is empty for it. */
  #cacheOf(datacenter: string): TtlCache<readonly ConnectInstance[]> {
    const known = this.#byName.get(datacenter)
    if (known !== undefined) return known
    const service = this.#agent.settings.meshGatewayService
    const cache = new TtlCache(`mesh gateways in ${datacenter}`, this.#time.clock, async (signal) => ({
      value: await fetchGatewayService(this.#agent, service, datacenter, signal),
      ttlMs: BY_NAME_TTL_MS,
    }))
    this.#byName.set(datacenter, cache)
    return cache
  }
}
