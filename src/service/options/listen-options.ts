import { OptionError } from '../../base/errors.js'
import { READY_CHECKS } from '../../base/options/ready-options.js'
import {
  type Check,
  DEFAULTS,
  describe,
  expectBoolean,
  expectCount,
  expectDuration,
  expectFunction,
  expectPort,
  expectString,
  expectStrings,
  optional,
  readOptions,
  withDefault,
} from '../../base/options/validate.js'
import type { RequestOptions } from '../../adapters/requests/gate-options.js'
import type { ListenAddress } from '../../sockets/bind-server.js'
import type { ConnectionHandler } from '../../transport/inbound/admission.js'

/** Options of `listen`, `serve`, and `secure`. */
export interface SecureOptions {
  /** Aborts the wait for the first certificate. */
  readonly signal?: AbortSignal | undefined
  /** How long to wait for the first certificate, in milliseconds; `Infinity` for no limit. @default 10000 */
  readonly timeoutMs?: number | undefined
  /** @default the `handshakeTimeoutMs` of the service */
  readonly handshakeTimeoutMs?: number | undefined
  /**
   * Whether our side stays open when the peer ends its side, as in node:net. No effect on a served or secured server, which
   * has its own setting, except for its `passthrough`. @default false
   */
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

/** Options of `listen` and `serve`: either a port or the path of a Unix socket. */
export interface ListenOptions extends SecureOptions {
  /** 0 for a free port. */
  readonly port?: number | undefined
  /** @default all addresses of the host */
  readonly host?: string | undefined
  /** A Unix socket instead of port and host. */
  readonly path?: string | undefined
}

/** Options of `serve`. */
export interface ServeOptions extends ListenOptions, RequestOptions {
  /**
   * Receives the connections of peers that may send any request, as the handler of `listen` does: for a proxy, which can
   * forward their bytes without reading them. The server receives only the connections of peers whose intention has
   * permissions. When permissions begin to apply to a peer, its passed connections are closed. For a server whose requests
   * are decided.
   * @default the server receives all connections
   */
  readonly passthrough?: ConnectionHandler | undefined
}

/** Options of `secure`. */
export interface SecureServerOptions extends SecureOptions, RequestOptions {}

export interface ListenSettings {
  /** Undefined for a server that listens itself. */
  readonly address: ListenAddress | undefined
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number
  readonly handshakeTimeoutMs: number
  readonly allowHalfOpen: boolean
  readonly alpnProtocols: readonly string[] | undefined
  readonly revoke: boolean
  readonly maxPeerAge: 'certificate' | undefined
  readonly maxConnections: number
  readonly maxHandshakes: number
}

/** The checks of an address to listen on. */
export const ADDRESS_CHECKS: {
  readonly port: Check<number | undefined>
  readonly host: Check<string | undefined>
  readonly path: Check<string | undefined>
} = { port: optional(expectPort), host: optional(expectString), path: optional(expectString) }

/** The settings of a listener for a server of the application. */
export interface ServeSettings extends ListenSettings {
  readonly strictPaths: boolean
  readonly forwardClientCert: boolean
  readonly passthrough?: ConnectionHandler | undefined
}

const REQUEST_CHECKS = {
  strictPaths: withDefault(expectBoolean, false),
  forwardClientCert: withDefault(expectBoolean, false),
}

/** @throws OptionError */
export function serveSettings(given: ServeOptions, handshakeTimeoutMs: number): ServeSettings {
  const checks = {
    ...ADDRESS_CHECKS,
    ...secureChecks(handshakeTimeoutMs),
    ...REQUEST_CHECKS,
    passthrough: optional(expectHandler),
  }
  return withAddress(readOptions(given, checks))
}

/** @throws OptionError */
export function listenSettings(given: ListenOptions, handshakeTimeoutMs: number): ListenSettings {
  return withAddress(readOptions(given, { ...ADDRESS_CHECKS, ...secureChecks(handshakeTimeoutMs) }))
}

function withAddress<
  T extends { port: number | undefined; host: string | undefined; path: string | undefined },
>({
  port,
  host,
  path,
  ...settings
}: T): Omit<T, 'port' | 'host' | 'path'> & { readonly address: ListenAddress } {
  return { ...settings, address: listenAddress({ port, host, path }) }
}

/** @throws OptionError */
export function secureSettings(
  given: SecureServerOptions | undefined,
  handshakeTimeoutMs: number,
): ServeSettings {
  const checks = { ...secureChecks(handshakeTimeoutMs), ...REQUEST_CHECKS }
  return { ...readOptions(given ?? {}, checks), address: undefined }
}

function secureChecks(handshakeTimeoutMs: number) {
  return {
    ...READY_CHECKS,
    handshakeTimeoutMs: withDefault(expectDuration, handshakeTimeoutMs),
    allowHalfOpen: withDefault(expectBoolean, false),
    alpnProtocols: optional(expectAlpn),
    revoke: withDefault(expectBoolean, true),
    maxPeerAge: optional(expectPeerAge),
    maxConnections: withDefault(expectCount, Infinity),
    maxHandshakes: withDefault<number>(expectCount, DEFAULTS.maxHandshakes),
  }
}

/** RFC 7301: 1 to 255 bytes each, and in all no more than a ClientHello can hold. */
export function expectAlpn(option: string, value: unknown): readonly string[] {
  const names = expectStrings(option, value)
  if (names.length > 0 && names.length <= 64 && names.every((name) => Buffer.byteLength(name) <= 255))
    return names
  const found = names.length === 0 || names.length > 64 ? `${names.length}` : 'a longer one'
  throw new OptionError(option, '1 to 64 names of at most 255 bytes', found)
}

function expectHandler(option: string, value: unknown): ConnectionHandler {
  expectFunction(option, value)
  return value as ConnectionHandler
}

function expectPeerAge(option: string, value: unknown): 'certificate' {
  if (value !== 'certificate') throw new OptionError(option, "'certificate'", describe(value))
  return value
}

/** @throws OptionError unless there is either a port or a path */
export function listenAddress({
  port,
  host,
  path,
}: Pick<ListenOptions, 'port' | 'host' | 'path'>): ListenAddress {
  if (path !== undefined) {
    if (port === undefined && host === undefined) return { path }
    throw new OptionError('path', 'a path alone', 'a path beside a port or host')
  }
  if (port === undefined) throw new OptionError('port', 'a port, or the path of a unix socket', 'neither')
  return { port, host }
}
