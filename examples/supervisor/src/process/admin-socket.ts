import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
import { join } from 'node:path'

/** `sun_path` of unix(7) without its terminator, and room for `.` and a process id. */
const MAX_PREFIX_BYTES = 107 - 8

/**
 * Where a proxy serves its admin pages: a path to which it appends `.` and its process id. An id may be longer than the
 * path of a unix socket, so the path holds its hash.
 */
export function adminSocketPrefix(folder: string, proxyId: string): string | undefined {
  const hash = createHash('sha256').update(proxyId).digest('hex').slice(0, 16)
  const prefix = join(folder, `${hash}.admin`)
  return Buffer.byteLength(prefix) > MAX_PREFIX_BYTES ? undefined : prefix
}

/** Removes the socket of a process that was killed. */
export function removeAdminSocket(prefix: string | undefined, pid: number | undefined): void {
  if (prefix !== undefined && pid !== undefined) rmSync(`${prefix}.${pid}`, { force: true })
}
