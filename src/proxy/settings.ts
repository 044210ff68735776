import { OptionError } from '../base/errors.js'
import { formatHostPort } from '../base/host-port.js'
import {
  DEFAULTS,
  describe,
  expectCount,
  expectDuration,
  expectName,
  expectPort,
  expectString,
} from '../base/options/validate.js'
import type { MeshGatewayMode } from '../agent/endpoints/chain.js'
import {
  type QueryUpstream,
  type ServiceUpstream,
  expectFilter,
  expectGatewayMode,
  expectTags,
} from '../resolve/upstream.js'
import type { LocalAddress } from '../sockets/dial-local.js'
import {
  type Settings,
  type Take,
  expectHost,
  expectHostAndPort,
  expectPath,
  expectRealPort,
  isOneEditApart,
  list,
  normalize,
  numeric,
  read,
  taker,
} from './keys.js'

/** A validated configuration of a proxy, with all defaults applied. */
export interface ProxyConfig {
  /** The service that the proxy represents, whose certificate it uses. */
  readonly service: string
  readonly namespace: string | undefined
  readonly partition: string | undefined
  /** The public listener, where the mesh reaches the application; undefined without one. */
  readonly listener: ProxyListener | undefined
  /** The upstreams of the application, in the order of the configuration. */
  readonly upstreams: readonly ProxyUpstream[]
  /** How long a shutdown waits for open connections, in milliseconds. */
  readonly drainTimeoutMs: number
  /** Messages about keys that have no effect. */
  readonly warnings: readonly string[]
  /**
   * Invalid values, and what the proxy does instead. Only a `ProxyConfigSource` reports them; `parseProxyConfig` throws
   * the first one.
   */
  readonly problems: readonly ProxyProblem[]
}

/** An invalid value in the configuration of a proxy. */
export interface ProxyProblem {
  /** The key, such as `upstreams[0].local_bind_port`. */
  readonly place: string
  /** What was expected, and what was found. */
  readonly message: string
  /** What the proxy does instead. */
  readonly effect: string
}

export interface ProxyListener {
  readonly host: string
  readonly port: number
  /** The address of the application. */
  readonly application: LocalAddress
  /** Timeout of a connection attempt to the application, in milliseconds. */
  readonly connectTimeoutMs: number
  readonly handshakeTimeoutMs: number
  /** Upper bound on open connections; undefined for no limit. */
  readonly maxConnections: number | undefined
  /** Upper bound on pending handshakes. */
  readonly maxHandshakes: number
  /** Closes a connection without traffic for this time, in milliseconds; undefined for never. */
  readonly idleTimeoutMs: number | undefined
}

export interface ProxyUpstream {
  /** What the proxy dials. */
  readonly destination: ServiceUpstream | QueryUpstream
  /** The local address at which the application reaches the upstream. */
  readonly bind: LocalAddress
  /** Timeout of each dial, in milliseconds. */
  readonly connectTimeoutMs: number
  readonly idleTimeoutMs: number | undefined
}

const LISTENER_KEYS = [
  'bind_address',
  'bind_port',
  'local_service_address',
  'local_service_port',
  'local_service_socket_path',
  'local_connect_timeout_ms',
  'handshake_timeout_ms',
  'max_inbound_connections',
  'max_inbound_handshakes',
  'idle_timeout_ms',
]
/** The keys that `parseProxyConfig` reads, in snake_case, without the keys of an upstream. */
export const PROXY_CONFIG_KEYS: readonly string[] = [
  'service',
  'namespace',
  'partition',
  'upstreams',
  'drain_timeout_ms',
  ...LISTENER_KEYS,
]
/** Keys that select instances of an upstream. */
const SELECTION_KEYS = ['tags', 'filter', 'near']
/** Keys of `config` in an upstream, the only place where an agent accepts keys that it does not know. */
const UPSTREAM_CONFIG_KEYS = ['connect_timeout_ms', 'idle_timeout_ms', ...SELECTION_KEYS]
const UPSTREAM_KEYS = [
  'destination_type',
  'destination_name',
  'destination_namespace',
  'destination_partition',
  'destination_peer',
  'datacenter',
  'destination_datacenter',
  'local_bind_address',
  'local_bind_port',
  'local_bind_socket_path',
  'mesh_gateway',
  'config',
  ...UPSTREAM_CONFIG_KEYS,
]

const duration = numeric(expectDuration)
const count = numeric(expectCount)
const realPort = numeric(expectRealPort)

/** Called with each invalid value, and what the proxy does instead. */
type OnProblem = (error: OptionError, effect: string) => void

/**
 * Parses the configuration of a proxy. Its keys are those of Consul's built-in proxy, of the registration of a proxy, and
 * of its upstreams, in snake_case or CamelCase. An unknown key is a warning, and an invalid value is an error. Digits in
 * a string are a number, and an empty string counts as absent.
 * @throws OptionError
 * @example
 * ```ts
 * const { service, listener } = parseProxyConfig({
 *   service: 'web',
 *   bind_port: 21_000,
 *   local_service_port: 8_080,
 * })
 * console.log(service, listener?.port)
 * ```
 */
export function parseProxyConfig(given: unknown): ProxyConfig {
  return parse(given, (error) => {
    throw error
  })
}

/**
 * Parses the configuration of a running proxy. Valid parts apply even if others are invalid: an invalid upstream is left
 * out, an invalid public listener keeps its last configuration, and an invalid timeout or limit has its default. Each
 * problem is listed in `problems`.
 * @param previous - the last good configuration
 * @throws OptionError if the service, its namespace, its partition, or the whole object is invalid
 */
export function readProxyConfig(given: unknown, previous: ProxyConfig | undefined): ProxyConfig {
  const problems: ProxyProblem[] = []
  const config = parse(
    given,
    ({ option, expected, actual }, effect) => {
      problems.push({ place: option, message: `expected ${expected}, got ${actual}`, effect })
    },
    previous,
  )
  return { ...config, problems }
}

function parse(given: unknown, onProblem: OnProblem, previous?: ProxyConfig): ProxyConfig {
  const warnings: string[] = []
  const settings = read('', given, PROXY_CONFIG_KEYS, warnings)
  const take = taker('', settings)
  const service = expectName('service', settings['service'])
  const last = previous?.service === service ? previous.listener : undefined
  return {
    service,
    namespace: take('namespace', expectName),
    partition: take('partition', expectName),
    listener: parseListener(take, onProblem, last),
    upstreams: parseUpstreams(settings['upstreams'], onProblem, warnings),
    drainTimeoutMs: tuner(take, onProblem)('drain_timeout_ms', duration, DEFAULTS.drainTimeoutMs),
    warnings,
    problems: [],
  }
}

/** Runs a part of the parser, and reports its error. */
function attempt<T>(onProblem: OnProblem, effect: string, parsePart: () => T): T | undefined {
  try {
    return parsePart()
  } catch (error) {
    if (!(error instanceof OptionError)) throw error
    onProblem(error, effect)
    return undefined
  }
}

/** Reads a timeout or limit; an invalid one has its default. */
function tuner(take: Take, onProblem: OnProblem) {
  return <T, D extends T | undefined>(
    key: string,
    expect: (option: string, value: unknown) => T,
    otherwise: D,
  ): T | D =>
    attempt(onProblem, `the default applies: ${String(otherwise ?? 'none')}`, () => take(key, expect)) ??
    otherwise
}

/** Parses the public listener. There is none without a port, or with port 0. */
function parseListener(
  take: Take,
  onProblem: OnProblem,
  last: ProxyListener | undefined,
): ProxyListener | undefined {
  const tune = tuner(take, onProblem)
  const bounds = {
    connectTimeoutMs: tune('local_connect_timeout_ms', duration, DEFAULTS.localConnectTimeoutMs),
    handshakeTimeoutMs: tune('handshake_timeout_ms', duration, DEFAULTS.handshakeTimeoutMs),
    maxConnections: tune('max_inbound_connections', count, undefined),
    maxHandshakes: tune('max_inbound_handshakes', count, DEFAULTS.maxHandshakes),
    idleTimeoutMs: tune('idle_timeout_ms', duration, undefined),
  }
  const effect =
    last === undefined ? 'there is no public listener' : 'the public listener keeps its last configuration'
  const addresses = attempt(onProblem, effect, () => {
    const port = take('bind_port', numeric(expectPort)) ?? 0
    const host = take('bind_address', expectHost) ?? DEFAULTS.proxyHost
    const application = parseApplication(take)
    if (port === 0) return { listener: undefined }
    if (application !== undefined) return { listener: { host, port, application, ...bounds } }
    throw new OptionError(
      'local_service_port',
      'the port of the application, or local_service_socket_path',
      'neither',
    )
  })
  return addresses === undefined ? last : addresses.listener
}

function parseApplication(take: Take): LocalAddress | undefined {
  const path = take('local_service_socket_path', expectPath)
  const local = take('local_service_address', expectHostAndPort)
  const port = take('local_service_port', realPort)
  if (path !== undefined) {
    // The agent adds an address to every registration.
    if (port === undefined) return { path }
    throw new OptionError('local_service_socket_path', 'a path or a port', 'both')
  }
  // A port in the address was written by an operator; the agent may have added the other port.
  const chosen = local?.port ?? port
  return chosen === undefined ? undefined : { host: local?.host ?? DEFAULTS.loopback, port: chosen }
}

function parseUpstreams(value: unknown, onProblem: OnProblem, warnings: string[]): ProxyUpstream[] {
  /** The path of each upstream by its address. */
  const taken = new Map<string, string>()
  return list('upstreams', value).flatMap((given, i) => {
    const place = `upstreams[${i}]`
    const upstream = attempt(onProblem, 'this upstream is not served', () => {
      const own: string[] = []
      const parsed = parseUpstream(place, given, onProblem, own)
      expectFree(place, parsed.bind, taken)
      // Without the warnings of an upstream that is not served: its problem is reported instead.
      warnings.push(...own)
      return parsed
    })
    return upstream ?? []
  })
}

function parseUpstream(
  place: string,
  given: unknown,
  onProblem: OnProblem,
  warnings: string[],
): ProxyUpstream {
  const settings = read(place, given, UPSTREAM_KEYS, warnings)
  const configPlace = `${place}.config`
  const config = read(configPlace, settings['config'] ?? {}, UPSTREAM_CONFIG_KEYS, warnings)
  expectSelectionKeys(place, settings)
  expectSelectionKeys(configPlace, config)
  const take = taker(place, settings)
  const takeConfig = taker(configPlace, config)
  // These keys may also be beside `config`; those in `config` take precedence.
  const either: Take = (key, expect) => takeConfig(key, expect) ?? take(key, expect)
  const tune = tuner(either, onProblem)
  if (take('destination_peer', expectString) !== undefined) {
    throw new OptionError(`${place}.destination_peer`, 'no peer: peering is not supported', 'one')
  }
  return {
    destination: parseDestination(place, settings, take, either, warnings),
    bind: parseBind(place, take),
    connectTimeoutMs: tune('connect_timeout_ms', duration, DEFAULTS.dialTimeoutMs),
    idleTimeoutMs: tune('idle_timeout_ms', duration, undefined),
  }
}

/**
 * Rejects a misspelled selection key, such as `tag`. With only a warning, the proxy would dial instances that the
 * operator has excluded.
 */
function expectSelectionKeys(place: string, settings: Settings): void {
  for (const key of Object.keys(settings)) {
    if (UPSTREAM_KEYS.includes(key)) continue
    if (SELECTION_KEYS.some((known) => isOneEditApart(key, known))) {
      throw new OptionError(`${place}.${key}`, `one of ${SELECTION_KEYS.join(', ')}`, 'an unknown key')
    }
  }
}

function parseDestination(
  place: string,
  settings: Settings,
  take: Take,
  either: Take,
  warnings: string[],
): ServiceUpstream | QueryUpstream {
  const type = take('destination_type', expectString) ?? 'service'
  const name = take('destination_name', expectName)
  if (name === undefined) {
    // The key may be misspelled, and the warnings are not reported with an error.
    const unknown = warnings.filter((warning) => warning.startsWith(`${place}.`))
    const found = ['none', ...unknown].join('; ')
    throw new OptionError(`${place}.destination_name`, 'the name of a service or a prepared query', found)
  }
  const scope = {
    // The name of this key in Consul 1.2.
    datacenter: take('datacenter', expectName) ?? take('destination_datacenter', expectName),
    namespace: take('destination_namespace', expectName),
    partition: take('destination_partition', expectName),
  }
  const near = either('near', expectName)
  const [tags, filter] = [either('tags', expectTags), either('filter', expectFilter)]
  const sorted = near === undefined ? {} : { near }
  const meshGateway = parseGatewayMode(place, settings)
  if (type === 'service') {
    return {
      service: name,
      ...scope,
      ...sorted,
      ...(meshGateway !== undefined && { meshGateway }),
      ...(tags !== undefined && { tags }),
      ...(filter !== undefined && { filter }),
    }
  }
  if (type !== 'prepared_query') {
    throw new OptionError(`${place}.destination_type`, 'service or prepared_query', describe(type))
  }
  if (meshGateway !== undefined && meshGateway !== 'none')
    warnings.push(
      `${place}.mesh_gateway: has no effect on a prepared query; its instances are dialed directly`,
    )
  if (tags === undefined && filter === undefined) return { query: name, ...scope, ...sorted }
  const key = tags === undefined ? 'filter' : 'tags'
  throw new OptionError(`${place}.${key}`, 'destination_type service', 'prepared_query')
}

function parseBind(place: string, take: Take): LocalAddress {
  const path = take('local_bind_socket_path', expectPath)
  const port = take('local_bind_port', numeric(expectPort))
  const host = take('local_bind_address', expectHost) ?? DEFAULTS.forwardHost
  if (path === undefined) return { host, port: expectRealPort(`${place}.local_bind_port`, port) }
  if (port === undefined || port === 0) return { path }
  throw new OptionError(`${place}.local_bind_socket_path`, 'a path or a port', 'both')
}

/** Reads `mesh_gateway { mode }`; undefined for the mode of the service. */
function parseGatewayMode(place: string, settings: Settings): MeshGatewayMode | undefined {
  const gateway = settings['mesh_gateway']
  if (gateway === undefined) return undefined
  const gatewayPlace = `${place}.mesh_gateway`
  return taker(gatewayPlace, normalize(gatewayPlace, gateway))('mode', expectGatewayMode)
}

/** Rejects an address that another upstream uses. */
function expectFree(place: string, bind: LocalAddress, taken: Map<string, string>): void {
  const address = formatLocal(bind)
  const other = taken.get(address)
  if (other !== undefined) {
    const key = 'path' in bind ? 'local_bind_socket_path' : 'local_bind_port'
    throw new OptionError(`${place}.${key}`, 'a unique address', `${address}, which ${other} uses`)
  }
  taken.set(address, place)
}

/** `host:port`, `[ipv6]:port`, or a path. */
function formatLocal(address: LocalAddress): string {
  return 'path' in address ? address.path : formatHostPort(address)
}
