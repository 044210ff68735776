import type { Changes } from './changes.js'
import type { JsonObject } from './json.js'

export interface Entry {
  key: string
  value: Buffer
  flags: number
  createIndex: number
  modifyIndex: number
}

/** The key-value store, without locks and sessions. */
export class KeyValues {
  readonly #changes: Changes
  readonly #entries = new Map<string, Entry>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  get(key: string): Entry | undefined {
    return this.#entries.get(key)
  }

  under(prefix: string): Entry[] {
    return [...this.#entries.values()]
      .filter(({ key }) => key.startsWith(prefix))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  put(key: string, value: Buffer, flags: number): void {
    const index = this.#changes.touch('kv')
    const createIndex = this.#entries.get(key)?.createIndex ?? index
    this.#entries.set(key, { key, value, flags, createIndex, modifyIndex: index })
  }

  delete(keys: string[]): void {
    for (const key of keys) this.#entries.delete(key)
    this.#changes.touch('kv')
  }
}

export function entryJson(entry: Entry): JsonObject {
  return {
    LockIndex: 0,
    Key: entry.key,
    Flags: entry.flags,
    Value: entry.value.length === 0 ? null : entry.value.toString('base64'),
    CreateIndex: entry.createIndex,
    ModifyIndex: entry.modifyIndex,
  }
}
