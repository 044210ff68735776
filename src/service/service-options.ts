import { DEFAULT_ECDH_CURVE, createSecureContext } from 'node:tls'
import { type HostSettings, expectDomain, expectHosts } from '../http/mesh-url.js'
import { type AgentOptions } from '../agent/options.js'
import { type AgentSettings, agentSettings } from '../agent/settings.js'
import type { Authorizer } from '../authorize/authorizer.js'
import { authorizeIntentions } from '../authorize/authorizers.js'
import { OptionError } from '../base/errors.js'
import {
  DEFAULTS,
  describe,
  duration,
  expectBoolean,
  expectCount,
  expectDuration,
  expectDurationOrNone,
  expectFunction,
  expectKeys,
  expectObject,
  expectPort,
  expectSignal,
  expectString,
  expectStrings,
  expectTimeout,
  optional,
} from '../base/validate.js'
import type { Upstream } from '../resolve/upstream.js'
import type { TlsSettings } from '../identity/identity-store.js'
import type { DialBounds } from '../transport/dial.js'
import type { ListenAddress } from '../sockets/bind-server.js'

/** Options of `connect.service`. */
export interface ServiceOptions {
  /** How to reach the Consul agent. @default Consul's client environment */
  readonly agent?: AgentOptions | undefined
  /** Who may connect. @default authorizeIntentions */
  readonly authorize?: Authorizer | undefined
  /**
   * How long the last known intentions serve while the agent is away, in milliseconds. Afterwards everybody is denied,
   * and open connections end, unless their listener does not revoke. 0 denies at once. @default 600000
   */
  readonly staleIntentionsMs?: number | undefined
  /** Bound on a whole `dial`, in milliseconds. @default 10000 */
  readonly dialTimeoutMs?: number | undefined
  /** Bound on an inbound handshake, and once more on its authorization, in milliseconds. @default 10000 */
  readonly handshakeTimeoutMs?: number | undefined
  /** How long `close` waits for open connections before it cuts them, in milliseconds; 0 cuts at once. @default 10000 */
  readonly drainTimeoutMs?: number | undefined
  /**
   * The groups for the key exchange, as in node:tls: names with colons between, in the order of preference. A peer that
   * knows none of them cannot be connected. `X25519` alone costs less than the hybrid of X25519 and ML-KEM that
   * OpenSSL 3.5 (Node 24) prefers, and does not withstand a quantum computer, as that does.
   * @default node:tls's own choice
   */
  readonly ecdhCurve?: string | undefined
  /** The lowest version of TLS. Consul's built-in proxy, Envoy, and the Go SDK all know 1.3. @default TLSv1.2 */
  readonly minTlsVersion?: 'TLSv1.2' | 'TLSv1.3' | undefined
  /**
   * The domain of Consul's names in the hosts of URLs, for `fetch`, `dispatcher` and `httpAgent`: the agent's own `domain`.
   * @default consul
   */
  readonly domain?: string | undefined
  /**
   * Further hosts of URLs, and the upstream that each leads to: for a service that a host name cannot write, or only
   * some of its instances. @default none
   */
  readonly hosts?: Readonly<Record<string, Upstream>> | undefined
  /**
   * Whether HTTP clients may follow a redirect from one service to another. The second service sees the request as this
   * service's own, so a service that may not call it could do so through the redirect. Redirects inside one service are
   * always followed. @default false
   */
  readonly crossServiceRedirects?: boolean | undefined
  /**
   * Upper bound on the connections to each host of `fetch`, and of `dispatcher` and `httpAgent` unless their own options say
   * otherwise. Further requests wait for a connection. @default 50
   */
  readonly maxConnectionsPerHost?: number | undefined
}

export interface ServiceSettings {
  readonly agent: AgentSettings
  readonly authorize: Authorizer
  readonly staleIntentionsMs: number
  readonly dialTimeoutMs: number
  readonly handshakeTimeoutMs: number
  readonly drainTimeoutMs: number
  readonly tls: TlsSettings
  readonly hosts: HostSettings
  readonly crossServiceRedirects: boolean
  readonly maxConnectionsPerHost: number
}

/** Options of `dial`. */
export interface DialOptions {
  readonly signal?: AbortSignal | undefined
  /** Bound on everything: our own readiness, resolving, and every instance tried. @default the service's dialTimeoutMs */
  readonly timeoutMs?: number | undefined
  /** Keep our side open when the peer ends its own, as in node:net. @default false */
  readonly allowHalfOpen?: boolean | undefined
  /**
   * ALPN names to offer, the one that is liked best first; the socket's `alpnProtocol` is what was agreed on. An upstream
   * that knows only others refuses. @default none
   */
  readonly alpnProtocols?: readonly string[] | undefined
}

/** Options of `resolve`. */
export interface ResolveOptions {
  readonly signal?: AbortSignal | undefined
  /** Bound on our own readiness and the look-up, in milliseconds. @default the service's dialTimeoutMs */
  readonly timeoutMs?: number | undefined
}

/** Options of `forward`. Either a port, or the path of a unix socket. */
export interface ForwardOptions {
  /** 0 lets the system choose. */
  readonly port?: number | undefined
  /** @default 127.0.0.1: whoever reaches it speaks as this service */
  readonly host?: string | undefined
  /** A unix socket, in place of port and host; only this user can connect to it. */
  readonly path?: string | undefined
  /** Ends the wait for our first certificate, which comes before listening. */
  readonly signal?: AbortSignal | undefined
  /** How long to wait for our first certificate, in milliseconds; `Infinity` for ever. @default 10000 */
  readonly timeoutMs?: number | undefined
  /** Bound on each connection's dial, in milliseconds. @default the service's dialTimeoutMs */
  readonly dialTimeoutMs?: number | undefined
  /** Cuts a connection on which no byte has moved for so long, in milliseconds. @default never */
  readonly idleTimeoutMs?: number | undefined
}

/** Options of `listen` and `serve`. Either a port, or the path of a unix socket. */
export interface ListenOptions {
  /** 0 lets the system choose. */
  readonly port?: number | undefined
  /** @default every address of the machine: the listener is there to be reached */
  readonly host?: string | undefined
  /** A unix socket, in place of port and host. */
  readonly path?: string | undefined
  /** Ends the wait for our first certificate, which comes before listening. */
  readonly signal?: AbortSignal | undefined
  /** How long to wait for our first certificate, in milliseconds; `Infinity` for ever. @default 10000 */
  readonly timeoutMs?: number | undefined
  /** @default the service's */
  readonly handshakeTimeoutMs?: number | undefined
  /** Keep our side open when the peer ends its own, as in node:net. @default false */
  readonly allowHalfOpen?: boolean | undefined
  /** ALPN names to offer. A client that offers only others is refused. @default none; for HTTP/2 servers its own */
  readonly alpnProtocols?: readonly string[] | undefined
  /** Whether open connections end when their peer may no longer connect. @default true */
  readonly revoke?: boolean | undefined
  /**
   * `certificate`: a connection ends when the certificate expires that its peer proved itself by. Peers have new ones
   * long before, and connect again with them. @default a connection may outlive it
   */
  readonly maxPeerAge?: 'certificate' | undefined
  /** How many connections may be with the handler; others are refused. @default any number */
  readonly maxConnections?: number | undefined
  /**
   * How many connections may be in their handshake. One more ends the one that began first, so that those who never
   * finish keep nobody out. Connections to a unix socket are not counted. @default 512
   */
  readonly maxHandshakes?: number | undefined
}

/** @throws OptionError */
export function serviceSettings(given: ServiceOptions = {}): ServiceSettings {
  const options = expectObject('options', given) as ServiceOptions
  expectKeys('options', options, [
    'agent',
    'authorize',
    'staleIntentionsMs',
    'dialTimeoutMs',
    'handshakeTimeoutMs',
    'drainTimeoutMs',
    'ecdhCurve',
    'minTlsVersion',
    'domain',
    'hosts',
    'crossServiceRedirects',
    'maxConnectionsPerHost',
  ])
  optional(expectFunction)('authorize', options.authorize)
  return {
    agent: agentSettings(options.agent),
    authorize: options.authorize ?? authorizeIntentions,
    staleIntentionsMs:
      optional(expectDurationOrNone)('staleIntentionsMs', options.staleIntentionsMs) ??
      DEFAULTS.staleIntentionsMs,
    dialTimeoutMs: duration('dialTimeoutMs', options.dialTimeoutMs, DEFAULTS.dialTimeoutMs),
    handshakeTimeoutMs: duration(
      'handshakeTimeoutMs',
      options.handshakeTimeoutMs,
      DEFAULTS.handshakeTimeoutMs,
    ),
    drainTimeoutMs:
      optional(expectDurationOrNone)('drainTimeoutMs', options.drainTimeoutMs) ?? DEFAULTS.drainTimeoutMs,
    tls: {
      ecdhCurve: optional(expectCurves)('ecdhCurve', options.ecdhCurve) ?? DEFAULT_ECDH_CURVE,
      minVersion: optional(expectTlsVersion)('minTlsVersion', options.minTlsVersion) ?? 'TLSv1.2',
    },
    hosts: {
      domain: optional(expectDomain)('domain', options.domain) ?? DEFAULTS.domain,
      hosts: optional(expectHosts)('hosts', options.hosts) ?? new Map(),
    },
    crossServiceRedirects:
      optional(expectBoolean)('crossServiceRedirects', options.crossServiceRedirects) ?? false,
    maxConnectionsPerHost:
      optional(expectCount)('maxConnectionsPerHost', options.maxConnectionsPerHost) ??
      DEFAULTS.maxConnectionsPerHost,
  }
}

/** @throws OptionError */
export function dialSettings(given: DialOptions | undefined, dialTimeoutMs: number): DialBounds {
  const options = expectObject('options', given ?? {}) as DialOptions
  const { signal, timeoutMs, allowHalfOpen, alpnProtocols } = options
  expectKeys('options', options, ['signal', 'timeoutMs', 'allowHalfOpen', 'alpnProtocols'])
  const isHalfOpen = optional(expectBoolean)('allowHalfOpen', allowHalfOpen) ?? false
  return {
    signal: optional(expectSignal)('signal', signal),
    timeoutMs: duration('timeoutMs', timeoutMs, dialTimeoutMs),
    socketSettings: {
      allowHalfOpen: isHalfOpen,
      expectsAnswer: !isHalfOpen,
      alpnProtocols: optional(expectAlpn)('alpnProtocols', alpnProtocols),
    },
  }
}

/** @throws OptionError */
export function resolveBounds(
  given: ResolveOptions | undefined,
  dialTimeoutMs: number,
): { signal: AbortSignal | undefined; timeoutMs: number } {
  const options = expectObject('options', given ?? {}) as ResolveOptions
  expectKeys('options', options, ['signal', 'timeoutMs'])
  return {
    signal: optional(expectSignal)('signal', options.signal),
    timeoutMs: duration('timeoutMs', options.timeoutMs, dialTimeoutMs),
  }
}

/** @throws OptionError */
export function forwardSettings(
  given: ForwardOptions,
  dialTimeoutMs: number,
): {
  address: ListenAddress
  signal: AbortSignal | undefined
  timeoutMs: number
  dialTimeoutMs: number
  idleTimeoutMs: number | undefined
} {
  const options = expectObject('options', given) as ForwardOptions
  expectKeys('options', options, [
    'port',
    'host',
    'path',
    'signal',
    'timeoutMs',
    'dialTimeoutMs',
    'idleTimeoutMs',
  ])
  const address = listenAddress(options)
  return {
    address: 'path' in address ? address : { ...address, host: address.host ?? DEFAULTS.forwardHost },
    signal: optional(expectSignal)('signal', options.signal),
    timeoutMs: optional(expectTimeout)('timeoutMs', options.timeoutMs) ?? DEFAULTS.readyTimeoutMs,
    dialTimeoutMs: duration('dialTimeoutMs', options.dialTimeoutMs, dialTimeoutMs),
    idleTimeoutMs: optional(expectDuration)('idleTimeoutMs', options.idleTimeoutMs),
  }
}

/** @throws OptionError */
export function listenSettings(
  given: ListenOptions,
  handshakeTimeoutMs: number,
): {
  address: ListenAddress
  signal: AbortSignal | undefined
  timeoutMs: number
  handshakeTimeoutMs: number
  allowHalfOpen: boolean
  alpnProtocols: readonly string[] | undefined
  revoke: boolean
  maxPeerAge: 'certificate' | undefined
  maxConnections: number
  maxHandshakes: number
} {
  const options = expectObject('options', given) as ListenOptions
  expectKeys('options', options, [
    'port',
    'host',
    'path',
    'signal',
    'timeoutMs',
    'handshakeTimeoutMs',
    'allowHalfOpen',
    'alpnProtocols',
    'revoke',
    'maxPeerAge',
    'maxConnections',
    'maxHandshakes',
  ])
  return {
    address: listenAddress(options),
    signal: optional(expectSignal)('signal', options.signal),
    timeoutMs: optional(expectTimeout)('timeoutMs', options.timeoutMs) ?? DEFAULTS.readyTimeoutMs,
    handshakeTimeoutMs: duration('handshakeTimeoutMs', options.handshakeTimeoutMs, handshakeTimeoutMs),
    allowHalfOpen: optional(expectBoolean)('allowHalfOpen', options.allowHalfOpen) ?? false,
    alpnProtocols: optional(expectAlpn)('alpnProtocols', options.alpnProtocols),
    revoke: optional(expectBoolean)('revoke', options.revoke) ?? true,
    maxPeerAge: optional(expectPeerAge)('maxPeerAge', options.maxPeerAge),
    maxConnections: optional(expectCount)('maxConnections', options.maxConnections) ?? Infinity,
    maxHandshakes: optional(expectCount)('maxHandshakes', options.maxHandshakes) ?? DEFAULTS.maxHandshakes,
  }
}

function expectTlsVersion(option: string, value: unknown): 'TLSv1.2' | 'TLSv1.3' {
  if (value === 'TLSv1.2' || value === 'TLSv1.3') return value
  throw new OptionError(option, "'TLSv1.2' or 'TLSv1.3'", describe(value))
}

/** OpenSSL validates the list of groups. */
function expectCurves(option: string, value: unknown): string {
  const ecdhCurve = expectString(option, value)
  try {
    createSecureContext({ ecdhCurve })
    return ecdhCurve
  } catch (cause) {
    const expected = 'groups that this OpenSSL knows, such as X25519:P-256'
    throw new OptionError(option, expected, describe(value), { cause })
  }
}

/** RFC 7301: 1 to 255 bytes each, and in all no more than a ClientHello can hold. */
function expectAlpn(option: string, value: unknown): readonly string[] {
  const names = expectStrings(option, value)
  if (names.length > 0 && names.length <= 64 && names.every((name) => Buffer.byteLength(name) <= 255))
    return names
  const found = names.length === 0 || names.length > 64 ? `${names.length}` : 'a longer one'
  throw new OptionError(option, '1 to 64 names of at most 255 bytes', found)
}

function expectPeerAge(option: string, value: unknown): 'certificate' {
  if (value !== 'certificate') throw new OptionError(option, "'certificate'", describe(value))
  return value
}

function listenAddress({ port, host, path }: Pick<ListenOptions, 'port' | 'host' | 'path'>): ListenAddress {
  if (path !== undefined) {
    if (port !== undefined || host !== undefined)
      throw new OptionError('path', 'a path alone', 'a path beside a port or host')
    return { path: expectString('path', path) }
  }
  if (port === undefined) throw new OptionError('port', 'a port, or the path of a unix socket', 'neither')
  return { port: expectPort('port', port), host: optional(expectString)('host', host) }
}
