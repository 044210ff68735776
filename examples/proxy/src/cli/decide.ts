import {
  ConnectError,
  type Decision,
  type Environment,
  type Peer,
  type Service,
  SpiffeId,
  service,
} from 'consul-connect'
import {
  AGENT_FLAGS,
  type Flags,
  UsageError,
  agentEnvironment,
  flagLines,
  parseFlags,
  quote,
} from './command-line.js'

const FLAGS = {
  service: { type: 'string', value: 'NAME', help: 'the destination' },
  source: { type: 'string', value: 'NAME', help: 'the service that connects' },
  method: { type: 'string', value: 'METHOD', help: 'method of the request (default GET)' },
  header: {
    type: 'string',
    multiple: true,
    value: "'NAME: VALUE'",
    help: 'a header of the request; can be repeated',
  },
  ...AGENT_FLAGS,
  help: { type: 'boolean', help: 'print this help and exit' },
} as const satisfies Flags

const USAGE = `Usage: connect-proxy decide -service NAME -source NAME [flags] [PATH]

Says what the intentions of the mesh decide about an HTTP request of a service to another
one, or without PATH about a connection, and why. Sends no request to either service.

  connect-proxy decide -service api -source web /admin
  connect-proxy decide -service api -source web -method POST -header 'x-role: admin' /orders

Exits with 0 if it is allowed, with 2 if it is denied, and with 1 if there is no decision.
The token needs service:write for the destination.
`

const TIMEOUT_MS = 10_000
const DENIED = 2

/**
 * Prints what the intentions decide about a request.
 * @returns the exit code
 * @throws UsageError, OptionError, AgentError, IdentityError
 */
export async function decide(args: readonly string[], env: Environment): Promise<number> {
  const flags = parseFlags(FLAGS, args, { allowPositionals: true })
  if (flags.help === true) {
    process.stdout.write(`${USAGE}\n${flagLines(FLAGS)}`)
    return 0
  }
  const { service: destination, source, method = 'GET', header = [], positionals } = flags
  if (destination === undefined || destination === '')
    throw new UsageError('-service: the name of the destination is missing')
  if (source === undefined || source === '')
    throw new UsageError('-source: the name of the service that connects is missing')
  if (positionals.length > 1) throw new UsageError(`expected one path, got ${quote(positionals.join(' '))}`)
  const [path] = positionals
  if (path === undefined && (flags.method !== undefined || header.length > 0))
    throw new UsageError('-method, -header: a path is missing')
  const headers = header.flatMap(parseHeader)
  await using api = service(destination, { agent: { env: agentEnvironment(flags, env) } })
  // It belongs to the decision: what is not understood is denied. Other problems are in the error.
  api.on('warning', (warning) => {
    if (warning instanceof ConnectError && warning.code === 'ERR_CONNECT_INTENTION')
      process.stderr.write(`${warning.message}\n`)
  })
  await api.ready({ timeoutMs: TIMEOUT_MS })
  const peer = peerOf(api, source)
  if (path === undefined) return print(await api.authorize(peer))
  const decision = await api.authorize(peer, { method, path, headers })
  const code = print(decision)
  if (decision.path !== path) process.stdout.write(`the rules see the path ${decision.path}\n`)
  return code
}

/** @returns the exit code */
function print({ authorized, reason }: Decision): number {
  process.stdout.write(`${authorized ? 'allowed' : 'denied'}: ${reason}\n`)
  return authorized ? 0 : DENIED
}

/** @throws UsageError */
function parseHeader(text: string): [name: string, value: string] {
  const [, name, value] = /^([!#$%&'*+.^_`|~\w:-]+?):\s*(.*?)\s*$/.exec(text) ?? []
  if (name !== undefined && value !== undefined) return [name, value]
  throw new UsageError(`-header: expected 'NAME: VALUE', got ${quote(text)}`)
}

/** A peer as if the source had connected: in the namespace and datacenter of the destination. */
function peerOf({ leaf }: Service, source: string): Peer {
  const { parts } = SpiffeId.parse(leaf?.uri ?? '')
  if (parts.kind !== 'service') throw new Error('expected the certificate of a service')
  const identity = { ...parts, service: source }
  return {
    ...identity,
    spiffeId: SpiffeId.service(identity).toString(),
    serialNumber: '00',
    fingerprint256: '',
    notAfter: leaf?.expiresAt ?? new Date(),
  }
}
