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
 * Reads an object's fields one by one. Consul takes keys in any case, some in snake_case too, and rejects those it
 * does not know: call `end` when all known fields were read.
 */
export class FieldReader {
  readonly #fields = new Map<string, { key: string; value: Json }>()
  /** The fields that were found in snake_case. */
  readonly #inSnakeCase = new Set<string>()
  readonly #place: string | undefined

  /** @param place what messages call every field: for some types Go has only the name of the whole */
  constructor(json: Json, place?: string) {
    this.#place = place
    if (!isObject(json)) {
      throw new DecodeError(
        `json: cannot unmarshal ${goType(json)} into Go value of type map[string]interface {}`,
      )
    }
    for (const [key, value] of Object.entries(json)) {
      if (value !== undefined) this.#fields.set(key.toLowerCase(), { key, value })
    }
  }

  /** Takes these fields in snake_case as well; that spelling counts where the other says nothing. */
  alsoSnakeCase(...names: string[]): void {
    for (const name of names) {
      const field = this.#fields.get(snakeCase(name))
      if (!field) continue
      this.#fields.delete(snakeCase(name))
      const other = this.#fields.get(name.toLowerCase())
      if (other && !isZero(other.value)) continue
      this.#fields.set(name.toLowerCase(), field)
      this.#inSnakeCase.add(name)
    }
  }

  /** The raw value, or undefined when it is absent or null. */
  json(name: string): Json | undefined {
    const field = this.#fields.get(name.toLowerCase())
    this.#fields.delete(name.toLowerCase())
    return field?.value ?? undefined
  }

  string(name: string): string | undefined {
    const value = this.json(name)
    if (value === undefined || typeof value === 'string') return value
    throw this.#mismatch(value, name, 'string')
  }

  integer(name: string): number | undefined {
    const value = this.json(name)
    if (value === undefined || (typeof value === 'number' && Number.isInteger(value))) return value
    throw this.#mismatch(value, name, 'int')
  }

  number(name: string): number | undefined {
    const value = this.json(name)
    if (value === undefined || typeof value === 'number') return value
    throw this.#mismatch(value, name, 'float64')
  }

  boolean(name: string): boolean | undefined {
    const value = this.json(name)
    if (value === undefined || typeof value === 'boolean') return value
    throw this.#mismatch(value, name, 'bool')
  }

  /** Milliseconds: from a Go duration, or from a number of nanoseconds. */
  duration(name: string): number | undefined {
    const value = this.json(name)
    if (value === undefined) return undefined
    if (typeof value === 'number') return value / 1e6
    const ms = typeof value === 'string' ? parseDuration(value) : undefined
    if (ms === undefined) throw new DecodeError(`time: invalid duration ${JSON.stringify(value)}`)
    return ms
  }

  strings(name: string): string[] {
    return this.#strings(this.json(name), name)
  }

  list(name: string): Json[] {
    const value = this.json(name) ?? []
    if (!Array.isArray(value)) throw this.#mismatch(value, name, '[]')
    return value
  }

  stringMap(name: string): Record<string, string> {
    const result: Record<string, string> = {}
    for (const [key, value] of Object.entries(this.object(name) ?? {})) {
      if (typeof value !== 'string') throw this.#mismatch(value ?? null, name, 'string')
      result[key] = value
    }
    return result
  }

  stringsMap(name: string): Record<string, string[]> {
    const entries = Object.entries(this.object(name) ?? {})
    return Object.fromEntries(entries.map(([key, value]) => [key, this.#strings(value, name)]))
  }

  /** As `stringMap`, but null when it is absent: Go tells a nil map from an empty one. */
  optionalStringMap(name: string): Record<string, string> | null {
    return this.has(name) ? this.stringMap(name) : null
  }

  has(name: string): boolean {
    return (this.#fields.get(name.toLowerCase())?.value ?? null) !== null
  }

  object(name: string): JsonObject | undefined {
    const value = this.json(name)
    if (value === undefined || isObject(value)) return value
    throw this.#mismatch(value, name, 'map[string]interface {}')
  }

  child(name: string): FieldReader | undefined {
    const value = this.object(name)
    return value && new FieldReader(value)
  }

  /** The object of a type that Consul decodes by itself, whose fields go by the name of the whole in messages. */
  decoded(name: string): FieldReader | undefined {
    const value = this.object(name)
    return value && new FieldReader(value, this.#place ?? name)
  }

  /** A list of such objects. */
  allDecoded(name: string): FieldReader[] {
    return this.list(name).map((value) => new FieldReader(value, this.#place ?? name))
  }

  /** Rejects what was not read. */
  end(): void {
    for (const { key } of this.#fields.values())
      throw new DecodeError(`json: unknown field ${JSON.stringify(key)}`)
  }

  #strings(value: Json | undefined, name: string): string[] {
    const items = value ?? []
    if (!Array.isArray(items)) throw this.#mismatch(items, name, '[]string')
    return items.map((item) => {
      if (typeof item !== 'string') throw this.#mismatch(item, name, 'string')
      return item
    })
  }

  #mismatch(value: Json, name: string, wanted: string): DecodeError {
    const field = this.#place ?? (this.#inSnakeCase.has(name) ? snakeCase(name) : name)
    const exact = wanted === 'int' && typeof value === 'number' ? ` ${value}` : ''
    return new DecodeError(
      `json: cannot unmarshal ${goType(value)}${exact} into Go struct field .${field} of type ${wanted}`,
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

/** `TLSSkipVerify` as `tls_skip_verify`. */
function snakeCase(name: string): string {
  return name
    .replace(/([a-z])([A-Z])/g, '$1_$2')
    .replace(/([A-Z])([A-Z][a-z])/g, '$1_$2')
    .toLowerCase()
}

function goType(value: Json): string {
  if (Array.isArray(value)) return 'array'
  return typeof value === 'boolean' ? 'bool' : typeof value
}
