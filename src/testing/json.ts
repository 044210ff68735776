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
 * Reads an object's fields one by one. Consul takes keys in any case and with underscores, and rejects those it
 * does not know: call `end` when all known fields were read.
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
      if (value !== undefined) this.#fields.set(fold(key), { key, value })
    }
  }

  /** The raw value, or undefined when it is absent or null. */
  json(name: string): Json | undefined {
    const field = this.#fields.get(fold(name))
    this.#fields.delete(fold(name))
    return field?.value ?? undefined
  }

  string(name: string): string | undefined {
    const value = this.json(name)
    if (value === undefined || typeof value === 'string') return value
    throw mismatch(value, name, 'string')
  }

  integer(name: string): number | undefined {
    const value = this.json(name)
    if (value === undefined || (typeof value === 'number' && Number.isInteger(value))) return value
    throw mismatch(value, name, 'int')
  }

  number(name: string): number | undefined {
    const value = this.json(name)
    if (value === undefined || typeof value === 'number') return value
    throw mismatch(value, name, 'float64')
  }

  boolean(name: string): boolean | undefined {
    const value = this.json(name)
    if (value === undefined || typeof value === 'boolean') return value
    throw mismatch(value, name, 'bool')
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
    return this.list(name).map((item) => {
      if (typeof item !== 'string') throw mismatch(item, name, 'string')
      return item
    })
  }

  list(name: string): Json[] {
    const value = this.json(name) ?? []
    if (!Array.isArray(value)) throw mismatch(value, name, '[]')
    return value
  }

  stringMap(name: string): Record<string, string> {
    const result: Record<string, string> = {}
    for (const [key, value] of Object.entries(this.object(name) ?? {})) {
      if (typeof value !== 'string') throw mismatch(value ?? null, name, 'string')
      result[key] = value
    }
    return result
  }

  /** As `stringMap`, but null when it is absent: Go tells a nil map from an empty one. */
  optionalStringMap(name: string): Record<string, string> | null {
    return this.has(name) ? this.stringMap(name) : null
  }

  has(name: string): boolean {
    return (this.#fields.get(fold(name))?.value ?? null) !== null
  }

  object(name: string): JsonObject | undefined {
    const value = this.json(name)
    if (value === undefined || isObject(value)) return value
    throw mismatch(value, name, 'map[string]interface {}')
  }

  child(name: string): FieldReader | undefined {
    const value = this.object(name)
    return value && new FieldReader(value)
  }

  /** Rejects what was not read. */
  end(): void {
    for (const { key } of this.#fields.values())
      throw new DecodeError(`json: unknown field ${JSON.stringify(key)}`)
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

function fold(key: string): string {
  return key.replaceAll('_', '').toLowerCase()
}

function mismatch(value: Json, name: string, wanted: string): DecodeError {
  return new DecodeError(
    `json: cannot unmarshal ${goType(value)} into Go struct field .${name} of type ${wanted}`,
  )
}

function goType(value: Json): string {
  if (Array.isArray(value)) return 'array'
  return typeof value === 'boolean' ? 'bool' : typeof value
}
