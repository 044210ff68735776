import { READY_CHECKS } from '../../base/options/ready-options.js'
import {
  DEFAULTS,
  expectBoolean,
  expectDuration,
  expectSignal,
  optional,
  readOptions,
  withDefault,
} from '../../base/options/validate.js'
import type { ListenAddress } from '../../sockets/bind-server.js'
import type { DialBounds } from '../../transport/outbound/dial.js'
import { ADDRESS_CHECKS, expectAlpn, listenAddress } from './listen-options.js'

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

/** @throws OptionError */
export function dialSettings(given: DialOptions | undefined, dialTimeoutMs: number): DialBounds {
  const { signal, timeoutMs, allowHalfOpen, alpnProtocols } = readOptions(given ?? {}, {
    signal: optional(expectSignal),
    timeoutMs: withDefault(expectDuration, dialTimeoutMs),
    allowHalfOpen: withDefault(expectBoolean, false),
    alpnProtocols: optional(expectAlpn),
  })
  return {
    signal,
    timeoutMs,
    socketSettings: { allowHalfOpen, expectsAnswer: !allowHalfOpen, alpnProtocols },
  }
}

/** @throws OptionError */
export function resolveBounds(
  given: ResolveOptions | undefined,
  dialTimeoutMs: number,
): { signal: AbortSignal | undefined; timeoutMs: number } {
  return readOptions(given ?? {}, {
    signal: optional(expectSignal),
    timeoutMs: withDefault(expectDuration, dialTimeoutMs),
  })
}

export interface ForwardSettings {
  readonly address: ListenAddress
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number
  readonly dialTimeoutMs: number
  readonly idleTimeoutMs: number | undefined
}

/** @throws OptionError */
export function forwardSettings(given: ForwardOptions, dialTimeoutMs: number): ForwardSettings {
  const { port, host, path, ...settings } = readOptions(given, {
    ...ADDRESS_CHECKS,
    ...READY_CHECKS,
    dialTimeoutMs: withDefault(expectDuration, dialTimeoutMs),
    idleTimeoutMs: optional(expectDuration),
  })
  const address = listenAddress({ port, host, path })
  return {
    ...settings,
    address: 'path' in address ? address : { ...address, host: host ?? DEFAULTS.forwardHost },
  }
}
