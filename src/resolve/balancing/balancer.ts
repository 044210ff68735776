import { type Backoff, backoffMs } from '../../base/backoff.js'
import type { Time } from '../../base/clock.js'
import { formatHostPort } from '../../base/host-port.js'
import type { LoadBalancer } from '../../agent/endpoints/chain-load-balancer.js'
import { type HashEntry, type HashTable, maglev, ringHash } from './hash-table.js'
import { pick } from './load-balancing.js'
import { type Endpoint, dialPolicyOf } from '../resolver.js'

/** Jitter prolongs an ejection by up to 50 %. */
const EJECTION: Backoff = { firstMs: 1_000, longestMs: 60_000 }

/** The state of one instance. */
interface Instance {
  endpoint: Endpoint
  /** The number of open and pending connections. */
  load: number
  /** The number of pending requests that were given to this instance. */
  requests: number
  /** The number of consecutive ejections; 0 for a healthy instance. */
  ejections: number
  ejectedAt: number
  ejectedForMs: number
  /** Whether its trial connection is pending. */
  isOnTrial: boolean
  /** Its credit in the smooth weighted round-robin. */
  credit: number
}

/** A chosen instance. The caller must call one of the three functions to report the result. */
export interface Choice {
  readonly endpoint: Endpoint
  /** The connection succeeded. @returns a function to be called when the connection ends */
  connected(): () => void
  /** The connection failed, or the verification of its peer. */
  failed(): void
  /** The attempt says nothing about the instance: it was aborted, or failed for a local reason. */
  abandoned(): void
}

/** An instance that was chosen for a request. */
export interface RequestChoice {
  readonly endpoint: Endpoint
  /** Must be called when the request has ended. */
  readonly end: () => void
}

/**
 * Chooses an instance of an upstream for each connection, or for each request.
 *
 * - Failover: takes an instance of the first group that has one which is not ejected and was not tried in this dial.
 * - Load balancing within the group: by the policy of the operator (`load-balancing.ts`). The default compares two
 *   instances.
 * - Outlier ejection: an instance that fails is skipped for 1 s, doubling up to 60 s, with jitter. After that, one trial
 *   connection decides whether it returns. At most half of a group is ejected at a time, or the whole group while a later
 *   group has an instance; if all others fail, ejected instances are used as well.
 */
export class Balancer {
  readonly #time: Time
  readonly #known = new Map<string, Instance>()
  /** The listed instances in failover order. */
  #groups: readonly (readonly Instance[])[] = []
  #endpoints: readonly Endpoint[] = []
  /** Those with `ejections > 0`; some of these ejections may be over. */
  readonly #unhealthy = new Set<Instance>()
  readonly #tables = new WeakMap<readonly Instance[], HashTable<Instance>>()

  constructor(time: Time) {
    this.#time = time
  }

  /** Whether the balancer can be dropped: it has no open or pending connections and no ejected instances. */
  get isIdle(): boolean {
    return [...this.#known.values()].every((instance) => instance.load === 0 && !this.#isEjected(instance))
  }

  /**
   * Chooses an endpoint that was not tried yet; undefined if all were.
   * @param isSorted - whether to take the first healthy endpoint
   * @param tried - the instances that the dial has tried; the chosen one is added
   * @param preferred - an endpoint that was chosen for a request, to be taken if it is among those that may be chosen
   */
  choose(
    endpoints: readonly Endpoint[],
    isSorted: boolean,
    tried: Set<object>,
    preferred?: Endpoint,
  ): Choice | undefined {
    this.#take(endpoints)
    const candidates = this.#candidates(tried)
    const wanted = preferred === undefined ? undefined : this.#known.get(endpointKey(preferred))
    const chosen =
      wanted !== undefined && candidates.includes(wanted)
        ? wanted
        : this.#pick(candidates, endpoints, isSorted, loadOf)
    if (chosen === undefined) return undefined
    tried.add(chosen)
    return this.#begin(chosen)
  }

  /**
   * Chooses an endpoint for a request, which may use a connection that is open.
   * @param tried - the instances that failed for this request, which are taken only if there is no other; the chosen one
   *   is added
   * @param hash - the hash of the request, for `ring_hash` and `maglev`
   * @returns undefined for an empty list
   */
  chooseForRequest(
    endpoints: readonly Endpoint[],
    isSorted: boolean,
    tried: Set<object> | undefined,
    hash?: bigint,
  ): RequestChoice | undefined {
    this.#take(endpoints)
    const left = this.#candidates(tried ?? NONE)
    const candidates = left.length > 0 ? left : this.#candidates(NONE)
    const chosen = this.#pick(candidates, endpoints, isSorted, requestsOf, hash)
    if (chosen === undefined) return undefined
    tried?.add(chosen)
    chosen.requests += 1
    let isEnded = false
    const end = (): void => {
      if (!isEnded) chosen.requests -= 1
      isEnded = true
    }
    return { endpoint: chosen.endpoint, end }
  }

  /** Whether new requests may use a connection to an endpoint: it is listed, and no earlier group is ready. */
  mayUse(endpoint: Endpoint, endpoints: readonly Endpoint[]): boolean {
    this.#take(endpoints)
    const instance = this.#known.get(endpointKey(endpoint))
    for (const group of this.#groups) {
      if (instance !== undefined && group.includes(instance)) return true
      if (group.some((other) => this.#isReady(other))) return false
    }
    return false
  }

  #pick(
    candidates: readonly Instance[],
    endpoints: readonly Endpoint[],
    isSorted: boolean,
    countOf: (instance: Instance) => number,
    hash?: bigint,
  ): Instance | undefined {
    if (isSorted) return candidates[0]
    const { loadBalancer } = dialPolicyOf(endpoints)
    if (hash !== undefined && loadBalancer !== undefined) {
      const table = this.#tableOf(candidates[0], loadBalancer)
      if (table !== undefined) return table.find(hash, (instance) => candidates.includes(instance))
    }
    return pick(candidates, { loadBalancer, countOf, random: this.#time.random })
  }

  /** Returns the hash table of the group of an instance; undefined for a policy that does not hash. */
  #tableOf(instance: Instance | undefined, loadBalancer: LoadBalancer): HashTable<Instance> | undefined {
    const group = this.#groups.find((each) => instance !== undefined && each.includes(instance))
    const known = group === undefined ? undefined : this.#tables.get(group)
    if (group === undefined || known !== undefined) return known
    const entries = group.map((value) => ({
      key: formatHostPort(value.endpoint),
      weight: value.endpoint.weight ?? 1,
      value,
    }))
    const table = hashTable(entries, loadBalancer)
    if (table !== undefined) this.#tables.set(group, table)
    return table
  }

  /** Returns the instances of the first group that has one to offer; an empty list if all were tried. */
  #candidates(tried: ReadonlySet<object>): readonly Instance[] {
    const [first] = this.#groups
    // The same list each time, by which `load-balancing.ts` caches the weights.
    if (first !== undefined && tried.size === 0 && this.#unhealthy.size === 0) return first
    for (const group of this.#groups) {
      const ready = group.filter((instance) => !tried.has(instance) && this.#isReady(instance))
      if (ready.length > 0) return ready
    }
    // If all healthy instances failed, use ejected ones.
    for (const group of this.#groups) {
      const left = group.filter((instance) => !tried.has(instance))
      if (left.length > 0) return left
    }
    return []
  }

  /** Updates the instances. Keeps a removed instance while it has connections or is ejected. */
  #take(endpoints: readonly Endpoint[]): void {
    // The same frozen list: nothing has changed.
    if (this.#endpoints === endpoints && Object.isFrozen(endpoints)) return
    const listed = new Map<string, Instance>()
    for (const endpoint of endpoints) {
      const key = endpointKey(endpoint)
      // Duplicates are one instance.
      if (listed.has(key)) continue
      const instance = this.#known.get(key) ?? newInstance(endpoint)
      instance.endpoint = endpoint
      listed.set(key, instance)
    }
    for (const [key, instance] of this.#known) {
      if (listed.has(key) || instance.load > 0 || this.#isEjected(instance)) continue
      this.#known.delete(key)
      this.#unhealthy.delete(instance)
    }
    for (const [key, instance] of listed) this.#known.set(key, instance)
    this.#endpoints = endpoints
    this.#groups = groupsOf([...listed.values()])
    // The last group first: each limit depends on later groups.
    for (const group of [...this.#groups].reverse()) this.#readmit(group)
  }

  /** A shorter list lowers the limit on ejections. Readmits the excess, those whose ejection ends first. */
  #readmit(group: readonly Instance[]): void {
    const ejected = group
      .filter((instance) => this.#isOut(instance))
      .sort((a, b) => a.ejectedAt + a.ejectedForMs - (b.ejectedAt + b.ejectedForMs))
    for (const instance of ejected.slice(0, Math.max(0, ejected.length - this.#mostEjected(group)))) {
      this.#recovered(instance)
    }
  }

  #begin(instance: Instance): Choice {
    // During its trial, an instance may get other connections if no other instance is left. They are no trials.
    const isTrial = instance.ejections > 0 && !instance.isOnTrial
    if (isTrial) instance.isOnTrial = true
    instance.load += 1
    const end = (): void => {
      instance.load -= 1
    }
    const endTrial = (): void => {
      if (isTrial) instance.isOnTrial = false
    }
    return {
      endpoint: instance.endpoint,
      connected: () => {
        endTrial()
        this.#recovered(instance)
        return end
      },
      failed: () => {
        end()
        endTrial()
        this.#eject(instance)
      },
      abandoned: () => {
        end()
        endTrial()
      },
    }
  }

  #eject(instance: Instance): void {
    // Concurrent failures count once.
    if (this.#isEjected(instance)) return
    const group = this.#groups.find((each) => each.includes(instance)) ?? []
    const others = group.filter((other) => other !== instance && this.#isOut(other))
    if (others.length + 1 > this.#mostEjected(group)) return
    const { clock, random } = this.#time
    instance.ejections += 1
    this.#unhealthy.add(instance)
    instance.ejectedAt = clock.now()
    instance.ejectedForMs = backoffMs(EJECTION, instance.ejections) * (1 + random() / 2)
  }

  #recovered(instance: Instance): void {
    instance.ejections = 0
    this.#unhealthy.delete(instance)
  }

  #mostEjected(group: readonly Instance[]): number {
    const later = this.#groups.slice(this.#groups.indexOf(group) + 1).flat()
    return later.some((instance) => !this.#isOut(instance)) ? group.length : Math.floor(group.length / 2)
  }

  #isReady(instance: Instance): boolean {
    return instance.ejections === 0 || (!this.#isEjected(instance) && !instance.isOnTrial)
  }

  /** Whether the instance gets no connections; false if its ejection is over and its trial is due. */
  #isOut(instance: Instance): boolean {
    return instance.isOnTrial || this.#isEjected(instance)
  }

  #isEjected({ ejections, ejectedAt, ejectedForMs }: Instance): boolean {
    // A clock that was set back must not prolong an ejection.
    const age = this.#time.clock.now() - ejectedAt
    return ejections > 0 && age >= 0 && age < ejectedForMs
  }
}

function hashTable<T>(
  entries: readonly HashEntry<T>[],
  loadBalancer: LoadBalancer,
): HashTable<T> | undefined {
  if (loadBalancer.policy === 'ring_hash') return ringHash(entries, loadBalancer.ringSize)
  return loadBalancer.policy === 'maglev' ? maglev(entries) : undefined
}

const NONE: ReadonlySet<object> = new Set()

function loadOf({ load }: Instance): number {
  return load
}

function requestsOf({ requests }: Instance): number {
  return requests
}

function newInstance(endpoint: Endpoint): Instance {
  return {
    endpoint,
    load: 0,
    requests: 0,
    ejections: 0,
    ejectedAt: 0,
    ejectedForMs: 0,
    isOnTrial: false,
    credit: 0,
  }
}

/** Groups instances by their priority, the first group first. */
function groupsOf(instances: readonly Instance[]): Instance[][] {
  const groups = new Map<number, Instance[]>()
  for (const instance of instances) {
    const { priority = 0 } = instance.endpoint
    const group = groups.get(priority)
    if (group === undefined) groups.set(priority, [instance])
    else group.push(instance)
  }
  return [...groups].sort(([a], [b]) => a - b).map(([, group]) => group)
}

/** Returns a text that is equal for equal endpoints, whatever their weight and place in the failover. */
export function endpointKey(endpoint: Endpoint): string {
  const known = keys.get(endpoint)
  if (known !== undefined) return known
  const { host, port, identity, serverName } = endpoint
  const { service, namespace, partition, datacenter } = identity
  const key = JSON.stringify([host, port, service, namespace, partition, datacenter, serverName])
  keys.set(endpoint, key)
  return key
}

/** Endpoints are frozen. */
const keys = new WeakMap<Endpoint, string>()
