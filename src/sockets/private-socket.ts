import { chmod } from 'node:fs/promises'
import type { Server } from 'node:net'
import { isMainThread } from 'node:worker_threads'
import { openServer } from './bind-server.js'

/**
 * Makes a server listen on a unix socket that is for this user alone. Nobody else may connect in between: it is made
 * with the rights that it is to have.
 * @throws ConnectError with ERR_CONNECT_LISTEN
 */
export async function openPrivately(server: Server, path: string, closed: Promise<unknown>): Promise<void> {
  // Node binds before `listen` returns. In a worker thread the mask cannot be set; the rights follow at once then.
  const mask = isMainThread ? process.umask(0o077) : undefined
  const opening = openServer(server, { path }, closed)
  if (mask !== undefined) process.umask(mask)
  await opening
  await chmod(path, 0o600)
}
