import { describe } from '../../base/options/validate.js'
import { parseGoDuration } from '../../base/duration.js'
import { HttpError, isObject, type Call, type Json, type JsonObject } from './http.js'

/** Reads one field. Returns the zero value of its type if the field is absent or null, as Go does. */
export type Reader<T> = (value: Json | undefined, field: string) => T

export const string: Reader<string> = typed('a string', '', (value) => typeof value === 'string')
export const boolean: Reader<boolean> = typed('a boolean', false, (value) => typeof value === 'boolean')
export const object: Reader<JsonObject> = typed('an object', {}, isObject)
export const integer: Reader<number> = typed('an integer', 0, (value): value is number =>
  Number.isInteger(value),
)

/** Reads milliseconds from a Go duration such as `10s`, or from a number of nanoseconds. */
export const duration: Reader<number> = (value = 0) => {
  if (typeof value === 'number') return value / 1e6
  const ms = typeof value === 'string' ? parseGoDuration(value) : undefined
  if (ms === undefined) throw invalid(`time: invalid duration ${JSON.stringify(value)}`)
  return ms
}

export function list<T>(item: Reader<T>): Reader<T[]> {
  const read = typed('an array', [], (value): value is Json[] => Array.isArray(value))
  return (value, field) => read(value, field).map((each, index) => item(each, `${field}[${index}]`))
}

/** Reads an object with arbitrary keys. */
export function mapOf<T>(item: Reader<T>): Reader<Record<string, T>> {
  return (value, field) => {
    const entries = Object.entries(object(value, field))
    return Object.fromEntries(entries.map(([key, each]) => [key, item(each, `${field}.${key}`)]))
  }
}

/** Returns undefined in place of the zero value for a field that is absent or null. */
export function optional<T>(read: Reader<T>): Reader<T | undefined> {
  return (value, field) => (value === undefined || value === null ? undefined : read(value, field))
}

/**
 * Reads an object by a table of its fields. Keys match in any case and in snake_case, as Consul accepts them in most
 * places. Rejects other keys.
 * @param ignored - keys that Consul accepts, and that the embedded agent does not use
 */
export function struct<T>(
  table: { readonly [K in keyof T]: Reader<T[K]> },
  ignored: readonly string[] = [],
): Reader<T> {
  return (value, field) => {
    const entries = Object.entries(object(value, field))
    const found = new Map(entries.map(([key, each]) => [plain(key), { key, value: each }]))
    const read = Object.entries<Reader<unknown>>(table).map(([name, reader]) => {
      const value = found.get(plain(name))?.value ?? undefined
      return [name, reader(value, field === '' ? name : `${field}.${name}`)]
    })
    for (const name of [...Object.keys(table), ...ignored]) found.delete(plain(name))
    for (const { key } of found.values())
      throw invalid(`json: unknown field ${JSON.stringify(key)}; the embedded agent does not support it`)
    return Object.fromEntries(read) as T
  }
}

/**
 * Reads the JSON body of a request.
 * @throws HttpError with status 400 if the body is invalid
 */
export function decode<T>({ body }: Call, read: Reader<T>): T {
  const text = body.toString()
  if (text.trim() === '') throw invalid('EOF')
  let value: Json
  try {
    value = JSON.parse(text) as Json
  } catch {
    throw invalid('unexpected EOF')
  }
  return read(value, '')
}

function invalid(problem: string): HttpError {
  return new HttpError(400, `Request decode failed: ${problem}`)
}

function typed<T extends Json>(type: string, zero: T, accepts: (value: Json) => value is T): Reader<T> {
  return (value, field) => {
    if (value === undefined) return zero
    if (accepts(value)) return value
    throw invalid(`${field || 'body'}: expected ${type}, got ${describe(value)}`)
  }
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll('_', '')
}
