import { type Backoff, backoffMs } from '../base/backoff.js'
import type { Time } from '../base/clock.js'
import type { Endpoint } from './resolver.js'

/** Jitter prolongs an ejection by up to 50 %. */
const EJECTION: Backoff = { firstMs: 1_000, longestMs: 60_000 }

/** The state of one instance. */
interface Instance {
  endpoint: Endpoint
  /** The number of open and pending connections. */
  load: number
  /** The number of consecutive ejections; 0 for a healthy instance. */
  ejections: number
  ejectedAt: number
  ejectedForMs: number
  /** Whether its trial connection is pending. */
  isOnTrial: boolean
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

/**
 * Chooses an instance of an upstream for each connection.
 *
 * - Load balancing: picks two instances at random by weight and takes the one with fewer open connections per weight
 *   ("power of two choices", Mitzenmacher 2001).
 * - Outlier ejection: an instance that fails is skipped for 1 s, doubling up to 60 s, with jitter. After that, one trial
 *   connection decides whether it returns. At most half of the instances are ejected at a time; if all others fail,
 *   ejected instances are used as well.
 */
export class Balancer {
  readonly #time: Time
  readonly #known = new Map<string, Instance>()
  #list: readonly Instance[] = []
  #endpoints: readonly Endpoint[] = []

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
   */
  choose(endpoints: readonly Endpoint[], isSorted: boolean, tried: Set<object>): Choice | undefined {
    this.#take(endpoints)
    const left = this.#list.filter((instance) => !tried.has(instance))
    const ready = left.filter((instance) => this.#isReady(instance))
    // If all healthy instances failed, use ejected ones.
    const candidates = ready.length > 0 ? ready : left
    const chosen = isSorted ? candidates[0] : lighter(candidates, this.#time.random)
    if (chosen === undefined) return undefined
    tried.add(chosen)
    return this.#begin(chosen)
  }

  /** Updates the instances. Keeps a removed instance while it has connections or is ejected. */
  #take(endpoints: readonly Endpoint[]): void {
    // The same frozen list: nothing has changed.
    if (this.#endpoints === endpoints && Object.isFrozen(endpoints)) return
    const listed = new Map<string, Instance>()
    for (const endpoint of endpoints) {
      const key = keyOf(endpoint)
      // Duplicates are one instance.
      if (listed.has(key)) continue
      const instance = this.#known.get(key) ?? newInstance(endpoint)
      instance.endpoint = endpoint
      listed.set(key, instance)
    }
    for (const [key, instance] of this.#known) {
      if (!listed.has(key) && instance.load === 0 && !this.#isEjected(instance)) this.#known.delete(key)
    }
    for (const [key, instance] of listed) this.#known.set(key, instance)
    this.#endpoints = endpoints
    this.#list = [...listed.values()]
    this.#readmit()
  }

  /** Readmits the instances whose ejection ends first if the list became shorter, so that at most half are ejected. */
  #readmit(): void {
    const ejected = this.#list
      .filter((instance) => this.#isOut(instance))
      .sort((a, b) => a.ejectedAt + a.ejectedForMs - (b.ejectedAt + b.ejectedForMs))
    for (const instance of ejected.slice(0, Math.max(0, ejected.length - this.#mostEjected()))) {
      instance.ejections = 0
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
        instance.ejections = 0
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
    const others = this.#list.filter((other) => other !== instance && this.#isOut(other))
    if (others.length + 1 > this.#mostEjected()) return
    const { clock, random } = this.#time
    instance.ejections += 1
    instance.ejectedAt = clock.now()
    instance.ejectedForMs = backoffMs(EJECTION, instance.ejections) * (1 + random() / 2)
  }

  #mostEjected(): number {
    return Math.floor(this.#list.length / 2)
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

function newInstance(endpoint: Endpoint): Instance {
  return { endpoint, load: 0, ejections: 0, ejectedAt: 0, ejectedForMs: 0, isOnTrial: false }
}

/**
 * Picks two instances by weight and returns the one with less load per weight. The second one must have no more load
 * per weight with the new connection than the first one without it. Otherwise, one open connection would send most traffic
 * to the instance with the lower weight.
 */
function lighter(candidates: readonly Instance[], random: () => number): Instance | undefined {
  const weighty = candidates.filter((candidate) => weightOf(candidate) > 0)
  const among = weighty.length > 0 ? weighty : candidates
  const first = draw(among, random)
  const second = draw(
    among.filter((candidate) => candidate !== first),
    random,
  )
  if (first === undefined || second === undefined) return first
  // Multiplied, to avoid a division by a weight of 0.
  const [a, b] = weighty.length > 0 ? [weightOf(first), weightOf(second)] : [1, 1]
  return (second.load + 1) * a <= first.load * b ? second : first
}

/** Picks an instance at random by weight, or uniformly if no instance has a weight. */
function draw(candidates: readonly Instance[], random: () => number): Instance | undefined {
  const total = candidates.reduce((sum, candidate) => sum + weightOf(candidate), 0)
  if (total === 0) return candidates[Math.floor(random() * candidates.length)]
  let left = random() * total
  return candidates.find((candidate) => (left -= weightOf(candidate)) < 0) ?? candidates.at(-1)
}

function weightOf({ endpoint }: Instance): number {
  return endpoint.weight ?? 1
}

function keyOf({ host, port, identity }: Endpoint): string {
  const { service, namespace, partition, datacenter } = identity
  return JSON.stringify([host, port, service, namespace, partition, datacenter])
}
