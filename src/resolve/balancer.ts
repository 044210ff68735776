import { type Backoff, backoffMs } from '../base/backoff.js'
import type { Time } from '../base/clock.js'
import type { Endpoint } from './resolver.js'

/** Jitter makes an ejection up to half as long again. */
const EJECTION: Backoff = { firstMs: 1_000, longestMs: 60_000 }

/** What is known of one instance. */
interface Instance {
  endpoint: Endpoint
  /** Connections that are open or being made. */
  load: number
  /** How often it was ejected in a row; 0 when it is in good standing. */
  ejections: number
  ejectedAt: number
  ejectedForMs: number
  /** Whether the one connection is under way that may bring it back. */
  isOnTrial: boolean
}

/** An instance that was chosen. One of the three must be called, to say what came of it. */
export interface Choice {
  readonly endpoint: Endpoint
  /** It proved itself. Returns what must be called when the connection ends. */
  connected(): () => void
  /** It could not be reached, or did not prove itself. */
  failed(): void
  /** Nothing was learnt of it. */
  abandoned(): void
}

/**
 * Chooses among the instances of one upstream. Two are drawn by weight, and the one with less load for its weight is
 * taken (the power of two choices), so that shares follow the weights, and whoever is slow to let go gets less. One
 * that fails is ejected for a time; then a single connection is its trial. Never more than half of them are ejected,
 * and those that are serve when all others have failed.
 */
export class Balancer {
  readonly #time: Time
  readonly #known = new Map<string, Instance>()
  #list: readonly Instance[] = []
  #endpoints: readonly Endpoint[] = []

  constructor(time: Time) {
    this.#time = time
  }

  /** Whether nothing would be missed if it were forgotten: no connection is open, nobody is ejected. */
  get isIdle(): boolean {
    return [...this.#known.values()].every((instance) => instance.load === 0 && !this.#isEjected(instance))
  }

  /**
   * The best of `endpoints` that was not tried yet; undefined when all were.
   * @param isSorted - whether the first that is in good standing is the best
   * @param tried - what a dial has tried so far; the one that is chosen is added
   */
  choose(endpoints: readonly Endpoint[], isSorted: boolean, tried: Set<object>): Choice | undefined {
    this.#take(endpoints)
    const left = this.#list.filter((instance) => !tried.has(instance))
    const ready = left.filter((instance) => this.#isReady(instance))
    // Better somebody who failed a while ago than nobody.
    const candidates = ready.length > 0 ? ready : left
    const chosen = isSorted ? candidates[0] : lighter(candidates, this.#time.random)
    if (chosen === undefined) return undefined
    tried.add(chosen)
    return this.#begin(chosen)
  }

  /** Goes over to a new list. What is known of an address stays known for as long as it matters. */
  #take(endpoints: readonly Endpoint[]): void {
    // A list that nobody can change has not changed.
    if (this.#endpoints === endpoints && Object.isFrozen(endpoints)) return
    const listed = new Map<string, Instance>()
    for (const endpoint of endpoints) {
      const key = keyOf(endpoint)
      // An address that is named twice is one instance.
      if (listed.has(key)) continue
      const instance = this.#known.get(key) ?? newcomer(endpoint)
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

  /** Should the list have become shorter, those whose time is over first come back without a trial. */
  #readmit(): void {
    const ejected = this.#list
      .filter((instance) => this.#isOut(instance))
      .sort((a, b) => a.ejectedAt + a.ejectedForMs - (b.ejectedAt + b.ejectedForMs))
    for (const instance of ejected.slice(0, Math.max(0, ejected.length - this.#mostEjected()))) {
      instance.ejections = 0
    }
  }

  #begin(instance: Instance): Choice {
    // One that is taken for want of any other, while its trial is under way, is no second trial.
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
    // Several dials may find out at once: that is one failure.
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

  /** Whether it gets no connection now; not so one whose time is over, and that waits for its trial. */
  #isOut(instance: Instance): boolean {
    return instance.isOnTrial || this.#isEjected(instance)
  }

  #isEjected({ ejections, ejectedAt, ejectedForMs }: Instance): boolean {
    // A clock that was set back must not keep anybody out for longer.
    const age = this.#time.clock.now() - ejectedAt
    return ejections > 0 && age >= 0 && age < ejectedForMs
  }
}

function newcomer(endpoint: Endpoint): Instance {
  return { endpoint, load: 0, ejections: 0, ejectedAt: 0, ejectedForMs: 0, isOnTrial: false }
}

/**
 * The lighter of two that are drawn by weight. The second must be so light that with this connection it has no more for
 * its weight than the first has without it: else a single one that is open would turn the shares around where weights
 * differ and loads are small.
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
  // Multiplied, so that a weight of 0 divides nothing.
  const [a, b] = weighty.length > 0 ? [weightOf(first), weightOf(second)] : [1, 1]
  return (second.load + 1) * a <= first.load * b ? second : first
}

/** One, with a chance in proportion to its weight; each with the same when none has any. */
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
