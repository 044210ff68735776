import { createHash } from 'node:crypto'
import { accessSync, chmodSync, constants, existsSync, lstatSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathSteps } from '../path-steps.js'

/** Paths of the files of the supervisor, all accessible to its user only. */
export interface StateFolder {
  readonly path: string
  readonly snapshot: string
  readonly lock: string
  readonly controlSocket: string
  readonly pids: string
  readonly logs: string
}

export function stateFolder(dataDir: string): StateFolder {
  const path = join(dataDir, 'proxy')
  return {
    path,
    snapshot: join(path, 'snapshot.json'),
    lock: join(path, 'supervisor.lock'),
    controlSocket: join(path, 'control.sock'),
    pids: join(path, 'pids'),
    logs: join(path, 'logs'),
  }
}

/**
 * Creates missing directories and sets their mode to 0700.
 * @throws Error when a directory is not safe to use
 */
export function createFolder(folder: StateFolder): void {
  const own = process.getuid?.() ?? 0
  for (const path of [folder.path, folder.pids, folder.logs]) {
    try {
      makeFolder(path)
      const found = lstatSync(path)
      if (found.isSymbolicLink()) throw new Error('symbolic link')
      if (found.uid !== own) throw new Error('owned by another user')
      expectOwnPath(dirname(folder.path), own)
      chmodSync(path, 0o700)
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException
      throw new Error(
        `data_dir: ${path} cannot be used (${code ?? message}): expected a directory that only this user can write to; set another one with -data-dir`,
        { cause },
      )
    }
  }
}

function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
  } catch (error) {
    // Node.js reports ENOENT for a new directory in a read-only one. Look for the actual error.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') accessSync(existing(path), constants.W_OK)
    throw error
  }
}

function existing(path: string): string {
  return existsSync(path) ? path : existing(dirname(path))
}

const WRITABLE_BY_OTHERS = 0o022
const STICKY = 0o1000

/**
 * Rejects a path on which another user could replace a directory or a link. As with OpenSSH's StrictModes, every
 * directory must belong to root or this user, and only its owner may write to it. A directory with the sticky bit,
 * such as /tmp, may be shared: there, only the owner of an entry can replace it.
 */
function expectOwnPath(path: string, own: number): void {
  const root = { path: '/', stats: lstatSync('/') }
  for (const { path: found, stats } of [root, ...pathSteps(path)]) {
    const { uid, mode } = stats
    const isShared = stats.isDirectory() && (mode & WRITABLE_BY_OTHERS) !== 0 && (mode & STICKY) === 0
    if ((uid === 0 || uid === own) && !isShared) continue
    const users = own === 0 ? 'root' : 'root and this user'
    throw new Error(`${found} can be changed by users other than ${users}`)
  }
}

const MAX_NAME_BYTES = 200

/** Returns a file name for a proxy id, which may contain characters that file names cannot, or be too long. */
export function fileName(proxyId: string): string {
  const name = encodeURIComponent(proxyId)
  if (name.length <= MAX_NAME_BYTES) return name
  const hash = createHash('sha256').update(proxyId).digest('hex').slice(0, 16)
  return `${name.slice(0, MAX_NAME_BYTES - 17)}-${hash}`
}
