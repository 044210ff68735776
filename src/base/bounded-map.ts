/** A map that holds a limited number of entries: a further one replaces the entry that was set longest ago. */
export class BoundedMap<K, V> {
  readonly #limit: number
  // A Map keeps the order of insertion.
  readonly #entries = new Map<K, V>()

  constructor(limit: number) {
    this.#limit = limit
  }

  get size(): number {
    return this.#entries.size
  }

  get(key: K): V | undefined {
    return this.#entries.get(key)
  }

  set(key: K, value: V): void {
    this.#entries.delete(key)
    const oldest = this.#entries.size >= this.#limit ? this.#entries.keys().next() : undefined
    if (oldest?.done === false) this.#entries.delete(oldest.value)
    this.#entries.set(key, value)
  }
}
