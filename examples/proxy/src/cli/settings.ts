import { availableParallelism } from 'node:os'
import { createSecureContext } from 'node:tls'
import type { AgentOptions, Environment } from 'consul-connect'
import { type ProxyConfig, type ProxySelector, parseProxyConfig } from 'consul-connect/proxy'
import { UsageError, adminAddress, agentEnvironment, hostAndPort, levelOf, quote } from './command-line.js'
import { type Json, readConfigFile } from './config-file.js'
import { FLAGS, type FlagName, type FlagValues, parseFlags } from './flags.js'
import type { LogLevel } from '../operator/log.js'
import type { ConnectionOptions } from '../proxy.js'

/** The settings of the process, from the command line, the configuration file, and the environment. */
export interface Settings {
  readonly agent: AgentOptions
  readonly source: Source
  /** Set by -register: the proxy registers itself with the agent. */
  readonly registration: { readonly idSuffix: string | undefined } | undefined
  /** An undefined level follows the level of the agent. */
  readonly log: { readonly level: LogLevel | undefined; readonly json: boolean }
  /** Undefined if the admin server is off. */
  readonly admin: { readonly host: string; readonly port: number } | undefined
  readonly workers: number
  readonly connections: ConnectionOptions
  readonly warnings: readonly string[]
}

/** The source of the proxy configuration: a registration that is followed, or flags and file. */
export type Source =
  | { readonly kind: 'agent'; readonly selector: ProxySelector }
  | { readonly kind: 'static'; readonly config: ProxyConfig }

/** Flags that a configuration file may set as well, with underscores for dashes. */
const FILE_FLAGS = [
  'proxy-id',
  'sidecar-for',
  'register',
  'register-id',
  'workers',
  'admin-addr',
  'ecdh-curve',
  'mux',
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

/**
 * Reads the settings from the command line, the file of -config-file, and the environment, in this order of precedence.
 * @param args - command line arguments, without the program
 * @throws UsageError for a wrong flag or file, OptionError for a wrong configuration value
 */
export function readSettings(args: readonly string[], env: Environment): Settings {
  const flags = parseFlags(args)
  const file = flags['config-file'] === undefined ? {} : readConfigFile(flags['config-file'])
  return combine(flags, file, env)
}

function combine(flags: FlagValues, file: Json, env: Environment): Settings {
  const { flags: fileFlags, config } = splitFile(file)
  const all: FlagValues = { ...fileFlags, ...flags }
  const warnings: string[] = []
  if (flags.token !== undefined) {
    warnings.push('-token: visible in the process list; use -token-file or CONSUL_HTTP_TOKEN')
  }
  if (all.stale === true) warnings.push('-stale: ignored')
  if (all['pprof-addr'] !== undefined) {
    warnings.push('-pprof-addr: ignored; set NODE_OPTIONS=--inspect to profile the proxy')
  }
  const source = sourceOf(all, config, env)
  return {
    agent: { env: proxyEnvironment(all, env) },
    source,
    registration: registrationOf(all, source),
    log: {
      level: all['log-level'] === undefined ? undefined : levelOf('-log-level', all['log-level']),
      json: all['log-json'] ?? false,
    },
    admin: all['admin-addr'] === undefined ? undefined : adminAddress('-admin-addr', all['admin-addr']),
    workers: workersOf(all.workers),
    connections: {
      ...(all['ecdh-curve'] !== undefined && { ecdhCurve: curvesOf(all['ecdh-curve']) }),
      mux: all.mux ?? false,
    },
    warnings,
  }
}

/** Splits a file into values of flags and the configuration of the proxy. */
function splitFile(file: Json): { flags: FlagValues; config: Json } {
  if (file['token'] !== undefined) {
    throw new UsageError('token: not allowed in a configuration file; use token_file')
  }
  const flagsByKey = new Map<string, FlagName>(FILE_FLAGS.map((flag) => [flag.replaceAll('-', '_'), flag]))
  const flags: Record<string, unknown> = {}
  const config: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(file)) {
    const flag = flagsByKey.get(key)
    if (flag === undefined) config[key] = value
    else flags[flag] = expectType(key, value, FLAGS[flag].type)
  }
  return { flags, config }
}

function expectType(key: string, value: unknown, type: 'boolean' | 'string'): unknown {
  if (typeof value === type) return value
  // JSON files may hold the number of workers as a number.
  if (key === 'workers' && typeof value === 'number') return String(value)
  throw new UsageError(`${key}: expected a ${type}, got ${JSON.stringify(value).slice(0, 64)}`)
}

function sourceOf(flags: FlagValues, fileConfig: Json, env: Environment): Source {
  const config = { ...fileConfig, ...configOf(flags) }
  const selector = selectorOf(flags, config, env)
  if (selector !== undefined) {
    const [key] = Object.keys(config)
    if (key === undefined) return { kind: 'agent', selector }
    const [id] = Object.values(selector)
    throw new UsageError(
      `${key}: not allowed with -proxy-id or -sidecar-for; the agent has the configuration of ${id}`,
    )
  }
  if (config['service'] === undefined) {
    throw new UsageError(
      'no configuration: expected -sidecar-for, -proxy-id, -service, or -config-file (see -help)',
    )
  }
  if (flags.listen !== undefined && flags['service-addr'] === undefined && !hasApplication(config)) {
    throw new UsageError('-listen: expected -service-addr as well, the address of the application')
  }
  const { namespace, partition } = flags
  const scopedConfig = {
    ...config,
    ...(namespace !== undefined && { namespace }),
    ...(partition !== undefined && { partition }),
  }
  return { kind: 'static', config: parseProxyConfig(scopedConfig) }
}

function hasApplication(config: Json): boolean {
  return ['local_service_address', 'local_service_port', 'local_service_socket_path'].some(
    (key) => key in config,
  )
}

/** Selects the registered proxy to follow. The environment applies only if flags and file select neither a proxy nor a service. */
function selectorOf(flags: FlagValues, config: Json, env: Environment): ProxySelector | undefined {
  const fromFlags = { proxyId: flags['proxy-id'], sidecarFor: flags['sidecar-for'] }
  const isInFlags = Object.values(fromFlags).some((value) => value !== undefined)
  const selected =
    isInFlags || config['service'] !== undefined
      ? fromFlags
      : { proxyId: env['CONNECT_PROXY_ID'], sidecarFor: env['CONNECT_SIDECAR_FOR'] }
  // An empty variable counts as absent.
  const proxyId = isInFlags ? selected.proxyId : selected.proxyId || undefined
  const sidecarFor = isInFlags ? selected.sidecarFor : selected.sidecarFor || undefined
  if (proxyId !== undefined && sidecarFor !== undefined) {
    throw new UsageError('-proxy-id, -sidecar-for: set only one of them')
  }
  if (proxyId === '' || sidecarFor === '')
    throw new UsageError('-proxy-id, -sidecar-for: expected an ID, got ""')
  if (proxyId !== undefined) return { proxyId }
  return sidecarFor === undefined ? undefined : { sidecarFor }
}

/** Converts flags to configuration keys. */
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

const UPSTREAM_FORM = 'NAME[.service|.query]:[HOST:]PORT[?tag=TAG&near=NODE&filter=EXPRESSION]'
/** The longest filter, with every character percent-encoded, fits. */
const MAX_UPSTREAM_LENGTH = 8_192

/**
 * Parses an upstream in the syntax of the built-in proxy, `name[.service|.query]:[host:]port`. Additions: a Unix socket path
 * instead of host and port, and `?tag=...&near=...&filter=...`, which selects instances.
 * @throws UsageError
 */
function upstreamKeys(text: string): Json {
  const colon = text.indexOf(':')
  const isTooLong = text.length > MAX_UPSTREAM_LENGTH
  if (colon < 1 || isTooLong) {
    const actual = isTooLong ? `${text.length} characters` : quote(text)
    throw new UsageError(`-upstream: expected ${UPSTREAM_FORM}, got ${actual}`)
  }
  const { name, isQuery } = destinationOf(text.slice(0, colon))
  const [address = '', ...search] = text.slice(colon + 1).split('?')
  const destination = {
    destination_name: name,
    destination_type: isQuery ? 'prepared_query' : 'service',
    ...selectionKeys(search.join('?')),
  }
  const path = unixPath(address)
  if (path !== undefined) return { ...destination, local_bind_socket_path: path }
  const { host, port } = hostAndPort('-upstream', address)
  return { ...destination, local_bind_port: port, ...(host !== undefined && { local_bind_address: host }) }
}

function destinationOf(text: string): { readonly name: string; readonly isQuery: boolean } {
  for (const type of ['.service', '.query']) {
    // `.query` alone is the name of a service.
    if (text.length > type.length && text.endsWith(type)) {
      return { name: text.slice(0, -type.length), isQuery: type === '.query' }
    }
  }
  return { name: text, isQuery: false }
}

const SELECTION_PARAMETERS = ['tag', 'near', 'filter']

/**
 * Parses `tag=a&tag=b&near=_agent&filter=...`, with URL encoding.
 * @throws UsageError
 */
function selectionKeys(search: string): Json {
  const parameters = new URLSearchParams(search)
  for (const name of parameters.keys()) {
    if (SELECTION_PARAMETERS.includes(name)) continue
    const expected = SELECTION_PARAMETERS.join(', ')
    throw new UsageError(`-upstream: unknown parameter ${quote(name)}; expected one of ${expected}`)
  }
  for (const name of ['near', 'filter']) {
    if (parameters.getAll(name).length > 1)
      throw new UsageError(`-upstream: expected ${name} once; it is repeated`)
  }
  for (const [name, value] of parameters) {
    if (value === '') throw new UsageError(`-upstream: expected a value for ${name}, got ""`)
  }
  const tags = parameters.getAll('tag')
  const [near, filter] = [parameters.get('near'), parameters.get('filter')]
  return {
    ...(tags.length > 0 && { tags }),
    ...(near !== null && { near }),
    ...(filter !== null && { filter }),
  }
}

function unixPath(text: string): string | undefined {
  const path = text.replace(/^unix:\/\//, '')
  return path.startsWith('/') ? path : undefined
}

function registrationOf(flags: FlagValues, source: Source): Settings['registration'] {
  if (flags.register !== true) {
    if (flags['register-id'] === undefined) return undefined
    throw new UsageError('-register-id: expected -register as well')
  }
  if (source.kind === 'agent') {
    throw new UsageError(
      '-register: not allowed with -proxy-id or -sidecar-for; that proxy is already registered',
    )
  }
  if (source.config.listener === undefined) {
    throw new UsageError(
      '-register: expected -listen as well; a proxy without a public listener cannot be registered',
    )
  }
  return { idSuffix: flags['register-id'] }
}

const MAX_WORKERS = 64

function workersOf(text = '1'): number {
  if (text === 'auto') return Math.min(MAX_WORKERS, availableParallelism())
  const count = Number(text)
  if (/^\d+$/.test(text) && count >= 1 && count <= MAX_WORKERS) return count
  throw new UsageError(`-workers: expected auto or a number from 1 to ${MAX_WORKERS}, got ${quote(text)}`)
}

/** Names of groups. OpenSSL 3.5 accepts an empty list. */
const GROUPS = /^[a-z0-9][\w.-]*(?::[a-z0-9][\w.-]*)*$/i

function curvesOf(ecdhCurve: string): string {
  try {
    if (!GROUPS.test(ecdhCurve)) throw new Error('not a list of names')
    createSecureContext({ ecdhCurve })
    return ecdhCurve
  } catch (cause) {
    const expected = 'expected groups supported by OpenSSL, such as X25519:P-256'
    throw new UsageError(`-ecdh-curve: ${expected}, got ${quote(ecdhCurve)}`, { cause })
  }
}

/** Returns the environment for the agent client. The token of a supervisor, CONNECT_PROXY_TOKEN, overrides Consul's variables. */
function proxyEnvironment(flags: FlagValues, env: Environment): Environment {
  const token = env['CONNECT_PROXY_TOKEN']
  if (token === undefined || token === '' || flags.token !== undefined || flags['token-file'] !== undefined) {
    return agentEnvironment(flags, env)
  }
  return agentEnvironment({ ...flags, token }, env)
}
