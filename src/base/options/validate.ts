import { OptionError } from '../errors.js'

/** All defaults. Durations are in milliseconds. */
export const DEFAULTS = {
  agentAddress: '127.0.0.1:8500',
  agentDnsPort: 8600,
  /** The DNS domain of Consul, in hosts of URLs. */
  domain: 'consul',
  agentTimeoutMs: 10_000,
  /** How long the agent may hold a blocking query; the default of Consul. */
  watchWaitMs: 300_000,
  /** An agent accepts 200 connections from one address by default, for all programs together. */
  maxBlockingQueries: 32,
  readyTimeoutMs: 10_000,
  registerTimeoutMs: 10_000,
  dialTimeoutMs: 10_000,
  handshakeTimeoutMs: 10_000,
  drainTimeoutMs: 10_000,
  /** For HTTP clients. Each connection costs a TLS handshake. */
  maxConnectionsPerHost: 50,
  /** How long the last known intentions stay in use without an agent. */
  staleIntentionsMs: 600_000,
  /** Loopback, since each client of a forward has the identity of its service. */
  forwardHost: '127.0.0.1',
  /** Upper bound on pending inbound handshakes. */
  maxHandshakes: 512,
  /** The public listener of a proxy must be reachable; its application is on the same host. */
  proxyHost: '0.0.0.0',
  loopback: '127.0.0.1',
  localConnectTimeoutMs: 1_000,
  /** Idle time before TCP keep-alive probes; the default of Go. */
  keepAliveMs: 15_000,
  /** How long an unused upstream is watched. */
  meshGatewayService: 'mesh-gateway',
  upstreamIdleMs: 300_000,
  /** The same for an upstream without instances, which may not exist. */
  emptyUpstreamIdleMs: 30_000,
  /** When the agent removes an instance with a critical check. */
  deregisterAfterMs: 600_000,
  checkTtlMs: 15_000,
  checkIntervalMs: 10_000,
  checkTimeoutMs: 5_000,
} as const

/** Describes a value for an error message: its type, and the value itself if it is short and plain. */
export function describe(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  if (value === undefined || value === '') return value === '' ? 'an empty string' : 'undefined'
  if (typeof value === 'string') return `the string ${JSON.stringify(value.slice(0, 64))}`
  if (typeof value === 'number' || typeof value === 'boolean') return `the ${typeof value} ${String(value)}`
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

export function expectObject(option: string, value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new OptionError(option, 'an object', describe(value))
  }
  return value as Record<string, unknown>
}

/** Rejects unknown keys, so that a misspelled option is not silently ignored. */
export function expectKeys(option: string, value: object, known: readonly string[]): void {
  for (const key of Object.keys(value)) {
    if (!known.includes(key))
      throw new OptionError(`${option}.${key}`, `one of ${known.join(', ')}`, 'an unknown option')
  }
}

/** Returns a value that is valid. @throws OptionError */
export type Check<T> = (option: string, value: unknown) => T

type Checks = Readonly<Record<string, Check<unknown>>>

/**
 * Reads an object by a check for each of its keys.
 * @param place - the path of the object in messages; without it, the object holds the options of a call
 * @param sourceOf - returns another name for messages, such as that of an environment variable
 * @throws OptionError, also for an unknown key
 */
export function readOptions<C extends Checks>(
  given: unknown,
  checks: C,
  place?: string,
  sourceOf: (key: string) => string | undefined = () => undefined,
): { [K in keyof C]: ReturnType<C[K]> } {
  const options = expectObject(place ?? 'options', given)
  const keys = Object.keys(checks)
  expectKeys(place ?? 'options', options, keys)
  const read: Record<string, unknown> = {}
  for (const key of keys) {
    // Own properties only: a polluted prototype must not set an option.
    const value = Object.hasOwn(options, key) ? options[key] : undefined
    read[key] = checks[key]?.(sourceOf(key) ?? (place === undefined ? key : `${place}.${key}`), value)
  }
  return read as { [K in keyof C]: ReturnType<C[K]> }
}

export function optional<T>(check: Check<T>): Check<T | undefined> {
  return (option, value) => (value === undefined ? undefined : check(option, value))
}

export function withDefault<T>(check: Check<T>, otherwise: T): Check<T> {
  return (option, value) => (value === undefined ? otherwise : check(option, value))
}

export function expectString(option: string, value: unknown): string {
  if (typeof value !== 'string' || value === '')
    throw new OptionError(option, 'a non-empty string', describe(value))
  return value
}

/** Validates a secret, whose value must never be in a message and must be valid in an HTTP header. */
export function expectSecret(option: string, value: unknown): string {
  const found =
    typeof value === 'string' ? (value === '' ? 'an empty string' : 'other characters') : `a ${typeof value}`
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) {
    throw new OptionError(option, 'a non-empty string of printable ASCII', found)
  }
  return value
}

export function expectBoolean(option: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw new OptionError(option, 'true or false', describe(value))
  return value
}

export function expectDuration(option: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
    throw new OptionError(option, 'a positive number of milliseconds', describe(value))
  }
  return value
}

export function expectDurationOrNone(option: string, value: unknown): number {
  if (value === 0) return 0
  if (typeof value === 'number' && value > 0 && Number.isFinite(value)) return value
  throw new OptionError(option, 'a number of milliseconds, or 0', describe(value))
}

/** Validates a timeout; `Infinity` means none. */
export function expectTimeout(option: string, value: unknown): number {
  if (value === Infinity) return value
  return expectDuration(option, value)
}

export function expectCount(option: string, value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) return value
  throw new OptionError(option, 'a whole number above 0', describe(value))
}

export function expectStrings(option: string, value: unknown): readonly string[] {
  if (!Array.isArray(value)) throw new OptionError(option, 'a list of strings', describe(value))
  return value.map((item, i) => expectString(`${option}[${i}]`, item))
}

export function expectPort(option: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 65535) {
    throw new OptionError(option, 'a port from 0 to 65535', describe(value))
  }
  return value
}

export function expectFunction(option: string, value: unknown): void {
  if (typeof value !== 'function') throw new OptionError(option, 'a function', describe(value))
}

export function expectSignal(option: string, value: unknown): AbortSignal {
  if (!(value instanceof AbortSignal)) throw new OptionError(option, 'an AbortSignal', describe(value))
  return value
}

/**
 * Validates the name of a service, namespace, partition, or datacenter. Consul accepts almost anything; rejected are
 * only names that are not safe in a URL path or a log line.
 */
export function expectName(option: string, value: unknown): string {
  const name = expectString(option, value)
  // Agents decode and normalize a path before routing: a slash would address another resource.
  if (name === '.' || name === '..' || name.length > 255 || /[\p{Cc}/]/u.test(name)) {
    throw new OptionError(
      option,
      'a Consul name (1 to 255 characters, no slash, no control character)',
      describe(value),
    )
  }
  if (!name.isWellFormed()) throw new OptionError(option, 'a Consul name', 'a string with a lone surrogate')
  return name
}

const MAX_HOST_LENGTH = 255

/** Whether a value consists of the characters of an IP address or a host name. */
export function isHost(value: unknown): boolean {
  return typeof value === 'string' && value.length <= MAX_HOST_LENGTH && /^[A-Za-z0-9_.:%-]+$/.test(value)
}

/** Parses `host:port`, with an IPv6 address in brackets. */
export function expectAddress(
  option: string,
  value: unknown,
): { readonly host: string; readonly port: number } {
  const text = expectString(option, value)
  const match =
    text.length > MAX_HOST_LENGTH + '[]:65535'.length
      ? undefined
      : /^(?:\[([0-9a-fA-F:.]+(?:%[A-Za-z0-9._-]+)?)\]|([A-Za-z0-9._-]{1,255})):(\d{1,5})$/.exec(text)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || !(port >= 1 && port <= 65535)) {
    throw new OptionError(option, 'host:port or [ipv6]:port', describe(text))
  }
  return { host, port }
}
