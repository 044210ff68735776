import { ConfigurationError, describe } from './error.js'
import type { Json } from './parse.js'
import { snakeCase } from './shape.js'

/** Checks of single values; `place` is where it stands, such as `/etc/x.hcl: service redis: port`. */
type Check<T> = (place: string, value: unknown) => T

export function expectObject(place: string, value: unknown): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
  throw new ConfigurationError(`${place}: expected an object, got ${describe(value)}`)
}

export function expectList(place: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  // In HCL a single block is the same.
  if (typeof value === 'object' && value !== null) return [value]
  throw new ConfigurationError(`${place}: expected a list, got ${describe(value)}`)
}

export function expectString(place: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw new ConfigurationError(`${place}: expected a string, got ${describe(value)}`)
}

/** A string that no message may show. */
export function expectSecret(place: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw new ConfigurationError(`${place}: expected a string, got something else`)
}

export function expectBoolean(place: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value
  throw new ConfigurationError(`${place}: expected true or false, got ${describe(value)}`)
}

export function expectPort(place: string, value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= 65_535) return value
  throw new ConfigurationError(`${place}: expected a port from 1 to 65535, got ${describe(value)}`)
}

/** Addresses of IPv6 are often written in brackets, and nobody can listen on one. */
export function unbracketed(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1')
}

/** An argument may be empty; the name of a program may not. */
export function expectCommand(place: string, value: unknown): readonly string[] {
  const parts = Array.isArray(value) ? (value as readonly unknown[]) : undefined
  const isCommand = parts?.every((part) => typeof part === 'string' && !part.includes('\0')) === true
  if (isCommand && parts.length > 0 && parts[0] !== '') return parts as readonly string[]
  throw new ConfigurationError(
    `${place}: expected a list with a program and its arguments, such as ["/usr/bin/proxy", "-x"]`,
  )
}

/**
 * The name or id of a service, which becomes part of paths, messages and names of files.
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
    `${place}: expected a name of at most 200 characters without slashes, got ${describe(name)}`,
  )
}

/** Go reads the keys of JSON without regard to their case: these would be one to an agent. */
export function foldKey(key: string): string {
  return key.toLowerCase().replaceAll('_', '')
}

/** What is read here, by all of its spellings. */
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

/** Warnings about one object; a request could otherwise write a log line for each of its keys. */
export const MAX_WARNINGS = 16

/**
 * An object with its keys in snake_case. The first unknown keys are passed to `warn`.
 * @throws ConfigurationError when one is there in two spellings
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
    if (seen.has(folded)) throw new ConfigurationError(`${place}: ${name} is there in two spellings`)
    seen.add(folded)
    if (known !== undefined && !known.includes(name) && ++unknown <= MAX_WARNINGS) {
      warn(`${place}: ${key} is not known and has no effect; known are ${known.join(', ')}`)
    }
    result.set(name, inner)
  }
  return Object.fromEntries(result)
}

/** The value of a key, checked; undefined where there is none. */
export function take<T>(place: string, from: Json, key: string, check: Check<T>): T | undefined {
  const value = from[key]
  return value === undefined || value === null ? undefined : check(`${place}: ${key}`, value)
}
