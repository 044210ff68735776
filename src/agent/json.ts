import { parseGoDuration } from '../base/duration.js'
import { mismatch } from '../base/errors.js'

/**
 * JSON from an agent does not have the expected form. The message has the kind of the value and not the value itself,
 * which may be a key.
 */
export class ShapeError extends Error {
  constructor(place: string, expected: string, value: unknown) {
    super(mismatch(place === '' ? 'the body' : place, expected, kindOf(value)))
    this.name = 'ShapeError'
  }
}

function kindOf(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  return Array.isArray(value) ? 'an array' : typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

export type JsonObject = Readonly<Record<string, unknown>>

export function object(value: unknown, place: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ShapeError(place, 'an object', value)
  return value as JsonObject
}

/** Reads an array; Consul encodes an empty one as null. */
export function array(value: unknown, place: string): readonly unknown[] {
  if (value === null) return []
  if (!Array.isArray(value)) throw new ShapeError(place, 'an array', value)
  return value
}

export function string(value: unknown, place: string): string {
  if (typeof value !== 'string') throw new ShapeError(place, 'a string', value)
  return value
}

export function nonEmpty(value: unknown, place: string): string {
  if (typeof value !== 'string' || value === '') throw new ShapeError(place, 'a non-empty string', value)
  return value
}

export function boolean(value: unknown, place: string): boolean {
  if (typeof value !== 'boolean') throw new ShapeError(place, 'true or false', value)
  return value
}

export function wholeNumber(value: unknown, place: string): number {
  if (!Number.isSafeInteger(value)) throw new ShapeError(place, 'a whole number', value)
  return value as number
}

/** Reads a whole number that is not negative. */
export function count(value: unknown, place: string): number {
  const number = wholeNumber(value, place)
  if (number < 0) throw new ShapeError(place, 'a whole number of 0 or more', value)
  return number
}

/** Reads a duration that Consul wrote as text, such as `5s`, or as a number of nanoseconds. @returns milliseconds */
export function duration(value: unknown, place: string): number {
  const ms = toMs(value, place)
  if (!(ms >= 0)) throw new ShapeError(place, 'a duration such as "5s"', value)
  return ms
}

/** Reads the limit of a duration, in milliseconds: 0 stands for the default, and a negative one for no limit. */
export function limit(value: unknown, place: string): number | undefined {
  const ms = toMs(value, place)
  if (ms === 0) return undefined
  return ms < 0 ? Infinity : ms
}

function toMs(value: unknown, place: string): number {
  const ms = typeof value === 'number' ? value / 1e6 : parseGoDuration(string(value, place))
  if (ms === undefined || Number.isNaN(ms)) throw new ShapeError(place, 'a duration such as "5s"', value)
  return ms
}

/** Makes a reader return undefined for a missing, null, or empty value; Consul writes all three. */
export function maybe<T>(read: (value: unknown, place: string) => T) {
  return (value: unknown, place: string): T | undefined =>
    value === undefined || value === null || value === '' ? undefined : read(value, place)
}

/** Adds the fields of an object that are not known to a list. */
export function noteUnknown(
  value: JsonObject,
  place: string,
  known: readonly string[],
  ignored: string[],
): void {
  for (const field of Object.keys(value)) if (!known.includes(field)) ignored.push(`${place}.${field}`)
}
