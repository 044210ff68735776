/** A map with a limited number of entries: one more replaces the entry that was set longest ago. */
export class BoundedMap<K, V> extends Map<K, V> {
  readonly #limit: number

  constructor(limit: number) {
    super()
    this.#limit = limit
  }

  override set(key: K, value: V): this {
    // A Map keeps the order of insertion.
    this.delete(key)
    const oldest = this.size >= this.#limit ? this.keys().next() : undefined
    if (oldest?.done === false) this.delete(oldest.value)
    return super.set(key, value)
  }
}
