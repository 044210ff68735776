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

/** Makes a reader return undefined for a missing, null, or empty value; Consul writes all three. */
export function maybe<T>(read: (value: unknown, place: string) => T) {
  return (value: unknown, place: string): T | undefined =>
    value === undefined || value === null || value === '' ? undefined : read(value, place)
}
