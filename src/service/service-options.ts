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
  optional,
} from '../base/validate.js'
import { readyBoundsOf } from '../base/ready-options.js'
import type { Upstream } from '../resolve/upstream.js'
import type { TlsSettings } from '../identity/identity-store.js'
import type { DialBounds } from '../transport/dial.js'
import type { ListenAddress } from '../sockets/bind-server.js'

/** Options of `connect.service`. */
export interface ServiceOptions {
  /** How to reach the Consul agent. @default the environment variables of Consul's clients */
  readonly agent?: AgentOptions | undefined
  /** Decides which peers may connect. @default authorizeIntentions */
  readonly authorize?: Authorizer | undefined
  /**
   * How long the last known intentions stay in use while the agent does not answer, in milliseconds. Afterwards all
   * peers are denied, and open connections are closed, unless the listener has `revoke: false`. 0 denies at once.
   * @default 600000
   */
  readonly staleIntentionsMs?: number | undefined
  /** Timeout of a `dial`, in milliseconds. @default 10000 */
  readonly dialTimeoutMs?: number | undefined
  /** Timeout of an inbound handshake, and again of its authorization, in milliseconds. @default 10000 */
  readonly handshakeTimeoutMs?: number | undefined
  /**
   * How long `close` waits for open connections before it cuts them, in milliseconds; 0 cuts at once. @default 10000
   */
  readonly drainTimeoutMs?: number | undefined
  /**
   * The groups for the key exchange, in the format of node:tls: names separated by colons, the preferred one first. A
   * connection to a peer that supports none of them fails. `X25519` alone is faster than the hybrid of X25519 and
   * ML-KEM that OpenSSL 3.5 (Node.js 24) prefers, but does not resist quantum computers.
   * @default the choice of node:tls
   */
  readonly ecdhCurve?: string | undefined
  /** The minimum TLS version. Consul's built-in proxy, Envoy, and the Go SDK support 1.3. @default TLSv1.2 */
  readonly minTlsVersion?: 'TLSv1.2' | 'TLSv1.3' | undefined
  /**
   * The DNS domain of Consul in hosts of URLs, for `fetch`, `dispatcher`, and `httpAgent`: the `domain` of the agent.
   * @default consul
   */
  readonly domain?: string | undefined
  /**
   * Additional hosts of URLs with their upstreams: for services whose name is not a host name, or for some instances of
   * a service. @default none
   */
  readonly hosts?: Readonly<Record<string, Upstream>> | undefined
  /**
   * Whether HTTP clients follow redirects from one service to another. The second request has the identity of this
   * service, so that a service could reach another one that it must not call. Redirects within one service are always
   * followed.
   * @default false
   */
  readonly crossServiceRedirects?: boolean | undefined
  /**
   * Upper bound on the connections to each host, for `fetch`, and the default for `dispatcher` and `httpAgent`. Further
   * requests wait for a connection. @default 50
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
  /**
   * Timeout of the whole dial, in milliseconds: certificate, resolver, and all attempts. @default the `dialTimeoutMs`
   * of the service
   */
  readonly timeoutMs?: number | undefined
  /** Whether our side stays open when the peer ends its side, as in node:net. @default false */
  readonly allowHalfOpen?: boolean | undefined
  /**
   * ALPN protocols to offer, the preferred one first; `alpnProtocol` of the socket is the negotiated one. An upstream
   * that supports only others rejects the connection. @default none
   */
  readonly alpnProtocols?: readonly string[] | undefined
}

/** Options of `resolve`. */
export interface ResolveOptions {
  readonly signal?: AbortSignal | undefined
  /**
   * Timeout of waiting for the certificate and of the lookup, in milliseconds. @default the `dialTimeoutMs` of the
   * service
   */
  readonly timeoutMs?: number | undefined
}

/** Options of `forward`: either a port or the path of a Unix socket. */
export interface ForwardOptions {
  /** 0 for a free port. */
  readonly port?: number | undefined
  /** @default 127.0.0.1, because every client has the identity of this service */
  readonly host?: string | undefined
  /** A Unix socket instead of port and host; only the user of this process can connect. */
  readonly path?: string | undefined
  /** Aborts the wait for the first certificate. */
  readonly signal?: AbortSignal | undefined
  /** How long to wait for the first certificate, in milliseconds; `Infinity` for no limit. @default 10000 */
  readonly timeoutMs?: number | undefined
  /** Timeout of the dial for each connection, in milliseconds. @default the `dialTimeoutMs` of the service */
  readonly dialTimeoutMs?: number | undefined
  /** Cuts a connection on which no byte has moved for this time, in milliseconds. @default never */
  readonly idleTimeoutMs?: number | undefined
}

/** Options of `listen` and `serve`: either a port or the path of a Unix socket. */
export interface ListenOptions {
  /** 0 for a free port. */
  readonly port?: number | undefined
  /** @default all addresses of the host */
  readonly host?: string | undefined
  /** A Unix socket instead of port and host. */
  readonly path?: string | undefined
  /** Aborts the wait for the first certificate. */
  readonly signal?: AbortSignal | undefined
  /** How long to wait for the first certificate, in milliseconds; `Infinity` for no limit. @default 10000 */
  readonly timeoutMs?: number | undefined
  /** @default the `handshakeTimeoutMs` of the service */
  readonly handshakeTimeoutMs?: number | undefined
  /** Whether our side stays open when the peer ends its side, as in node:net. @default false */
  readonly allowHalfOpen?: boolean | undefined
  /** Accepted ALPN protocols. A client that offers only others is rejected. @default none; those of an HTTP/2 server */
  readonly alpnProtocols?: readonly string[] | undefined
  /** Whether open connections are closed when their peer is no longer authorized. @default true */
  readonly revoke?: boolean | undefined
  /**
   * `certificate`: closes a connection when the certificate of its peer expires. Peers renew their certificates long
   * before, and reconnect with the new one. @default connections may outlive the certificate
   */
  readonly maxPeerAge?: 'certificate' | undefined
  /** Upper bound on open connections; others are rejected. @default no limit */
  readonly maxConnections?: number | undefined
  /**
   * Upper bound on pending handshakes. At the limit, the oldest handshake of the source address with the most
   * handshakes is destroyed, so that clients that never complete a handshake do not lock out others. Connections to a
   * Unix socket are not counted. @default 512
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
    ...readyBoundsOf(options),
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
    ...readyBoundsOf(options),
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
