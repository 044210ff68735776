import { once } from 'node:events'
import type { Server } from 'node:net'
import { ConnectError, withCause } from '../base/errors.js'

/** A port and host, or the path of a Unix socket. */
export type ListenAddress =
  { readonly port: number; readonly host?: string | undefined } | { readonly path: string }

/**
 * Makes a server listen, and waits until it does.
 * @param closed - resolves when the server is closed, which ends the wait
 * @throws ConnectError with ERR_CONNECT_LISTEN
 */
export async function bindServer(
  server: Server,
  address: ListenAddress,
  closed: Promise<unknown>,
): Promise<void> {
  const ended = closed.then(() => {
    throw new Error('the server was closed')
  })
  ended.catch(() => undefined)
  try {
    server.listen({ ...address })
    await Promise.race([once(server, 'listening'), ended])
  } catch (cause) {
    const where = 'path' in address ? address.path : `${address.host ?? 'any address'}, port ${address.port}`
    const isTaken = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE'
    const advice = isTaken ? '; stop the program that listens there, or use another address' : ''
    throw new ConnectError('ERR_CONNECT_LISTEN', `cannot listen on ${where}${withCause(cause)}${advice}`, {
      cause,
    })
  }
}
