import type { AgentClient } from '../../agent/client.js'
import type { ChainTarget } from '../../agent/endpoints/chain.js'
import type { ConnectInstance, HealthQuery } from '../../agent/endpoints/health.js'
import { type Time, within } from '../../base/clock.js'
import { ClosedError, DialError } from '../../base/errors.js'
import { isServerName } from '../../identity/server-name.js'
import {
  type Emptiness,
  type Selection,
  noneAlive,
  toEndpoints,
  toGatewayEndpoints,
  unexplained,
} from '../instances.js'
import type { Endpoint } from '../resolver.js'
import type { ServiceUpstream } from '../upstream.js'
import type { InstanceWatch, InstanceWatches, Patience } from './instance-watches.js'
import type { MeshGateways } from './mesh-gateways.js'

/** The conditions of the caller, beside those of the chain. */
export type Conditions = Pick<
  ServiceUpstream,
  'tags' | 'near' | 'filter' | 'onlyPassing' | 'datacenter' | 'namespace' | 'partition'
>

/** The same list each time, so that nothing seems to have changed. */
const NO_ENDPOINTS: readonly Endpoint[] = []

/** What targets are resolved with. */
export interface TargetContext {
  /** Our own datacenter. */
  readonly own: string
  readonly agent: AgentClient
  readonly time: Time
  readonly instances: InstanceWatches
  readonly gateways: MeshGateways
}

/** How long other targets wait for this one. */
const PATIENCE_MS = 500

interface Pending {
  readonly resolving: Promise<readonly Endpoint[]>
  readonly startedAt: number
}

/** Resolves one target of a chain to its instances, or to the mesh gateways that lead to them. */
export class TargetResolver {
  readonly #target: ChainTarget
  readonly #conditions: Conditions
  readonly #context: TargetContext
  /** Undefined for a target in a cluster peer, which cannot be dialed. */
  readonly #watch: InstanceWatch | undefined
  readonly #endpoints: Conversion
  readonly #gatewayEndpoints: Conversion
  readonly #closed = new AbortController()
  #pending: Pending | undefined
  #callback: (() => void) | undefined

  /** @param priority - the position of the target in the failover order, 0 for the first */
  constructor(given: ChainTarget, conditions: Conditions, priority: number, context: TargetContext) {
    const target = completed(given, conditions)
    const selection = selectionOf(target, conditions, priority, context.own)
    this.#target = target
    this.#conditions = conditions
    this.#context = context
    this.#endpoints = memoized((instances) => toEndpoints(instances, selection))
    this.#gatewayEndpoints = memoized((gateways) => toGatewayEndpoints(gateways, selection))
    this.#watch =
      target.peer === undefined
        ? context.instances.acquire(healthQuery(target, conditions, context))
        : undefined
  }

  /** The target in messages, such as `api (subset v2) in dc2`. */
  get name(): string {
    const { service, subset, datacenter, peer } = this.#target
    const isElsewhere = datacenter !== undefined && datacenter !== this.#context.own
    const where = peer !== undefined ? ` in the cluster peer ${peer}` : isElsewhere ? ` in ${datacenter}` : ''
    return `${service}${subset === undefined ? '' : ` (subset ${subset})`}${where}`
  }

  get service(): string {
    return this.#target.service
  }

  get subset(): string | undefined {
    return this.#target.subset
  }

  get lastError(): Error | undefined {
    return this.#watch?.lastError
  }

  get isEmpty(): boolean {
    return this.#watch?.isEmpty !== false
  }

  /** Whether it is known that no instance is healthy. */
  get isKnownEmpty(): boolean {
    const value = this.#watch?.isCurrent === true ? this.#watch.value : undefined
    return value !== undefined && this.#endpoints(value).length === 0
  }

  /** Notes a use: instances that cannot be watched are polled more often after one. */
  touch(): void {
    this.#watch?.touch()
  }

  /**
   * Returns the endpoints; an empty list if no instance is healthy.
   * @throws AgentError; DialError with ERR_CONNECT_CLUSTER_PEER or ERR_CONNECT_GATEWAY
   */
  async resolve(signal: AbortSignal, patience: Patience): Promise<readonly Endpoint[]> {
    const { service } = this.#target
    if (this.#watch === undefined) {
      const message = `${this.name} cannot be dialed: cluster peering is not supported`
      throw new DialError('ERR_CONNECT_CLUSTER_PEER', service, message)
    }
    const endpoints = this.#endpoints(await this.#watch.read(signal, patience))
    const site = this.#gatewaySite()
    // Gateways to a target without a healthy instance are of no use.
    if (site === undefined || endpoints.length === 0) return endpoints
    const reason = this.#whyNoGateway()
    if (reason !== undefined) throw reason
    const gateways = this.#gatewayEndpoints(await this.#context.gateways.list(site, signal))
    if (gateways.length > 0) return gateways
    const message = `${this.name} is reached through the mesh gateways of ${site}, and none of them is healthy`
    throw new DialError('ERR_CONNECT_GATEWAY', service, message)
  }

  /**
   * Like `resolve`, but returns undefined if no answer comes soon; at once if an earlier call has waited that long. A
   * datacenter that does not answer must not delay the failover to another target.
   */
  async resolveSoon(signal: AbortSignal, patience: Patience): Promise<readonly Endpoint[] | undefined> {
    const { clock } = this.#context.time
    this.#pending ??= this.#begin(patience)
    const { resolving, startedAt } = this.#pending
    // A result that is known must win.
    const leftMs = Math.max(1, PATIENCE_MS - (clock.now() - startedAt))
    return within(clock, leftMs, signal, resolving)
  }

  /** Starts to resolve on behalf of all callers that wait. */
  #begin(patience: Patience): Pending {
    const pending: Pending = {
      resolving: this.resolve(this.#closed.signal, patience).finally(() => {
        if (this.#pending === pending) this.#pending = undefined
      }),
      startedAt: this.#context.time.clock.now(),
    }
    // Each caller handles the rejection; there may be none left.
    pending.resolving.catch(() => undefined)
    return pending
  }

  /** Returns the endpoints that are known without waiting. */
  known(): readonly Endpoint[] {
    const value = this.#watch?.value
    if (value === undefined) return NO_ENDPOINTS
    const endpoints = this.#endpoints(value)
    const site = this.#gatewaySite()
    if (site === undefined || endpoints.length === 0) return endpoints
    if (this.#whyNoGateway() !== undefined) return NO_ENDPOINTS
    return this.#gatewayEndpoints(this.#context.gateways.known(site))
  }

  /** Returns why no gateway can pass on what the caller wants: it chooses the instance by the server name alone. */
  #whyNoGateway(): DialError | undefined {
    const { service, serverName } = this.#target
    if (serverName !== undefined && !isServerName(serverName)) {
      const message = `${this.name} has an invalid server name, by which no mesh gateway can route`
      return new DialError('ERR_CONNECT_CHAIN', service, message)
    }
    const { tags, filter } = this.#conditions
    if (tags === undefined && filter === undefined) return undefined
    const message = `${this.name} is reached through mesh gateways, which cannot select instances by tags or a filter; use a subset`
    return new DialError('ERR_CONNECT_GATEWAY', service, message)
  }

  /** Explains why `resolve` returned an empty list. */
  async whyEmpty(signal: AbortSignal): Promise<Emptiness> {
    const { service, filter } = this.#target
    const value = this.#watch?.value ?? []
    if (value.length > 0) return noneAlive(value, service, this.#conditions.tags)
    const emptiness = await this.#watch?.whyEmpty(signal)
    if (emptiness === undefined) return unexplained(undefined)
    if (emptiness.reason !== 'no-match' || filter === undefined) return emptiness
    return { reason: 'no-match', message: `${emptiness.message} of the subset (${filter})` }
  }

  /** Calls back when the instances have changed. */
  onChanged(callback: () => void): void {
    this.#callback = callback
    this.#watch?.on('value', callback)
  }

  close(): void {
    this.#closed.abort(new ClosedError(`resolve ${this.name}`))
    // Without a function, `off` would remove the listeners of all targets that share the watch.
    if (this.#callback !== undefined) this.#watch?.off('value', this.#callback)
    if (this.#watch !== undefined) this.#context.instances.release(this.#watch)
  }

  /** Returns the datacenter whose gateways lead to the target; undefined for a target that is dialed directly. */
  #gatewaySite(): string | undefined {
    const { gatewayMode, datacenter } = this.#target
    const { own } = this.#context
    if (gatewayMode === 'none' || datacenter === undefined || datacenter === own) return undefined
    return gatewayMode === 'local' ? own : datacenter
  }
}

/**
 * Completes a target by the scope of the caller: what an agent leaves out must not lead elsewhere, such as an agent
 * without partitions.
 */
function completed(target: ChainTarget, { datacenter, namespace, partition }: Conditions): ChainTarget {
  return {
    ...target,
    datacenter: target.datacenter ?? datacenter,
    namespace: target.namespace ?? namespace,
    partition: target.partition ?? partition,
  }
}

/** Selects the endpoints of a target. */
function selectionOf(target: ChainTarget, conditions: Conditions, priority: number, own: string): Selection {
  const { service, datacenter, namespace, partition, serverName, subset, onlyPassing } = target
  return {
    service,
    datacenter,
    namespace,
    partition,
    serverName: isServerName(serverName) ? serverName : undefined,
    subset,
    own,
    tags: conditions.tags,
    onlyPassing: conditions.onlyPassing ?? onlyPassing,
    ...(priority > 0 && { priority }),
  }
}

/** Selects the instances of a target that meet the conditions of the caller. */
function healthQuery(
  target: ChainTarget,
  conditions: Conditions,
  { agent: { settings }, own }: TargetContext,
): HealthQuery {
  const { datacenter } = target
  const isOwn = datacenter === own && (settings.datacenter ?? own) === own
  const filters = [target.filter, conditions.filter].filter((filter) => filter !== undefined)
  return {
    service: target.service,
    datacenter: isOwn ? undefined : datacenter,
    namespace: scopeOf(target.namespace, conditions.namespace ?? settings.namespace),
    partition: scopeOf(target.partition, conditions.partition ?? settings.partition),
    near: conditions.near,
    filter: filters.length > 1 ? filters.map((filter) => `(${filter})`).join(' and ') : filters[0],
  }
}

/**
 * Returns the namespace or partition for a lookup. Consul Community Edition names the default one in chains, but rejects
 * a lookup that names one.
 */
function scopeOf(ofTarget: string | undefined, configured: string | undefined): string | undefined {
  return ofTarget === 'default' && configured === undefined ? undefined : (ofTarget ?? configured)
}

type Conversion = (instances: readonly ConnectInstance[]) => readonly Endpoint[]

/** Makes a conversion of instances return the same list while the instances are the same. */
function memoized(convert: Conversion): Conversion {
  let last:
    { readonly instances: readonly ConnectInstance[]; readonly endpoints: readonly Endpoint[] } | undefined
  return (instances) => {
    if (last?.instances !== instances) last = { instances, endpoints: convert(instances) }
    return last.endpoints
  }
}
