import { xxHash64 } from '../../base/xxhash64.js'

/** An instance in a hash table. */
export interface HashEntry<T> {
  /** `host:port` of the instance, with an IPv6 address in brackets and in its canonical form: what Envoy hashes. */
  readonly key: string
  /** Consul gives Envoy weights up to 128; a higher weight counts as 128. */
  readonly weight: number
  readonly value: T
}

/** The number of places of a ring. The actual number depends on the weights. */
export interface RingSize {
  /** @default 1024 */
  readonly least?: number | undefined
  /** @default 65,536, which is also the upper bound; that of Envoy is 8,388,608. */
  readonly greatest?: number | undefined
}

/** The defaults of Envoy. */
const DEFAULT_LEAST_RING_SIZE = 1_024
/** A ring of this size takes about 200 ms to build. 1,000 instances with the same weight have 2,000 places by default. */
const MAX_RING_SIZE = 65_536
/** The default of Envoy, which Consul does not change. It is prime, as the algorithm requires. */
const MAGLEV_SIZE = 65_537
/** The limit that Consul applies to the weights that it sends to Envoy. */
const MAX_WEIGHT = 128

/** A table that maps hashes to values, so that a change of the instances moves few hashes. */
export class HashTable<T> {
  readonly #values: readonly T[]
  /** Indexes of values. */
  readonly #slots: ArrayLike<number>
  readonly #slotOf: (hash: bigint) => number

  /** @param slotOf - returns the index of the slot of a hash; the number of slots stands for the first slot */
  constructor(values: readonly T[], slots: ArrayLike<number>, slotOf: (hash: bigint) => number) {
    this.#values = values
    this.#slots = slots
    this.#slotOf = slotOf
  }

  /**
   * Returns the value of the hash, or the next acceptable one along the table. Envoy builds a new table when an instance
   * becomes unhealthy, which moves more hashes. Build a table without the instance to choose as Envoy does.
   * @param accept - is called at most once for each value
   * @returns undefined if no value is acceptable
   */
  find(hash: bigint, accept: (value: T) => boolean): T | undefined {
    const { length } = this.#slots
    const start = this.#slotOf(hash)
    const rejected = new Set<number>()
    for (let i = 0; i < length && rejected.size < this.#values.length; i += 1) {
      const index = this.#slots[(start + i) % length] ?? 0
      if (rejected.has(index)) continue
      const value = this.#values[index] as T
      if (accept(value)) return value
      rejected.add(index)
    }
    return undefined
  }
}

interface Weighted<T> {
  readonly key: string
  readonly value: T
  /** The share of the weight in the sum of all weights. */
  readonly share: number
}

/**
 * Places each entry on a ring at several hashes (Ketama), as Envoy does for `ring_hash`. A hash belongs to the next
 * place on the ring. The entry with the lowest weight gets a whole number of places; the others get theirs in proportion.
 *
 * Entries are counted in the order of their keys, so that the result does not depend on their order. Envoy counts in the
 * order of its own list. This can give an instance one place more or less if the weights do not divide the size.
 */
export function ringHash<T>(entries: readonly HashEntry<T>[], size: RingSize = {}): HashTable<T> {
  const weighted = weightedEntries(entries)
  const least = size.least ?? DEFAULT_LEAST_RING_SIZE
  const greatest = Math.min(size.greatest ?? MAX_RING_SIZE, MAX_RING_SIZE)
  const lowest = weighted.reduce((share, entry) => Math.min(share, entry.share), 1)
  const total = Math.min(Math.ceil(lowest * least) / lowest, greatest)
  const places: { readonly hash: bigint; readonly index: number }[] = []
  // A running sum, so that rounding errors do not add up.
  let target = 0
  for (const [index, { key, share }] of weighted.entries()) {
    target += total * share
    for (let i = 0; places.length < target; i += 1) places.push({ hash: xxHash64(`${key}_${i}`), index })
  }
  places.sort((a, b) => (a.hash < b.hash ? -1 : a.hash > b.hash ? 1 : 0))
  const hashes = BigUint64Array.from(places, ({ hash }) => hash)
  return new HashTable(
    weighted.map(({ value }) => value),
    places.map(({ index }) => index),
    (hash) => lowerBound(hashes, hash),
  )
}

/** Returns the index of the first number that is not less; the length if there is none. */
function lowerBound(sorted: BigUint64Array, value: bigint): number {
  let [low, high] = [0, sorted.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((sorted[middle] ?? 0n) < value) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * Fills a table of 65,537 slots, as Envoy does for `maglev`. Each entry has its own order of slots, and the entries take
 * the next free one in turn, as often as their weight demands.
 * @see https://research.google/pubs/maglev-a-fast-and-reliable-software-network-load-balancer/ (section 3.4)
 */
export function maglev<T>(entries: readonly HashEntry<T>[]): HashTable<T> {
  const weighted = weightedEntries(entries)
  const greatest = weighted.reduce((share, entry) => Math.max(share, entry.share), 0)
  const turns = weighted.map(({ key, share }) => ({
    share,
    due: 0,
    slot: Number(xxHash64(key) % BigInt(MAGLEV_SIZE)),
    step: Number(xxHash64(key, 1n) % BigInt(MAGLEV_SIZE - 1)) + 1,
  }))
  const slots = new Int32Array(turns.length === 0 ? 0 : MAGLEV_SIZE).fill(-1)
  let left = slots.length
  for (let round = 1; left > 0; round += 1) {
    for (const [index, turn] of turns.entries()) {
      if (left === 0) break
      if (round * turn.share < turn.due) continue
      turn.due += greatest
      while (slots[turn.slot] !== -1) turn.slot = (turn.slot + turn.step) % MAGLEV_SIZE
      slots[turn.slot] = index
      left -= 1
    }
  }
  return new HashTable(
    weighted.map(({ value }) => value),
    slots,
    (hash) => Number(hash % BigInt(MAGLEV_SIZE)),
  )
}

/**
 * Returns the entries that have a weight, or all if none has, in the order of their keys. Of entries with the same key,
 * the first one counts.
 */
function weightedEntries<T>(entries: readonly HashEntry<T>[]): Weighted<T>[] {
  const byKey = new Map<string, HashEntry<T>>()
  for (const entry of entries) if (!byKey.has(entry.key)) byKey.set(entry.key, entry)
  const all = [...byKey.values()].sort((a, b) => (a.key < b.key ? -1 : 1))
  const some = all.filter(({ weight }) => weight > 0)
  const weightOf = ({ weight }: HashEntry<T>): number => (some.length > 0 ? Math.min(weight, MAX_WEIGHT) : 1)
  const kept = some.length > 0 ? some : all
  const sum = kept.reduce((total, entry) => total + weightOf(entry), 0)
  return kept.map((entry) => ({ key: entry.key, value: entry.value, share: weightOf(entry) / sum }))
}
