import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
import { join } from 'node:path'

/** `sun_path` of unix(7) without its terminator, minus room for `.` and a process id. */
const MAX_PREFIX_BYTES = 107 - 8

/**
 * Returns the path prefix of a proxy's admin socket, to which the proxy appends `.` and its process id. The path
 * contains a hash, because an id may exceed the length limit of a Unix socket path.
 * @returns undefined if even the hashed path is too long
 */
export function adminSocketPrefix(folder: string, proxyId: string): string | undefined {
  const hash = createHash('sha256').update(proxyId).digest('hex').slice(0, 16)
  const prefix = join(folder, `${hash}.admin`)
  return Buffer.byteLength(prefix) > MAX_PREFIX_BYTES ? undefined : prefix
}

/** Removes the socket that a killed process left behind. */
export function removeAdminSocket(prefix: string | undefined, pid: number | undefined): void {
  if (prefix !== undefined && pid !== undefined) rmSync(`${prefix}.${pid}`, { force: true })
}
