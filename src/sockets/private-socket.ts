import { chmod } from 'node:fs/promises'
import type { Server } from 'node:net'
import { isMainThread } from 'node:worker_threads'
import { bindServer } from './bind-server.js'

/**
 * Makes a server listen on a Unix socket that only this user can connect to. The socket is created with these
 * permissions, so that there is no moment in which others can connect.
 * @throws ConnectError with ERR_CONNECT_LISTEN
 */
export async function bindPrivately(server: Server, path: string, closed: Promise<unknown>): Promise<void> {
  // Node.js binds before `listen` returns. A worker thread cannot set the umask: there, chmod follows immediately.
  const mask = isMainThread ? process.umask(0o077) : undefined
  const opening = bindServer(server, { path }, closed)
  if (mask !== undefined) process.umask(mask)
  await opening
  await chmod(path, 0o600)
}
