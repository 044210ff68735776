import { OptionError } from '../errors.js'
import {
  DEFAULTS,
  describe,
  expectCount,
  expectDuration,
  expectName,
  expectPort,
  expectString,
} from '../options.js'
import type { QueryTarget, ServiceTarget } from '../resolve/upstream.js'
import type { LocalAddress } from '../transport/local.js'
import {
  type Settings,
  type Take,
  expectHost,
  expectHostAndPort,
  expectPath,
  expectRealPort,
  list,
  normalize,
  read,
  taker,
} from './keys.js'

/** What a proxy is to do, checked and with nothing left to default. */
export interface ProxyConfig {
  /** The service that it stands for, whose certificate it carries. */
  readonly service: string
  readonly namespace: string | undefined
  readonly partition: string | undefined
  /** How the mesh reaches the application; undefined for a proxy that lets nobody in. */
  readonly listener: ProxyListener | undefined
  /** What the application reaches through it, in the order in which it was written. */
  readonly upstreams: readonly ProxyUpstream[]
  /** How long it waits for open connections when it ends, in milliseconds. */
  readonly drainTimeoutMs: number
  /** What was written and has no effect, in words for an operator. */
  readonly warnings: readonly string[]
}

export interface ProxyListener {
  readonly host: string
  readonly port: number
  /** Where the application listens. */
  readonly application: LocalAddress
  /** Bound on connecting to it, in milliseconds. */
  readonly connectTimeoutMs: number
  readonly handshakeTimeoutMs: number
  /** How many connections may be open; undefined for any number. */
  readonly maxConnections: number | undefined
  /** How many may be in their handshake. */
  readonly maxHandshakes: number
  /** Ends a connection on which no byte has moved for so long, in milliseconds; undefined for never. */
  readonly idleTimeoutMs: number | undefined
}

export interface ProxyUpstream {
  readonly target: ServiceTarget | QueryTarget
  /** Where the application finds it. */
  readonly bind: LocalAddress
  /** Bound on each dial, in milliseconds. */
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
/** The keys that `parseProxyConfig` knows, in snake_case; those of an upstream are its own. */
export const PROXY_CONFIG_KEYS: readonly string[] = [
  'service',
  'namespace',
  'partition',
  'upstreams',
  'drain_timeout_ms',
  ...LISTENER_KEYS,
]
/** Those of the `config` inside an upstream. */
const TUNING_KEYS = ['connect_timeout_ms', 'idle_timeout_ms']
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
  ...TUNING_KEYS,
]

/**
 * Reads a proxy's configuration. Its keys are those of Consul's built-in proxy, of the registration of a proxy and of
 * its upstreams, in snake_case or in the agent's CamelCase. A key that is not known becomes a warning; a value that is
 * wrong is an error, which names the key, the value and what is allowed.
 * @throws OptionError
 * @example
 * ```ts
 * const { service, listener } = connect.parseProxyConfig({
 *   service: 'web',
 *   bind_port: 21_000,
 *   local_service_port: 8_080,
 * })
 * console.log(service, listener?.port)
 * ```
 */
export function parseProxyConfig(given: unknown): ProxyConfig {
  const warnings: string[] = []
  const settings = read('', given, PROXY_CONFIG_KEYS, warnings)
  const upstreams = list('upstreams', settings['upstreams']).map((upstream, i) =>
    parseUpstream(`upstreams[${i}]`, upstream, warnings),
  )
  expectDistinct(upstreams)
  const take = taker('', settings)
  return {
    service: expectName('service', settings['service']),
    namespace: take('namespace', expectName),
    partition: take('partition', expectName),
    listener: parseListener(settings),
    upstreams,
    drainTimeoutMs: take('drain_timeout_ms', expectDuration) ?? DEFAULTS.drainTimeoutMs,
    warnings,
  }
}

/** Without a port, or with port 0, nobody is let in. */
function parseListener(settings: Settings): ProxyListener | undefined {
  const take = taker('', settings)
  const port = take('bind_port', expectPort) ?? 0
  const listener = {
    host: take('bind_address', expectHost) ?? DEFAULTS.proxyHost,
    port,
    connectTimeoutMs: take('local_connect_timeout_ms', expectDuration) ?? DEFAULTS.localConnectTimeoutMs,
    handshakeTimeoutMs: take('handshake_timeout_ms', expectDuration) ?? DEFAULTS.handshakeTimeoutMs,
    maxConnections: take('max_inbound_connections', expectCount),
    maxHandshakes: take('max_inbound_handshakes', expectCount) ?? DEFAULTS.maxHandshakes,
    idleTimeoutMs: take('idle_timeout_ms', expectDuration),
  }
  const application = parseApplication(take)
  if (port === 0) return undefined
  if (application === undefined) {
    throw new OptionError(
      'local_service_port',
      'the port of the application, or local_service_socket_path',
      'neither',
    )
  }
  return { ...listener, application }
}

function parseApplication(take: Take): LocalAddress | undefined {
  const path = take('local_service_socket_path', expectPath)
  const local = take('local_service_address', expectHostAndPort)
  const port = take('local_service_port', expectRealPort)
  if (path !== undefined) {
    // An agent fills in an address for every proxy.
    if (port === undefined) return { path }
    throw new OptionError('local_service_socket_path', 'a path or a port', 'both')
  }
  // A port in the address was written by somebody; one beside it may be what an agent filled in.
  const chosen = local?.port ?? port
  return chosen === undefined ? undefined : { host: local?.host ?? DEFAULTS.loopback, port: chosen }
}

function parseUpstream(place: string, given: unknown, warnings: string[]): ProxyUpstream {
  const settings = read(place, given, UPSTREAM_KEYS, warnings)
  const config =
    settings['config'] === undefined ? {} : read(`${place}.config`, settings['config'], TUNING_KEYS, warnings)
  const take = taker(place, settings)
  const tuning = taker(`${place}.config`, config)
  warnAboutGateway(place, settings, warnings)
  if (take('destination_peer', expectString) !== undefined) {
    throw new OptionError(`${place}.destination_peer`, 'no peer: peering is not supported', 'one')
  }
  return {
    target: parseTarget(place, take, warnings),
    bind: parseBind(place, take),
    connectTimeoutMs:
      tuning('connect_timeout_ms', expectDuration) ??
      take('connect_timeout_ms', expectDuration) ??
      DEFAULTS.dialTimeoutMs,
    idleTimeoutMs: tuning('idle_timeout_ms', expectDuration) ?? take('idle_timeout_ms', expectDuration),
  }
}

function parseTarget(place: string, take: Take, warnings: readonly string[]): ServiceTarget | QueryTarget {
  const type = take('destination_type', expectString) ?? 'service'
  const name = take('destination_name', expectName)
  if (name === undefined) {
    // It may be there by another name, and with the error nobody sees the warnings.
    const misspelt = warnings.filter((warning) => warning.startsWith(`${place}.`))
    const found = ['none', ...misspelt].join('; ')
    throw new OptionError(`${place}.destination_name`, 'the name of a service or a prepared query', found)
  }
  const scope = {
    // Consul 1.2 had another word for it.
    datacenter: take('datacenter', expectName) ?? take('destination_datacenter', expectName),
    namespace: take('destination_namespace', expectName),
    partition: take('destination_partition', expectName),
  }
  if (type === 'service') return { service: name, ...scope }
  if (type === 'prepared_query') return { query: name, ...scope }
  throw new OptionError(`${place}.destination_type`, 'service or prepared_query', describe(type))
}

function parseBind(place: string, take: Take): LocalAddress {
  const path = take('local_bind_socket_path', expectPath)
  const port = take('local_bind_port', expectPort) ?? 0
  const host = take('local_bind_address', expectHost) ?? DEFAULTS.forwardHost
  if (path === undefined) return { host, port: expectRealPort(`${place}.local_bind_port`, port) }
  if (port === 0) return { path }
  throw new OptionError(`${place}.local_bind_socket_path`, 'a path or a port', 'both')
}

function warnAboutGateway(place: string, settings: Settings, warnings: string[]): void {
  const gateway = settings['mesh_gateway']
  if (gateway === undefined) return
  const { mode } = normalize(`${place}.mesh_gateway`, gateway)
  if (mode === undefined || mode === '' || mode === 'none') return
  warnings.push(`${place}.mesh_gateway: gateways are not supported, instances are dialled directly`)
}

function expectDistinct(upstreams: readonly ProxyUpstream[]): void {
  const seen = new Map<string, number>()
  upstreams.forEach(({ bind }, i) => {
    const where = formatLocal(bind)
    const other = seen.get(where)
    if (other !== undefined) {
      const place = 'path' in bind ? 'local_bind_socket_path' : 'local_bind_port'
      throw new OptionError(
        `upstreams[${i}].${place}`,
        'an address of its own',
        `that of upstreams[${other}], ${where}`,
      )
    }
    seen.set(where, i)
  })
}

/** `host:port`, `[ipv6]:port` or a path. */
function formatLocal(address: LocalAddress): string {
  if ('path' in address) return address.path
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`
}
