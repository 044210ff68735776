import { type Socket, connect } from 'node:net'
import type { LocalAddress } from 'consul-connect'

/**
 * Connects to the application.
 * @throws the system's error; Error when it takes longer than `timeoutMs`; the signal's reason
 */
export function connectApplication(
  address: LocalAddress,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...address, allowHalfOpen: true, noDelay: true, keepAlive: true })
    const fail = (error: Error): void => {
      settle()
      // A late error has nobody left to tell.
      socket.on('error', () => undefined)
      socket.destroy()
      reject(error)
    }
    const onConnect = (): void => {
      settle()
      resolve(socket)
    }
    const onAbort = (): void => {
      fail(signal.reason instanceof Error ? signal.reason : new Error('the connection is gone'))
    }
    const timer = setTimeout(() => {
      fail(new Error(`the application did not accept the connection within ${timeoutMs} ms`))
    }, timeoutMs)
    const settle = (): void => {
      clearTimeout(timer)
      socket.off('connect', onConnect).off('error', fail)
      signal.removeEventListener('abort', onAbort)
    }
    socket.on('connect', onConnect).on('error', fail)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}

/** `host:port`, `[ipv6]:port` or a path. */
export function addressOf(address: LocalAddress): string {
  if ('path' in address) return address.path
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`
}
