import { parseArgs } from 'node:util'

/** A mistake in what the user wrote, told without a stack. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

interface Flag {
  readonly type: 'string' | 'boolean'
  readonly multiple?: true
  /** What stands after it in the help. */
  readonly value?: string
  readonly help: string
}

/** Every flag. Those of `consul connect proxy` mean what they mean there. */
export const FLAGS = {
  'proxy-id': {
    type: 'string',
    value: 'ID',
    help: 'take the configuration of this proxy from the agent, and follow it',
  },
  'sidecar-for': {
    type: 'string',
    value: 'ID',
    help: 'the same, of the only proxy that is registered for this service instance',
  },
  'config-file': {
    type: 'string',
    value: 'FILE',
    help: 'take the configuration from a JSON file; SIGHUP reads it again',
  },
  service: { type: 'string', value: 'NAME', help: 'the service to stand for, configured by the flags below' },
  'service-addr': { type: 'string', value: '[HOST:]PORT', help: 'where its application listens' },
  listen: { type: 'string', value: '[HOST]:PORT', help: 'where the mesh comes in; needs -service-addr' },
  upstream: {
    type: 'string',
    multiple: true,
    value: 'NAME[.service|.query]:[HOST:]PORT',
    help: 'a local port that leads to a service or a prepared query; may be repeated',
  },
  register: { type: 'boolean', help: 'register the proxy with the agent while it runs; needs -listen' },
  'register-id': { type: 'string', value: 'SUFFIX', help: 'what tells it from others of the same service' },
  workers: { type: 'string', value: 'N|auto', help: 'how many processes share the work (default 1)' },
  'admin-addr': {
    type: 'string',
    value: '[HOST]:PORT',
    help: 'serve /metrics, /health, /ready and /config there, on the loopback unless a host is given (default off)',
  },
  'ecdh-curve': {
    type: 'string',
    value: 'NAMES',
    help: 'the groups for the key exchange, such as X25519:P-256 (default those of Node.js)',
  },
  'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn or error (default info)' },
  'log-json': { type: 'boolean', help: 'log lines of JSON' },
  'http-addr': {
    type: 'string',
    value: 'ADDR',
    help: 'the Consul agent (default CONSUL_HTTP_ADDR or 127.0.0.1:8500)',
  },
  token: {
    type: 'string',
    value: 'TOKEN',
    help: 'an ACL token; everybody can see it in the list of processes',
  },
  'token-file': {
    type: 'string',
    value: 'FILE',
    help: 'a file with an ACL token, read again for each request',
  },
  'ca-file': { type: 'string', value: 'FILE', help: 'the CA of the agent’s HTTPS' },
  'ca-path': { type: 'string', value: 'DIR', help: 'a folder of such' },
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
  stale: {
    type: 'boolean',
    help: 'has no effect: what is watched comes from the agent’s own copy where that is safe',
  },
  help: { type: 'boolean', help: 'this text' },
} as const satisfies Record<string, Flag>

export type FlagName = keyof typeof FLAGS

/** What was given on the command line. */
export type FlagValues = { readonly [K in FlagName]?: Value<(typeof FLAGS)[K]> }
type Value<F extends Flag> = F extends { type: 'boolean' }
  ? boolean
  : F extends { multiple: true }
    ? string[]
    : string

/**
 * Reads flags as Go's programs do: with one dash or two, with a value after `=` or in the next argument, and with
 * `=true` or `=false` for those that are on or off.
 * @throws UsageError
 */
export function parseFlags(args: readonly string[]): FlagValues {
  const values: Record<string, unknown> = {}
  const rest: string[] = []
  for (const arg of args) {
    const [, name, , text] = /^--?([a-z-]+)(=(.*))?$/s.exec(arg) ?? []
    // Go takes a dash for a flag even where a value is missing; what is no flag is left for the parser to refuse.
    if (name === undefined || !isFlag(name)) rest.push(arg)
    else if (FLAGS[name].type === 'boolean' && text !== undefined) values[name] = onOrOff(name, text)
    else rest.push(`--${arg.replace(/^--?/, '')}`)
  }
  const options = Object.fromEntries(
    Object.entries<Flag>(FLAGS).map(([name, { type, multiple = false }]) => [name, { type, multiple }]),
  )
  try {
    const parsed = parseArgs({ args: rest, options, strict: true, allowPositionals: false })
    return { ...values, ...parsed.values }
  } catch (error) {
    throw new UsageError(firstSentence(error), { cause: error })
  }
}

export function helpText(): string {
  const width = 36
  const lines = Object.entries<Flag>(FLAGS).map(([name, { value, help }]) => {
    const flag = `  -${name}${value === undefined ? '' : ` ${value}`}`
    return flag.length < width ? `${flag.padEnd(width)}${help}` : `${flag}\n${' '.repeat(width)}${help}`
  })
  return `${USAGE}\n${lines.join('\n')}\n`
}

const USAGE = `Usage: connect-proxy [flags]

A sidecar proxy for Consul Connect: mutual TLS between processes, plain TCP on the
loopback to a program that knows nothing of it.

  connect-proxy -sidecar-for web
  connect-proxy -service web -upstream db:5432
  connect-proxy -service web -service-addr 127.0.0.1:8080 -listen :8443 -register
  connect-proxy -config-file proxy.json

Consul's client environment (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE, ...) applies, and
CONNECT_PROXY_ID, CONNECT_SIDECAR_FOR and CONNECT_PROXY_TOKEN.
`

function isFlag(name: string): name is FlagName {
  return Object.hasOwn(FLAGS, name)
}

function onOrOff(name: string, text: string): boolean {
  if (text === 'true' || text === '1') return true
  if (text === 'false' || text === '0') return false
  throw new UsageError(`-${name}: expected true or false, got ${JSON.stringify(text)}`)
}

/** Node's parser adds advice about its own options. */
function firstSentence(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return message.split('. ', 1)[0] ?? message
}
