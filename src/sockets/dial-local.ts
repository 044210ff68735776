import { type NetConnectOpts, type Socket, connect } from 'node:net'
import { confirmEnd } from '../base/node-internals.js'
import { withDeadline } from '../base/deadline.js'
import { ConnectError, withCause, toError } from '../base/errors.js'
import { DEFAULTS, duration, expectKeys, expectObject, expectSignal, optional } from '../base/validate.js'
import { bufferedReads } from './buffered-reads.js'
import { TCP } from './tcp-options.js'

/** A TCP address of this machine, or the path of a unix socket. */
export type LocalAddress = { readonly host: string; readonly port: number } | { readonly path: string }

/** Options of `dialLocal`. */
export interface DialLocalOptions {
  readonly signal?: AbortSignal | undefined
  /** @default 1000 */
  readonly timeoutMs?: number | undefined
}

/**
 * Connects to an application without TLS, for a `pump` and nothing else: what it reads goes there by the fastest way,
 * and no `data` is emitted.
 * @throws ConnectError (ERR_CONNECT_APPLICATION), TimeoutError, AbortError, OptionError
 * @example
 * ```ts
 * const local = await dialLocal({ host: '127.0.0.1', port: localPort }, { timeoutMs: 500 })
 * local.destroy()
 * ```
 */
export async function dialLocal(address: LocalAddress, options: DialLocalOptions = {}): Promise<Socket> {
  expectKeys('options', expectObject('options', options), ['signal', 'timeoutMs'])
  // Either, so that none of it is without effect.
  expectKeys('address', expectObject('address', address), 'path' in address ? ['path'] : ['host', 'port'])
  const signal = optional(expectSignal)('signal', options.signal)
  const timeoutMs = duration('timeoutMs', options.timeoutMs, DEFAULTS.localConnectTimeoutMs)
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
          // A late error has nobody left to tell.
          socket.on('error', () => undefined)
          socket.destroy()
          const message = `the application at ${where} cannot be reached${withCause(cause)}`
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
