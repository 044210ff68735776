import { OptionError } from '../base/errors.js'
import {
  type Check,
  DEFAULTS,
  describe,
  expectAddress,
  expectObject,
  expectPort,
  expectString,
  isHost,
} from '../base/options/validate.js'

export type Settings = Readonly<Record<string, unknown>>

const MAX_SHOWN_KEY = 64

/**
 * Reads an object: its keys in snake_case, without keys that have no value. An unknown key is a warning.
 * @throws OptionError
 */
export function read(place: string, given: unknown, known: readonly string[], warnings: string[]): Settings {
  const settings = normalize(place, given)
  for (const key of Object.keys(settings)) {
    if (known.includes(key)) continue
    const similar = known.find((name) => isOneEditApart(key, name))
    const advice = similar === undefined ? '' : `; did you mean ${similar}?`
    warnings.push(`${at(place, key)}: unknown key, which has no effect${advice}`)
  }
  return settings
}

/** @throws OptionError */
export function normalize(place: string, given: unknown): Settings {
  const settings: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(expectObject(place || 'the configuration', given))) {
    // Agents, templates, and HCL write null or an empty string for a missing value.
    if (value === undefined || value === null || value === '') continue
    const name = snakeCase(key)
    if (Object.hasOwn(settings, name)) throw new OptionError(at(place, key), 'one spelling of a key', 'two')
    // An assignment to the key `__proto__` would set the prototype.
    Object.defineProperty(settings, name, { value, enumerable: true })
  }
  return settings
}

function snakeCase(key: string): string {
  return key.replace(/[A-Z]+/g, (capitals, i: number) => `${i === 0 ? '' : '_'}${capitals.toLowerCase()}`)
}

/** @throws OptionError */
export function list(option: string, value: unknown): readonly unknown[] {
  if (value === undefined) return []
  if (!Array.isArray(value)) throw new OptionError(option, 'a list', describe(value))
  return value
}

/** Reads the value of a key; undefined if the key is absent. */
export type Take = <T>(key: string, expect: Check<T>) => T | undefined

export function taker(place: string, settings: Settings): Take {
  return (key, expect) => {
    const value = settings[key]
    return value === undefined ? undefined : expect(at(place, key), value)
  }
}

function at(place: string, key: string): string {
  const shown = key.length > MAX_SHOWN_KEY ? `${key.slice(0, MAX_SHOWN_KEY)}…` : key
  return place === '' ? shown : `${place}.${shown}`
}

/** Accepts digits in a string as a number, as Consul's built-in proxy does: HCL and other tools quote numbers. */
export function numeric<T>(expect: Check<T>): Check<T> {
  return (option, value) =>
    expect(option, typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value)
}

/** Whether two texts differ by one added, removed, or replaced character, or by two swapped ones. */
export function isOneEditApart(text: string, other: string): boolean {
  const shorter = Math.min(text.length, other.length)
  let start = 0
  while (start < shorter && text[start] === other[start]) start += 1
  let end = 0
  while (end < shorter - start && text.at(-1 - end) === other.at(-1 - end)) end += 1
  const [left, right] = [text.slice(start, text.length - end), other.slice(start, other.length - end)]
  if (Math.max(left.length, right.length) <= 1) return true
  return left.length === 2 && right.length === 2 && left[0] === right[1] && left[1] === right[0]
}

export function expectHost(option: string, value: unknown): string {
  if (!isHost(value)) throw new OptionError(option, 'an address or a host name', describe(value))
  return value as string
}

/** Longer than any host name with a port. */
const MAX_ADDRESS_LENGTH = 300

/**
 * Parses an address with or without a port: the built-in proxy has both in one key, and a registration in two. `:port` is
 * a port of the loopback address.
 */
export function expectHostAndPort(
  option: string,
  value: unknown,
): { readonly host: string; readonly port?: number } {
  const text = expectString(option, value)
  if (text.length > MAX_ADDRESS_LENGTH) {
    throw new OptionError(option, 'an address or a host name', `${text.length} characters`)
  }
  if (text.startsWith('[')) {
    return text.endsWith(']') ? { host: expectHost(option, text.slice(1, -1)) } : expectAddress(option, text)
  }
  const colons = text.split(':').length - 1
  // More than one colon is an IPv6 address, which has a port only in brackets.
  if (colons !== 1) return { host: expectHost(option, text) }
  if (!text.startsWith(':')) return expectAddress(option, text)
  const port = numeric(expectRealPort)(option, text.slice(1))
  return { host: DEFAULTS.loopback, port }
}

export function expectRealPort(option: string, value: unknown): number {
  if (value !== 0 && value !== undefined) return expectPort(option, value)
  throw new OptionError(option, 'a port from 1 to 65535', value === undefined ? 'none' : describe(value))
}

/** The longest path of a Unix socket on Linux, which truncates a longer one without an error. */
const LONGEST_PATH = 107

export function expectPath(option: string, value: unknown): string {
  const path = expectString(option, value)
  if (!path.startsWith('/') || path.includes('\0') || Buffer.byteLength(path) > LONGEST_PATH) {
    throw new OptionError(option, `an absolute path of at most ${LONGEST_PATH} bytes`, describe(path))
  }
  return path
}
