import { OptionError } from '../errors.js'
import { describe, expectAddress, expectObject, expectPort, expectString, isHost } from '../options.js'

export type Settings = Readonly<Record<string, unknown>>

/** An object with its keys in snake_case, those without a value left out, and warnings for those that nobody knows. */
export function read(place: string, given: unknown, known: readonly string[], warnings: string[]): Settings {
  const settings = normalize(place, given)
  for (const key of Object.keys(settings)) {
    if (known.includes(key)) continue
    warnings.push(`${at(place, key)}: no such key; it has no effect`)
  }
  return settings
}

export function normalize(place: string, given: unknown): Settings {
  const settings: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(expectObject(place || 'the configuration', given))) {
    const name = snakeCase(key)
    // Agents write what was left out as null or, in their own spelling, as an empty string.
    if (value === undefined || value === null || (value === '' && name !== key)) continue
    if (Object.hasOwn(settings, name)) throw new OptionError(at(place, key), 'one spelling of a key', 'two')
    // A plain assignment to `__proto__` would be none.
    Object.defineProperty(settings, name, { value, enumerable: true })
  }
  return settings
}

function snakeCase(key: string): string {
  return key.replace(/[A-Z]+/g, (capitals, i: number) => `${i === 0 ? '' : '_'}${capitals.toLowerCase()}`)
}

export function list(option: string, value: unknown): readonly unknown[] {
  if (value === undefined) return []
  if (!Array.isArray(value)) throw new OptionError(option, 'a list', describe(value))
  return value
}

export type Take = <T>(key: string, expect: (option: string, value: unknown) => T) => T | undefined

/** Reads values by their key; one that is absent is undefined. */
export function taker(place: string, settings: Settings): Take {
  return (key, expect) => {
    const value = settings[key]
    return value === undefined ? undefined : expect(at(place, key), value)
  }
}

function at(place: string, key: string): string {
  return place === '' ? key : `${place}.${key}`
}

export function expectHost(option: string, value: unknown): string {
  if (!isHost(value)) throw new OptionError(option, 'an address or a host name', describe(value))
  return value as string
}

/** The built-in proxy has both in one key; the agent's registration has a key for each. */
export function expectHostAndPort(
  option: string,
  value: unknown,
): { readonly host: string; readonly port?: number } {
  const text = expectString(option, value)
  const bracketed = /^\[([^\]]*)\]$/.exec(text)?.[1]
  const isHostAlone = /^(?:[^:]*|[^[]*:[^[]*:[^[]*)$/.test(text)
  if (bracketed === undefined && !isHostAlone) return expectAddress(option, text)
  return { host: expectHost(option, bracketed ?? text) }
}

export function expectRealPort(option: string, value: unknown): number {
  if (value === 0) throw new OptionError(option, 'a port from 1 to 65535', 'the number 0, or none')
  return expectPort(option, value)
}

/** What fits into a unix address of Linux; longer ones are cut off silently. */
const LONGEST_PATH = 107

export function expectPath(option: string, value: unknown): string {
  const path = expectString(option, value)
  if (!path.startsWith('/') || path.includes('\0') || Buffer.byteLength(path) > LONGEST_PATH) {
    throw new OptionError(option, `an absolute path of at most ${LONGEST_PATH} bytes`, describe(path))
  }
  return path
}
