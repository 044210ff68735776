import { availableParallelism } from 'node:os'
import { createSecureContext } from 'node:tls'
import type { AgentOptions, Environment } from 'consul-connect'
import { type ProxyConfig, type ProxySelector, parseProxyConfig } from 'consul-connect/proxy'
import { type Json, readFile } from './file.js'
import { UsageError, adminAddress, agentEnvironment, hostAndPort, levelOf, quote } from './command-line.js'
import { FLAGS, type FlagName, type FlagValues, parseFlags } from './flags.js'
import type { LogLevel } from './log.js'

/** All settings of the command line, the file, and the environment. */
export interface Settings {
  readonly agent: AgentOptions
  readonly source: Source
  /** Undefined unless the proxy registers itself. */
  readonly registration: { readonly idSuffix: string | undefined } | undefined
  /** Without a level, it follows the agent's. */
  readonly log: { readonly level: LogLevel | undefined; readonly json: boolean }
  /** Undefined without an admin address. */
  readonly admin: { readonly host: string; readonly port: number } | undefined
  readonly workers: number
  /** Undefined for the default of Node.js. */
  readonly ecdhCurve: string | undefined
  readonly warnings: readonly string[]
}

/** Where the configuration of the proxy comes from. */
export type Source =
  | { readonly kind: 'agent'; readonly selector: ProxySelector }
  | { readonly kind: 'static'; readonly config: ProxyConfig }

/** Flags that a file may have too, with underscores for dashes. */
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
  if (all['pprof-addr'] !== undefined) {
    warnings.push('-pprof-addr: has no effect; set NODE_OPTIONS=--inspect to profile the proxy')
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
    ecdhCurve: all['ecdh-curve'] === undefined ? undefined : curvesOf(all['ecdh-curve']),
    warnings,
  }
}

/** Separates the flags in a file from the configuration of the proxy. */
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

/** Reads which proxy to follow: the environment counts only where flags and file name none. */
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

/** Translates flags to the keys of a configuration. */
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
/** Room for the longest filter with every character encoded. */
const MAX_UPSTREAM_LENGTH = 8_192

/**
 * Parses `name[.service|.query]:[host:]port`, as the built-in proxy has it, or with a Unix path in the place of host and
 * port; after a question mark, which instances are wanted.
 * @throws UsageError
 */
function upstreamKeys(text: string): Json {
  const colon = text.indexOf(':')
  const isTooLong = text.length > MAX_UPSTREAM_LENGTH
  if (colon < 1 || isTooLong) {
    const found = isTooLong ? `${text.length} characters` : quote(text)
    throw new UsageError(`-upstream: expected ${UPSTREAM_FORM}, got ${found}`)
  }
  const { name, isQuery } = destinationOf(text.slice(0, colon))
  const [where = '', ...search] = text.slice(colon + 1).split('?')
  const destination = {
    destination_name: name,
    destination_type: isQuery ? 'prepared_query' : 'service',
    ...selectionKeys(search.join('?')),
  }
  const path = unixPath(where)
  if (path !== undefined) return { ...destination, local_bind_socket_path: path }
  const { host, port } = hostAndPort('-upstream', where)
  return { ...destination, local_bind_port: port, ...(host !== undefined && { local_bind_address: host }) }
}

function destinationOf(text: string): { readonly name: string; readonly isQuery: boolean } {
  for (const type of ['.service', '.query']) {
    // A name consists of more than the type.
    if (text.length > type.length && text.endsWith(type)) {
      return { name: text.slice(0, -type.length), isQuery: type === '.query' }
    }
  }
  return { name: text, isQuery: false }
}

const SELECTION_PARAMETERS = ['tag', 'near', 'filter']

/** Parses `tag=a&tag=b&near=_agent&filter=...`, encoded as in a URL. @throws UsageError */
function selectionKeys(search: string): Json {
  const parameters = new URLSearchParams(search)
  for (const name of parameters.keys()) {
    if (SELECTION_PARAMETERS.includes(name)) continue
    const known = SELECTION_PARAMETERS.join(', ')
    throw new UsageError(`-upstream: unknown parameter ${quote(name)}; expected one of ${known}`)
  }
  for (const name of ['near', 'filter']) {
    if (parameters.getAll(name).length > 1) throw new UsageError(`-upstream: expected ${name} once`)
  }
  for (const [name, value] of parameters) {
    if (value === '') throw new UsageError(`-upstream: expected a value of ${name}`)
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
    throw new UsageError('-register-id: expected -register beside it')
  }
  if (source.kind === 'agent') {
    throw new UsageError(
      '-register: the agent has the registration already, the configuration comes from there',
    )
  }
  if (source.config.listener === undefined) {
    throw new UsageError(
      '-register: expected -listen beside it; a proxy without a public listener is not registered',
    )
  }
  return { idSuffix: flags['register-id'] }
}

const MOST_WORKERS = 64

function workersOf(text = '1'): number {
  if (text === 'auto') return Math.min(MOST_WORKERS, availableParallelism())
  const count = Number(text)
  if (/^\d+$/.test(text) && count >= 1 && count <= MOST_WORKERS) return count
  throw new UsageError(`-workers: expected auto, or a number from 1 to ${MOST_WORKERS}, got ${quote(text)}`)
}

function curvesOf(ecdhCurve: string): string {
  try {
    createSecureContext({ ecdhCurve })
    return ecdhCurve
  } catch (cause) {
    const expected = 'expected groups that this OpenSSL knows, such as X25519:P-256'
    throw new UsageError(`-ecdh-curve: ${expected}, got ${quote(ecdhCurve)}`, { cause })
  }
}

/** The environment for the agent, with the token that a supervisor gave to this proxy. */
function proxyEnvironment(flags: FlagValues, env: Environment): Environment {
  const own = env['CONNECT_PROXY_TOKEN']
  if (own === undefined || own === '' || flags.token !== undefined || flags['token-file'] !== undefined) {
    return agentEnvironment(flags, env)
  }
  return agentEnvironment({ ...flags, token: own }, env)
}
