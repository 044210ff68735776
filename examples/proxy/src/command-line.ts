import { parseArgs } from 'node:util'
import type { Environment } from 'consul-connect'
import { LOG_LEVELS, type LogLevel, toLevel } from './log.js'

/** A mistake of the user, shown without a stack. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

export interface Flag {
  readonly type: 'string' | 'boolean'
  readonly multiple?: true
  /** The name of its value in the help. */
  readonly value?: string
  readonly help: string
}

export type Flags = Readonly<Record<string, Flag>>

/** The values of the flags. */
export type FlagValues<F extends Flags> = { readonly [K in keyof F]?: Value<F[K]> }
type Value<F extends Flag> = F extends { type: 'boolean' }
  ? boolean
  : F extends { multiple: true }
    ? string[]
    : string

/** Flags of the log. */
export const LOG_FLAGS = {
  'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn or error (default info)' },
  'log-json': { type: 'boolean', help: 'log lines of JSON' },
} as const satisfies Flags

/** Flags for the connection to the agent: the HTTP flags of Consul's own commands. */
export const AGENT_FLAGS = {
  'http-addr': {
    type: 'string',
    value: 'ADDR',
    help: 'the Consul agent (default CONSUL_HTTP_ADDR or 127.0.0.1:8500)',
  },
  token: {
    type: 'string',
    value: 'TOKEN',
    help: 'an ACL token; visible in the list of processes',
  },
  'token-file': {
    type: 'string',
    value: 'FILE',
    help: 'a file with an ACL token, read again for each request',
  },
  'ca-file': { type: 'string', value: 'FILE', help: 'the CA of the agent’s HTTPS' },
  'ca-path': { type: 'string', value: 'DIR', help: 'a folder of CA files' },
  'client-cert': { type: 'string', value: 'FILE', help: 'a client certificate for the agent’s HTTPS' },
  'client-key': { type: 'string', value: 'FILE', help: 'its key' },
  'tls-server-name': {
    type: 'string',
    value: 'NAME',
    help: 'the name that the agent’s certificate must have',
  },
  datacenter: { type: 'string', value: 'NAME', help: 'where upstreams are looked up' },
  namespace: { type: 'string', value: 'NAME', help: 'the namespace of the service (Consul Enterprise)' },
  partition: { type: 'string', value: 'NAME', help: 'its partition (Consul Enterprise)' },
} as const satisfies Flags

/** The flags that stand for a variable of Consul. */
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
 * Parses flags as Go's programs do: with one dash or two, with a value after `=` or in the next argument, and with
 * `=true` or `=false` for a flag that is on or off.
 * @throws UsageError
 */
export function parseFlags<F extends Flags>(flags: F, args: readonly string[]): FlagValues<F>
/** Accepts arguments beside flags. */
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
    // Go's programs take a dash for a flag even where a value is missing.
    else if (flag === undefined) throw new UsageError(`unknown flag: -${shorten(name)} (see -help)`)
    else if (flag.type === 'boolean' && text !== undefined) values[name] = onOrOff(name, text)
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
    throw new UsageError(firstSentence(error), { cause: error })
  }
}

const MAX_SHOWN = 64

/** The beginning of a text, for a message. */
export function shorten(text: string): string {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text
}

/** A text of the user in quotes, for a message. */
export function quote(text: string): string {
  return JSON.stringify(shorten(text))
}

/** Splits `-name`, `--name`, or either with `=text`; any other argument has no name. */
function splitFlag(arg: string): { readonly name?: string; readonly text?: string } {
  const dashes = arg.startsWith('--') ? 2 : arg.startsWith('-') ? 1 : 0
  const equals = arg.indexOf('=')
  const name = equals === -1 ? arg.slice(dashes) : arg.slice(dashes, equals)
  // A dash alone is a value, two end the flags.
  if (dashes === 0 || arg.length === dashes) return {}
  const known = name === 'h' ? 'help' : name
  return equals === -1 ? { name: known } : { name: known, text: arg.slice(equals + 1) }
}

/** A line of help for each flag. */
export function flagLines(flags: Flags): string {
  const width = 36
  const lines = Object.entries(flags).map(([name, { value, help }]) => {
    const flag = `  -${name}${value === undefined ? '' : ` ${value}`}`
    return flag.length < width ? `${flag.padEnd(width)}${help}` : `${flag}\n${' '.repeat(width)}${help}`
  })
  return `${lines.join('\n')}\n`
}

/**
 * Consul's variables, with the values of flags in their place.
 * @throws UsageError
 */
export function agentEnvironment(flags: FlagValues<typeof AGENT_FLAGS>, env: Environment): Environment {
  const result: Record<string, string | undefined> = { ...env }
  for (const [flag, variable] of Object.entries(VARIABLES) as [keyof typeof VARIABLES, string][]) {
    const value = flags[flag]
    if (value !== undefined) result[variable] = value
  }
  if (flags.token !== undefined && flags['token-file'] !== undefined) {
    throw new UsageError('expected either -token or -token-file, got both')
  }
  if (flags['token-file'] !== undefined) result['CONSUL_HTTP_TOKEN_FILE'] = flags['token-file']
  if (flags.token !== undefined && flags.token !== '') {
    result['CONSUL_HTTP_TOKEN'] = flags.token
    delete result['CONSUL_HTTP_TOKEN_FILE']
  }
  return result
}

/**
 * Parses `host:port`, `:port`, or a port alone.
 * @throws UsageError
 */
export function hostAndPort(flag: string, text: string): { host: string | undefined; port: number } {
  const colon = text.lastIndexOf(':')
  const host = text.slice(0, Math.max(colon, 0)).replace(/^\[([^\]]*)\]$/, '$1')
  const digits = text.slice(colon + 1)
  const port = /^\d{1,5}$/.test(digits) ? Number(digits) : NaN
  // A colon in a host is part of an IPv6 address, which stands in brackets.
  const isHost = !host.includes(':') || text.startsWith('[')
  if (text.length > MAX_ADDRESS_LENGTH || !isHost || !(port >= 1 && port <= 65_535)) {
    throw new UsageError(`${flag}: expected [HOST]:PORT with a port from 1 to 65535, got ${quote(text)}`)
  }
  return { host: host === '' ? undefined : host, port }
}

/** Longer than any host name with a port. */
const MAX_ADDRESS_LENGTH = 300

/**
 * The address of an HTTP server for operators: on the loopback unless a host is given.
 * @throws UsageError
 */
export function adminAddress(flag: string, text: string): { host: string; port: number } {
  const { host, port } = hostAndPort(flag, text)
  return { host: host ?? '127.0.0.1', port }
}

/** @throws UsageError */
export function levelOf(key: string, text = 'info'): LogLevel {
  const level = toLevel(text)
  if (level !== undefined) return level
  throw new UsageError(`${key}: expected one of ${LOG_LEVELS.join(', ')}, got ${quote(text)}`)
}

function onOrOff(name: string, text: string): boolean {
  if (text === 'true' || text === '1') return true
  if (text === 'false' || text === '0') return false
  throw new UsageError(`-${name}: expected true or false, got ${quote(text)}`)
}

const MAX_MESSAGE = 200

/** Removes the advice about Node's own options from a message of its parser. */
function firstSentence(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return (message.split('. ', 1)[0] ?? message).slice(0, MAX_MESSAGE)
}
