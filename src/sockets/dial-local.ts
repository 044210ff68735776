import { type NetConnectOpts, type Socket, connect } from 'node:net'
import { confirmEnd } from '../base/node-internals.js'
import { withDeadline } from '../base/deadline.js'
import { ConnectError, withCause, toError } from '../base/errors.js'
import {
  DEFAULTS,
  expectDuration,
  expectKeys,
  expectObject,
  expectSignal,
  optional,
  readOptions,
  withDefault,
} from '../base/options/validate.js'
import { bufferedReads } from './buffered-reads.js'
import { TCP } from './tcp-options.js'

/** A TCP address of this machine, or the path of a Unix socket. */
export type LocalAddress = { readonly host: string; readonly port: number } | { readonly path: string }

/** Options of `dialLocal`. */
export interface DialLocalOptions {
  readonly signal?: AbortSignal | undefined
  /** @default 1000 */
  readonly timeoutMs?: number | undefined
}

/**
 * Connects to a local application without TLS. The socket is for `pump` only: it reads into a shared buffer and emits
 * no `data` events.
 * @throws ConnectError (ERR_CONNECT_APPLICATION), TimeoutError, AbortError, OptionError
 * @example
 * ```ts
 * const local = await dialLocal({ host: '127.0.0.1', port: localPort }, { timeoutMs: 500 })
 * local.destroy()
 * ```
 */
export async function dialLocal(address: LocalAddress, options: DialLocalOptions = {}): Promise<Socket> {
  const { signal, timeoutMs } = readOptions(options, {
    signal: optional(expectSignal),
    timeoutMs: withDefault(expectDuration, DEFAULTS.localConnectTimeoutMs),
  })
  // Reject a path beside a host or port, which would have no effect.
  expectKeys('address', expectObject('address', address), 'path' in address ? ['path'] : ['host', 'port'])
  const where = 'path' in address ? address.path : `${address.host}:${address.port}`
  const { onread, bind } = bufferedReads()
  return withDeadline(
    `connect to ${where}`,
    { signal, timeoutMs },
    (within) =>
      new Promise<Socket>((resolve, reject) => {
        const to: NetConnectOpts = { ...TCP, ...address, allowHalfOpen: true, onread }
        const socket = connect(to)
        bind(socket)
        confirmEnd(socket)
        const fail = (cause: Error): void => {
          settle()
          // An error event after this point must not end the process.
          socket.on('error', () => undefined)
          socket.destroy()
          const message = `cannot connect to the application at ${where}${withCause(cause)}`
          reject(new ConnectError('ERR_CONNECT_APPLICATION', message, { cause }))
        }
        const onConnect = (): void => {
          settle()
          resolve(socket)
        }
        const onAbort = (): void => {
          fail(toError(within.reason))
        }
        const settle = (): void => {
          socket.off('connect', onConnect).off('error', fail)
          within.removeEventListener('abort', onAbort)
        }
        socket.on('connect', onConnect).on('error', fail)
        within.addEventListener('abort', onAbort, { once: true })
      }),
    (late) => late.destroy(),
  )
}
