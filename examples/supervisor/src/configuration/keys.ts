import { ConfigurationError, describe } from './error.js'
import type { Json } from './parse.js'
import { foldKey, snakeCase } from './spelling.js'

/** Validates one value. `place` names it in messages, such as `/etc/x.hcl: service redis: port`. */
type Check<T> = (place: string, value: unknown) => T

export function expectObject(place: string, value: unknown): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
  throw new ConfigurationError(`${place}: expected an object, got ${describe(value)}`)
}

export function expectList(place: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  // HCL represents a single block as an object.
  if (typeof value === 'object' && value !== null) return [value]
  throw new ConfigurationError(`${place}: expected a list, got ${describe(value)}`)
}

export function expectString(place: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw new ConfigurationError(`${place}: expected a string, got ${describe(value)}`)
}

/** Checks for a string without quoting the value in the error: it may be a token. */
export function expectSecret(place: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw new ConfigurationError(`${place}: expected a string`)
}

export function expectBoolean(place: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value
  throw new ConfigurationError(`${place}: expected true or false, got ${describe(value)}`)
}

export function expectPort(place: string, value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= 65_535) return value
  throw new ConfigurationError(`${place}: expected a port from 1 to 65535, got ${describe(value)}`)
}

/** Removes the brackets of an IPv6 address, which `listen` does not accept. */
export function unbracketed(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1')
}

/** Checks for a command line. Arguments may be empty; the program may not. */
export function expectCommand(place: string, value: unknown): readonly string[] {
  const parts = Array.isArray(value) ? (value as readonly unknown[]) : undefined
  const isCommand = parts?.every((part) => typeof part === 'string' && !part.includes('\0')) === true
  if (isCommand && parts.length > 0 && parts[0] !== '') return parts as readonly string[]
  throw new ConfigurationError(
    `${place}: expected a list with a program and its arguments, such as ["/usr/bin/proxy", "-x"]`,
  )
}

/**
 * Checks the name or id of a service, which becomes part of URLs, messages, and file names.
 * @throws ConfigurationError
 */
export function expectName(place: string, value: unknown): string {
  const name = expectString(place, value)
  if (
    name !== '.' &&
    name !== '..' &&
    name.length <= 200 &&
    name.isWellFormed() &&
    !/[\p{Cc}/]/u.test(name)
  ) {
    return name
  }
  throw new ConfigurationError(
    `${place}: expected a name of at most 200 characters without slashes and control characters, got ${describe(name)}`,
  )
}

/** Returns the value of a key in any spelling that agents accept; undefined if `from` is no object or lacks the key. */
export function valueOf(from: unknown, key: string): unknown {
  if (typeof from !== 'object' || from === null) return undefined
  return Object.entries(from).find(([name]) => foldKey(name) === foldKey(key))?.[1]
}

/** Keys that the supervisor reads, by their folded spelling. */
const CANONICAL: ReadonlyMap<string, string> = new Map(
  [
    'address',
    'allow_managed_api_registration',
    'allow_managed_root',
    'bind_addr',
    'command',
    'config',
    'connect',
    'daemon_command',
    'data_dir',
    'exec_mode',
    'id',
    'kind',
    'log_json',
    'log_level',
    'name',
    'native',
    'port',
    'ports',
    'proxy',
    'proxy_defaults',
    'proxy_max_port',
    'proxy_min_port',
    'script_command',
    'service',
    'services',
    'token',
    'upstreams',
  ].map((key) => [foldKey(key), key]),
)

/** Limit on warnings per object, so that a request cannot write a log line for each of its keys. */
export const MAX_WARNINGS = 16

/**
 * Returns an object with its keys in snake_case. Warns of unknown keys if `known` is given.
 * @throws ConfigurationError when a key occurs in two spellings
 */
export function keysOf(
  place: string,
  value: unknown,
  known?: readonly string[],
  warn: (message: string) => void = () => undefined,
): Json {
  const result = new Map<string, unknown>()
  const seen = new Set<string>()
  let unknown = 0
  for (const [key, inner] of Object.entries(expectObject(place, value))) {
    const folded = foldKey(key)
    const name = CANONICAL.get(folded) ?? snakeCase(key)
    if (seen.has(folded)) throw new ConfigurationError(`${place}: ${name}: set twice, in two spellings`)
    seen.add(folded)
    if (known !== undefined && !known.includes(name) && ++unknown <= MAX_WARNINGS) {
      warn(`${place}: unknown key ${key} has no effect; known keys: ${known.join(', ')}`)
    }
    result.set(name, inner)
  }
  return Object.fromEntries(result)
}

/** Validates the value of a key; undefined if the key is missing or null. */
export function take<T>(place: string, from: Json, key: string, check: Check<T>): T | undefined {
  const value = from[key]
  return value === undefined || value === null ? undefined : check(`${place}: ${key}`, value)
}
