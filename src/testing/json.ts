import { parseDuration } from './duration.js'

export type Json = null | boolean | number | string | Json[] | JsonObject

/** An undefined value is left out when it is written, as Go's `omitempty` does. */
export interface JsonObject {
  [key: string]: Json | undefined
}

/** Says what is wrong with a request body in the words of Go's encoding/json. */
export class DecodeError extends Error {
  override name = 'DecodeError'
}

export function parseJson(body: string): Json {
  if (body.trim() === '') throw new DecodeError('EOF')
  let value: unknown
  try {
    value = JSON.parse(body)
  } catch (cause) {
    throw new DecodeError('unexpected EOF', { cause })
  }
  if (!isJson(value)) throw new DecodeError('not JSON')
  return value
}

/**
 * Reads the fields of an object. Keys match in any case and in snake_case, as Consul accepts them in most places. Call
 * `end` after all known fields were read: it rejects the others.
 */
export class FieldReader {
  readonly #fields = new Map<string, { key: string; value: Json }>()

  constructor(json: Json) {
    if (!isObject(json)) {
      throw new DecodeError(
        `json: cannot unmarshal ${goType(json)} into Go value of type map[string]interface {}`,
      )
    }
    for (const [key, value] of Object.entries(json)) {
      const known = this.#fields.get(plain(key))
      // Consul's own spelling wins over snake_case unless its value is empty.
      if (known && !isZero(known.value) && (key.includes('_') || isZero(value))) continue
      if (value !== undefined) this.#fields.set(plain(key), { key, value })
    }
  }

  /** Whether no field has a value. */
  get isEmpty(): boolean {
    return [...this.#fields.values()].every(({ value }) => isZero(value))
  }

  /** Returns the raw value, or undefined if it is absent or null. */
  json(name: string): Json | undefined {
    const field = this.#fields.get(plain(name))
    this.#fields.delete(plain(name))
    return field?.value ?? undefined
  }

  /** Skips fields that Consul accepts and the embedded agent has no use for. */
  ignore(...names: string[]): void {
    for (const name of names) this.json(name)
  }

  string(name: string): string | undefined {
    return this.#read(name, 'string', (value) => typeof value === 'string')
  }

  integer(name: string): number | undefined {
    return this.#read(name, 'int', (value): value is number => Number.isInteger(value))
  }

  boolean(name: string): boolean | undefined {
    return this.#read(name, 'bool', (value) => typeof value === 'boolean')
  }

  object(name: string): JsonObject | undefined {
    return this.#read(name, 'map[string]interface {}', isObject)
  }

  list(name: string): Json[] {
    return this.#read(name, '[]', (value) => Array.isArray(value)) ?? []
  }

  strings(name: string): string[] {
    const isStrings = (value: Json): value is string[] =>
      Array.isArray(value) && value.every((item) => typeof item === 'string')
    return this.#read(name, '[]string', isStrings) ?? []
  }

  stringMap(name: string): Record<string, string> {
    const isMap = (value: Json): value is Record<string, string> =>
      isObject(value) && Object.values(value).every((item) => typeof item === 'string')
    return this.#read(name, 'map[string]string', isMap) ?? {}
  }

  /** Reads milliseconds from a Go duration, or from a number of nanoseconds. */
  duration(name: string): number {
    const value = this.json(name) ?? 0
    if (typeof value === 'number') return value / 1e6
    const ms = typeof value === 'string' ? parseDuration(value) : undefined
    if (ms === undefined) throw new DecodeError(`time: invalid duration ${JSON.stringify(value)}`)
    return ms
  }

  child(name: string): FieldReader | undefined {
    const value = this.object(name)
    return value && new FieldReader(value)
  }

  children(name: string): FieldReader[] {
    return this.list(name).map((value) => new FieldReader(value))
  }

  /** Rejects the fields that were not read. */
  end(): void {
    for (const { key } of this.#fields.values())
      throw new DecodeError(`json: unknown field ${JSON.stringify(key)}`)
  }

  #read<T extends Json>(name: string, type: string, accepts: (value: Json) => value is T): T | undefined {
    const value = this.json(name)
    if (value === undefined || accepts(value)) return value
    const exact = type === 'int' && typeof value === 'number' ? ` ${value}` : ''
    throw new DecodeError(
      `json: cannot unmarshal ${goType(value)}${exact} into Go struct field .${name} of type ${type}`,
    )
  }
}

function isJson(value: unknown): value is Json {
  if (value === null || ['boolean', 'number', 'string'].includes(typeof value)) return true
  return typeof value === 'object' && Object.values(value).every(isJson)
}

export function isObject(json: Json | undefined): json is JsonObject {
  return typeof json === 'object' && json !== null && !Array.isArray(json)
}

/** A list as a map by one of its members' fields. */
export function byKey(items: JsonObject[], key: string): JsonObject {
  return Object.fromEntries(items.map((item) => [typeof item[key] === 'string' ? item[key] : '', item]))
}

/** What Go's `omitempty` leaves out. */
export function isZero(json: Json | undefined): boolean {
  if (typeof json === 'object' && json !== null) return Object.keys(json).length === 0
  return json === undefined || json === null || json === '' || json === 0 || json === false
}

export function omitZero(json: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(json).filter(([, value]) => !isZero(value)))
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll('_', '')
}

function goType(value: Json): string {
  if (Array.isArray(value)) return 'array'
  return typeof value === 'boolean' ? 'bool' : typeof value
}
