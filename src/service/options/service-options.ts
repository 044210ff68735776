import { DEFAULT_ECDH_CURVE, createSecureContext } from 'node:tls'
import { type HostSettings, expectDomain, expectHosts } from '../../http/mesh-url.js'
import { type AgentOptions } from '../../agent/options.js'
import { type AgentSettings, expectAgent } from '../../agent/settings.js'
import type { Authorizer } from '../../authorize/authorizer.js'
import { authorizeIntentions } from '../../authorize/authorizers.js'
import { OptionError } from '../../base/errors.js'
import {
  DEFAULTS,
  describe,
  expectBoolean,
  expectCount,
  expectDuration,
  expectDurationOrNone,
  expectFunction,
  expectString,
  readOptions,
  withDefault,
} from '../../base/options/validate.js'
import type { Upstream } from '../../resolve/upstream.js'
import type { TlsSettings } from '../../identity/identity-store.js'

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
  /**
   * Whether many connections between two services share one session, which saves a handshake for each, if both ends are of
   * this library and have this option. Every connection is authorized, counted, and closed by itself. @default false
   */
  readonly mux?: boolean | undefined
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
  readonly mux: boolean
}

/** @throws OptionError */
export function serviceSettings(given: ServiceOptions = {}): ServiceSettings {
  const { ecdhCurve, minTlsVersion, domain, hosts, ...options } = readOptions(given, {
    agent: expectAgent,
    authorize: withDefault(expectAuthorizer, authorizeIntentions),
    staleIntentionsMs: withDefault(expectDurationOrNone, DEFAULTS.staleIntentionsMs),
    dialTimeoutMs: withDefault(expectDuration, DEFAULTS.dialTimeoutMs),
    handshakeTimeoutMs: withDefault(expectDuration, DEFAULTS.handshakeTimeoutMs),
    drainTimeoutMs: withDefault(expectDurationOrNone, DEFAULTS.drainTimeoutMs),
    ecdhCurve: withDefault(expectCurves, DEFAULT_ECDH_CURVE),
    minTlsVersion: withDefault(expectTlsVersion, 'TLSv1.2'),
    domain: withDefault<string>(expectDomain, DEFAULTS.domain),
    hosts: withDefault(expectHosts, new Map()),
    crossServiceRedirects: withDefault(expectBoolean, false),
    maxConnectionsPerHost: withDefault(expectCount, DEFAULTS.maxConnectionsPerHost),
    mux: withDefault(expectBoolean, false),
  })
  return { ...options, tls: { ecdhCurve, minVersion: minTlsVersion }, hosts: { domain, hosts } }
}

function expectAuthorizer(option: string, value: unknown): Authorizer {
  expectFunction(option, value)
  return value as Authorizer
}

function expectTlsVersion(option: string, value: unknown): 'TLSv1.2' | 'TLSv1.3' {
  if (value === 'TLSv1.2' || value === 'TLSv1.3') return value
  throw new OptionError(option, "'TLSv1.2' or 'TLSv1.3'", describe(value))
}

/** Names of groups. OpenSSL 3.5 also has signs before a name, by which an unknown group is ignored. */
const GROUPS = /^[a-z0-9][\w.-]*(?::[a-z0-9][\w.-]*)*$/i

/** OpenSSL validates the names of the groups. */
function expectCurves(option: string, value: unknown): string {
  const ecdhCurve = expectString(option, value)
  const expected = 'groups that this OpenSSL knows, such as X25519:P-256'
  if (!GROUPS.test(ecdhCurve)) throw new OptionError(option, expected, describe(value))
  try {
    createSecureContext({ ecdhCurve })
    return ecdhCurve
  } catch (cause) {
    throw new OptionError(option, expected, describe(value), { cause })
  }
}
