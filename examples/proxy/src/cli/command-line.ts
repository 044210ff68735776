import { parseArgs } from 'node:util'
import type { Environment } from 'consul-connect'
import { LOG_LEVELS, type LogLevel, toLevel } from '../operator/log.js'

/** An invalid flag or setting. Its message is printed without a stack trace. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

export interface Flag {
  readonly type: 'string' | 'boolean'
  readonly multiple?: true
  /** Placeholder of the value in the help text. */
  readonly value?: string
  readonly help: string
}

export type Flags = Readonly<Record<string, Flag>>

/** Parsed values by flag name. */
export type FlagValues<F extends Flags> = { readonly [K in keyof F]?: Value<F[K]> }
type Value<F extends Flag> = F extends { type: 'boolean' }
  ? boolean
  : F extends { multiple: true }
    ? string[]
    : string

/** Logging flags. */
export const LOG_FLAGS = {
  'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn, or error (default info)' },
  'log-json': { type: 'boolean', help: 'write log lines as JSON' },
} as const satisfies Flags

/** Flags for the connection to the agent; the same as the HTTP flags of `consul` commands. */
export const AGENT_FLAGS = {
  'http-addr': {
    type: 'string',
    value: 'ADDR',
    help: 'address of the Consul agent (default CONSUL_HTTP_ADDR or 127.0.0.1:8500)',
  },
  token: {
    type: 'string',
    value: 'TOKEN',
    help: 'ACL token; visible in the process list',
  },
  'token-file': {
    type: 'string',
    value: 'FILE',
    help: 'file with an ACL token, read for each request',
  },
  'ca-file': { type: 'string', value: 'FILE', help: 'CA certificate for HTTPS to the agent' },
  'ca-path': { type: 'string', value: 'DIR', help: 'directory of CA certificates for HTTPS to the agent' },
  'client-cert': { type: 'string', value: 'FILE', help: 'client certificate for HTTPS to the agent' },
  'client-key': { type: 'string', value: 'FILE', help: 'private key of -client-cert' },
  'tls-server-name': {
    type: 'string',
    value: 'NAME',
    help: 'expected name in the certificate of the agent',
  },
  datacenter: { type: 'string', value: 'NAME', help: 'datacenter in which upstreams are looked up' },
  namespace: { type: 'string', value: 'NAME', help: 'namespace of the service (Consul Enterprise)' },
  partition: { type: 'string', value: 'NAME', help: 'partition of the service (Consul Enterprise)' },
} as const satisfies Flags

/** The environment variable that each flag overrides. */
const VARIABLES = {
  'http-addr': 'CONSUL_HTTP_ADDR',
  'ca-file': 'CONSUL_CACERT',
  'ca-path': 'CONSUL_CAPATH',
  'client-cert': 'CONSUL_CLIENT_CERT',
  'client-key': 'CONSUL_CLIENT_KEY',
  'tls-server-name': 'CONSUL_TLS_SERVER_NAME',
  datacenter: 'CONSUL_DATACENTER',
  namespace: 'CONSUL_NAMESPACE',
  partition: 'CONSUL_PARTITION',
} as const satisfies Partial<Record<keyof typeof AGENT_FLAGS, string>>

/**
 * Parses flags in Go's syntax: one or two dashes, a value after `=` or in the next argument, and `=true` or `=false` after
 * a boolean flag.
 * @throws UsageError for an unknown flag, a missing value, or a positional argument
 */
export function parseFlags<F extends Flags>(flags: F, args: readonly string[]): FlagValues<F>
/** Also accepts positional arguments. */
export function parseFlags<F extends Flags>(
  flags: F,
  args: readonly string[],
  options: { readonly allowPositionals: true },
): FlagValues<F> & { readonly positionals: readonly string[] }
export function parseFlags<F extends Flags>(
  flags: F,
  args: readonly string[],
  { allowPositionals = false }: { readonly allowPositionals?: boolean } = {},
): FlagValues<F> & { readonly positionals: readonly string[] } {
  const known = new Map<string, Flag>(Object.entries(flags))
  const values: Record<string, unknown> = {}
  const rest: string[] = []
  for (const arg of args) {
    const { name, text } = splitFlag(arg)
    const flag = name === undefined ? undefined : known.get(name)
    if (name === undefined) rest.push(arg)
    // Unlike Go, do not take an argument with a dash as the value of a flag: the value was probably forgotten.
    else if (flag === undefined) throw new UsageError(`unknown flag: -${shorten(name)} (see -help)`)
    else if (flag.type === 'boolean' && text !== undefined) values[name] = parseBoolean(name, text)
    else rest.push(text === undefined ? `--${name}` : `--${name}=${text}`)
  }
  const options = Object.fromEntries(
    [...known].map(([name, { type, multiple = false }]) => [name, { type, multiple }]),
  )
  try {
    const parsed = parseArgs({ args: rest, options, strict: true, allowPositionals })
    const all: Readonly<Record<string, unknown>> = {
      ...values,
      ...parsed.values,
      positionals: parsed.positionals,
    }
    return all as FlagValues<F> & { readonly positionals: readonly string[] }
  } catch (error) {
    throw new UsageError(parserMessage(error), { cause: error })
  }
}

const MAX_SHOWN = 64

/** Shortens a text to 64 characters, for a message. */
export function shorten(text: string): string {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text
}

/** Quotes and shortens user input, for a message. */
export function quote(text: string): string {
  return JSON.stringify(shorten(text))
}

/** Splits `-name`, `--name`, `-name=text`, or `--name=text`. Returns no name for any other argument. */
function splitFlag(arg: string): { readonly name?: string; readonly text?: string } {
  const dashes = arg.startsWith('--') ? 2 : arg.startsWith('-') ? 1 : 0
  const equals = arg.indexOf('=')
  const name = equals === -1 ? arg.slice(dashes) : arg.slice(dashes, equals)
  // `-` is a value; `--` ends the flags.
  if (dashes === 0 || arg.length === dashes) return {}
  const fullName = name === 'h' ? 'help' : name
  return equals === -1 ? { name: fullName } : { name: fullName, text: arg.slice(equals + 1) }
}

/** Formats the help of flags, one line or two for each. */
export function flagLines(flags: Flags): string {
  const width = 36
  const lines = Object.entries(flags).map(([name, { value, help }]) => {
    const flag = `  -${name}${value === undefined ? '' : ` ${value}`}`
    return flag.length < width ? `${flag.padEnd(width)}${help}` : `${flag}\n${' '.repeat(width)}${help}`
  })
  return `${lines.join('\n')}\n`
}

/**
 * Returns the environment for the library's agent client: `env`, overridden by flags.
 * @throws UsageError when both -token and -token-file are set
 */
export function agentEnvironment(flags: FlagValues<typeof AGENT_FLAGS>, env: Environment): Environment {
  const result: Record<string, string | undefined> = { ...env }
  for (const [flag, variable] of Object.entries(VARIABLES) as [keyof typeof VARIABLES, string][]) {
    const value = flags[flag]
    if (value !== undefined) result[variable] = value
  }
  if (flags.token !== undefined && flags['token-file'] !== undefined) {
    throw new UsageError('-token, -token-file: set only one of them; -token-file is safer')
  }
  if (flags['token-file'] !== undefined) result['CONSUL_HTTP_TOKEN_FILE'] = flags['token-file']
  if (flags.token !== undefined && flags.token !== '') {
    result['CONSUL_HTTP_TOKEN'] = flags.token
    delete result['CONSUL_HTTP_TOKEN_FILE']
  }
  return result
}

/**
 * Parses `host:port`, `[ipv6]:port`, `:port`, or a port.
 * @param flag - name of the flag, for the message
 * @throws UsageError
 */
export function hostAndPort(flag: string, text: string): { host: string | undefined; port: number } {
  const colon = text.lastIndexOf(':')
  const host = text.slice(0, Math.max(colon, 0)).replace(/^\[([^\]]*)\]$/, '$1')
  const digits = text.slice(colon + 1)
  const port = /^\d{1,5}$/.test(digits) ? Number(digits) : NaN
  // An IPv6 address must be in brackets.
  const isHost = !host.includes(':') || text.startsWith('[')
  if (text.length > MAX_ADDRESS_LENGTH || !isHost || !(port >= 1 && port <= 65_535)) {
    throw new UsageError(`${flag}: expected [HOST:]PORT with a port from 1 to 65535, got ${quote(text)}`)
  }
  return { host: host === '' ? undefined : host, port }
}

/** A DNS name has at most 253 characters. */
const MAX_ADDRESS_LENGTH = 300

/**
 * Parses the address of an admin server. The host defaults to 127.0.0.1.
 * @throws UsageError
 */
export function adminAddress(flag: string, text: string): { host: string; port: number } {
  const { host, port } = hostAndPort(flag, text)
  return { host: host ?? '127.0.0.1', port }
}

/**
 * Parses a log level.
 * @param key - name of the flag or key, for the message
 * @throws UsageError
 */
export function levelOf(key: string, text = 'info'): LogLevel {
  const level = toLevel(text)
  if (level !== undefined) return level
  throw new UsageError(`${key}: expected one of ${LOG_LEVELS.join(', ')}, got ${quote(text)}`)
}

function parseBoolean(name: string, text: string): boolean {
  if (text === 'true' || text === '1') return true
  if (text === 'false' || text === '0') return false
  throw new UsageError(`-${name}: expected true or false, got ${quote(text)}`)
}

const MAX_MESSAGE_LENGTH = 200

/** Returns the first sentence of a message of `parseArgs`; the rest is advice for developers. */
function parserMessage(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return (message.split('. ', 1)[0] ?? message).slice(0, MAX_MESSAGE_LENGTH)
}
