import { readyBoundsOf } from '../base/ready-options.js'
import {
  DEFAULTS,
  duration,
  expectBoolean,
  expectDuration,
  expectKeys,
  expectObject,
  expectSignal,
  optional,
} from '../base/validate.js'
import type { ListenAddress } from '../sockets/bind-server.js'
import type { DialBounds } from '../transport/dial.js'
import { expectAlpn, listenAddress } from './listen-options.js'

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
