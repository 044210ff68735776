import { availableParallelism } from 'node:os'
import { createSecureContext } from 'node:tls'
import {
  type AgentOptions,
  type Environment,
  type ProxyConfig,
  type ProxySelector,
  parseProxyConfig,
} from 'consul-connect'
import { type Json, readFile } from './file.js'
import { FLAGS, type FlagName, type FlagValues, UsageError, parseFlags } from './flags.js'
import { LOG_LEVELS, type LogLevel } from './log.js'

/** Everything that a user says, in one form. */
export interface Settings {
  readonly agent: AgentOptions
  readonly source: Source
  /** Undefined where the proxy is registered by somebody else. */
  readonly registration: { readonly idSuffix: string | undefined } | undefined
  readonly log: { readonly level: LogLevel; readonly json: boolean }
  /** Undefined for none. */
  readonly admin: { readonly host: string; readonly port: number } | undefined
  readonly workers: number
  /** Undefined for the default of Node.js. */
  readonly ecdhCurve: string | undefined
  readonly warnings: readonly string[]
}

/** Where the proxy's configuration is. */
export type Source =
  | { readonly kind: 'agent'; readonly selector: ProxySelector }
  | { readonly kind: 'static'; readonly config: ProxyConfig }

/** What of the command line a file may say as well, with underscores for dashes. */
const FILE_FLAGS = [
  'proxy-id',
  'sidecar-for',
  'register',
  'register-id',
  'workers',
  'admin-addr',
  'ecdh-curve',
  'log-level',
  'log-json',
  'http-addr',
  'token-file',
  'ca-file',
  'ca-path',
  'client-cert',
  'client-key',
  'tls-server-name',
  'datacenter',
] as const satisfies readonly FlagName[]

/** The flags that are Consul's own variables by another name. */
const VARIABLES: Partial<Record<FlagName, string>> = {
  'http-addr': 'CONSUL_HTTP_ADDR',
  'ca-file': 'CONSUL_CACERT',
  'ca-path': 'CONSUL_CAPATH',
  'client-cert': 'CONSUL_CLIENT_CERT',
  'client-key': 'CONSUL_CLIENT_KEY',
  'tls-server-name': 'CONSUL_TLS_SERVER_NAME',
  datacenter: 'CONSUL_DATACENTER',
  namespace: 'CONSUL_NAMESPACE',
  partition: 'CONSUL_PARTITION',
}

/**
 * Reads the command line, the file that it names and the environment, in this order of precedence.
 * @throws UsageError, OptionError
 */
export function readSettings(args: readonly string[], env: Environment): Settings {
  const flags = parseFlags(args)
  const file = flags['config-file'] === undefined ? {} : readFile(flags['config-file'])
  return combine(flags, file, env)
}

/** @throws UsageError, OptionError */
function combine(flags: FlagValues, file: Json, env: Environment): Settings {
  const { process: fromFile, config } = split(file)
  const all: FlagValues = { ...fromFile, ...flags }
  const warnings: string[] = []
  if (flags.token !== undefined) {
    warnings.push('-token: everybody on this machine can see it; use -token-file or CONSUL_HTTP_TOKEN')
  }
  if (all.stale === true) warnings.push('-stale: has no effect')
  const source = sourceOf(all, config, env)
  return {
    agent: { env: agentEnvironment(all, env) },
    source,
    registration: registrationOf(all, source),
    log: { level: levelOf(all['log-level']), json: all['log-json'] ?? false },
    admin: all['admin-addr'] === undefined ? undefined : adminAddress(all['admin-addr']),
    workers: workersOf(all.workers),
    ecdhCurve: all['ecdh-curve'] === undefined ? undefined : curvesOf(all['ecdh-curve']),
    warnings,
  }
}

/** A file holds what the command line may say, and the configuration of a proxy. */
function split(file: Json): { process: FlagValues; config: Json } {
  if (file['token'] !== undefined) {
    throw new UsageError('token: a configuration file holds no token; name one that does in token_file')
  }
  const ofProcess = new Map<string, FlagName>(FILE_FLAGS.map((flag) => [flag.replaceAll('-', '_'), flag]))
  const process: Record<string, unknown> = {}
  const config: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(file)) {
    const flag = ofProcess.get(key)
    if (flag === undefined) config[key] = value
    else process[flag] = expectType(key, value, FLAGS[flag].type)
  }
  return { process, config }
}

function expectType(key: string, value: unknown, type: 'boolean' | 'string'): unknown {
  if (typeof value === type) return value
  // A number of workers is more natural as one.
  if (key === 'workers' && typeof value === 'number') return String(value)
  throw new UsageError(`${key}: expected a ${type}, got ${JSON.stringify(value).slice(0, 64)}`)
}

function sourceOf(flags: FlagValues, fromFile: Json, env: Environment): Source {
  const config = { ...fromFile, ...configOf(flags) }
  const selector = selectorOf(flags, config, env)
  if (selector !== undefined) {
    const [key] = Object.keys(config)
    if (key === undefined) return { kind: 'agent', selector }
    const [chosen] = Object.values(selector)
    throw new UsageError(`${key}: the configuration of ${chosen} comes from the agent, and from there alone`)
  }
  if (config['service'] === undefined) {
    throw new UsageError('expected -sidecar-for, -proxy-id, -service or -config-file: see -help')
  }
  if (flags.listen !== undefined && flags['service-addr'] === undefined && !hasApplication(config)) {
    throw new UsageError('-listen: expected -service-addr beside it, the address of the application')
  }
  const { namespace, partition } = flags
  const scoped = {
    ...config,
    ...(namespace !== undefined && { namespace }),
    ...(partition !== undefined && { partition }),
  }
  return { kind: 'static', config: parseProxyConfig(scoped) }
}

function hasApplication(config: Json): boolean {
  return ['local_service_address', 'local_service_port', 'local_service_socket_path'].some(
    (key) => key in config,
  )
}

/** The environment speaks only where nobody else does. */
function selectorOf(flags: FlagValues, config: Json, env: Environment): ProxySelector | undefined {
  const given = { proxyId: flags['proxy-id'], sidecarFor: flags['sidecar-for'] }
  const own = Object.values(given).some((value) => value !== undefined)
  const named =
    own || config['service'] !== undefined
      ? given
      : { proxyId: env['CONNECT_PROXY_ID'], sidecarFor: env['CONNECT_SIDECAR_FOR'] }
  // An empty variable counts as absent.
  const proxyId = own ? named.proxyId : named.proxyId || undefined
  const sidecarFor = own ? named.sidecarFor : named.sidecarFor || undefined
  if (proxyId !== undefined && sidecarFor !== undefined) {
    throw new UsageError('expected either -proxy-id or -sidecar-for, got both')
  }
  if (proxyId === '' || sidecarFor === '') throw new UsageError('-proxy-id, -sidecar-for: expected an id')
  if (proxyId !== undefined) return { proxyId }
  return sidecarFor === undefined ? undefined : { sidecarFor }
}

/** What the flags say, in the keys of a configuration. */
function configOf(flags: FlagValues): Json {
  const { service, listen, upstream } = flags
  return {
    ...(service !== undefined && { service }),
    ...(listen !== undefined && listenKeys(listen)),
    ...(flags['service-addr'] !== undefined && applicationKeys(flags['service-addr'])),
    ...(upstream !== undefined && { upstreams: upstream.map(upstreamKeys) }),
  }
}

function listenKeys(text: string): Json {
  const { host, port } = hostAndPort('-listen', text)
  return { bind_port: port, ...(host !== undefined && { bind_address: host }) }
}

function applicationKeys(text: string): Json {
  const path = unixPath(text)
  if (path !== undefined) return { local_service_socket_path: path }
  const { host, port } = hostAndPort('-service-addr', text)
  return { local_service_port: port, ...(host !== undefined && { local_service_address: host }) }
}

/** `name[.service|.query]:[host:]port`, as the built-in proxy takes it, or a unix path in place of host and port. */
function upstreamKeys(text: string): Json {
  const [, name, type, where] = /^(.+?)(?:\.(service|query))?:(.*)$/s.exec(text) ?? []
  if (name === undefined || where === undefined) {
    throw new UsageError(`-upstream: expected NAME[.service|.query]:[HOST:]PORT, got ${JSON.stringify(text)}`)
  }
  const destination = {
    destination_name: name,
    destination_type: type === 'query' ? 'prepared_query' : 'service',
  }
  const path = unixPath(where)
  if (path !== undefined) return { ...destination, local_bind_socket_path: path }
  const { host, port } = hostAndPort('-upstream', where)
  return { ...destination, local_bind_port: port, ...(host !== undefined && { local_bind_address: host }) }
}

function unixPath(text: string): string | undefined {
  const path = text.replace(/^unix:\/\//, '')
  return path.startsWith('/') ? path : undefined
}

/** `host:port`, `:port` or a port alone. */
function hostAndPort(flag: string, text: string): { host: string | undefined; port: number } {
  const [, bracketed, plain, digits] = /^(?:(?:\[([^\]]*)\]|([^:]*)):)?(\d{1,5})$/.exec(text) ?? []
  const port = Number(digits)
  if (digits === undefined || port < 1 || port > 65_535) {
    throw new UsageError(
      `${flag}: expected [HOST]:PORT with a port from 1 to 65535, got ${JSON.stringify(text)}`,
    )
  }
  const host = bracketed ?? plain
  return { host: host === '' ? undefined : host, port }
}

function registrationOf(flags: FlagValues, source: Source): Settings['registration'] {
  if (flags.register !== true) {
    if (flags['register-id'] === undefined) return undefined
    throw new UsageError('-register-id: expected -register beside it')
  }
  if (source.kind === 'agent') {
    throw new UsageError(
      '-register: the agent has the registration already, the configuration comes from there',
    )
  }
  if (source.config.listener === undefined) {
    throw new UsageError(
      '-register: expected -listen beside it; a proxy that lets nobody in is not registered',
    )
  }
  return { idSuffix: flags['register-id'] }
}

function levelOf(text = 'info'): LogLevel {
  // Consul's own word for it.
  const level = text.toLowerCase() === 'err' ? 'error' : text.toLowerCase()
  const found = LOG_LEVELS.find((one) => one === level)
  if (found !== undefined) return found
  throw new UsageError(`-log-level: expected one of ${LOG_LEVELS.join(', ')}, got ${JSON.stringify(text)}`)
}

function adminAddress(text: string): { host: string; port: number } {
  const { host, port } = hostAndPort('-admin-addr', text)
  return { host: host ?? '127.0.0.1', port }
}

const MOST_WORKERS = 64

function workersOf(text = '1'): number {
  if (text === 'auto') return Math.min(MOST_WORKERS, availableParallelism())
  const count = Number(text)
  if (/^\d+$/.test(text) && count >= 1 && count <= MOST_WORKERS) return count
  throw new UsageError(
    `-workers: expected auto, or a number from 1 to ${MOST_WORKERS}, got ${JSON.stringify(text)}`,
  )
}

function curvesOf(ecdhCurve: string): string {
  try {
    createSecureContext({ ecdhCurve })
    return ecdhCurve
  } catch (cause) {
    const expected = 'expected groups that this OpenSSL knows, such as X25519:P-256'
    throw new UsageError(`-ecdh-curve: ${expected}, got ${JSON.stringify(ecdhCurve)}`, { cause })
  }
}

/** Consul's variables, with what the flags say in their place. */
function agentEnvironment(flags: FlagValues, env: Environment): Environment {
  const result: Record<string, string | undefined> = { ...env }
  for (const [flag, variable] of Object.entries(VARIABLES) as [FlagName, string][]) {
    const value = flags[flag]
    if (typeof value === 'string') result[variable] = value
  }
  const token = flags.token ?? (flags['token-file'] === undefined ? env['CONNECT_PROXY_TOKEN'] : undefined)
  if (flags.token !== undefined && flags['token-file'] !== undefined) {
    throw new UsageError('expected either -token or -token-file, got both')
  }
  if (flags['token-file'] !== undefined) result['CONSUL_HTTP_TOKEN_FILE'] = flags['token-file']
  if (token !== undefined && token !== '') {
    result['CONSUL_HTTP_TOKEN'] = token
    delete result['CONSUL_HTTP_TOKEN_FILE']
  }
  return result
}
