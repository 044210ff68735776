import { createHash } from 'node:crypto'
import { accessSync, chmodSync, constants, existsSync, lstatSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathSteps } from '../path-steps.js'

/** Where everything of the supervisor is. All of it is for its user alone. */
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
 * Makes what is missing, and takes from others what they could read.
 * @throws Error, which says what is wrong with the folder
 */
export function createFolder(folder: StateFolder): void {
  const own = process.getuid?.() ?? 0
  for (const path of [folder.path, folder.pids, folder.logs]) {
    try {
      makeFolder(path)
      const found = lstatSync(path)
      if (found.isSymbolicLink()) throw new Error('it is a link')
      if (found.uid !== own) throw new Error('it belongs to another user')
      expectOwnPath(dirname(folder.path), own)
      chmodSync(path, 0o700)
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException
      throw new Error(
        `data_dir: ${path} cannot be used (${code ?? message}): expected a folder that this user may write to, and nobody else; -data-dir names another`,
        { cause },
      )
    }
  }
}

function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
  } catch (error) {
    // Node.js says ENOENT when it may not make a folder in one that is read-only.
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
 * Refuses a path on which another user can replace a folder or a link. OpenSSH has the same rule for its key files
 * (StrictModes): every folder belongs to root or to this user, and only its owner may write to it. A folder with the
 * sticky bit, such as /tmp, may be shared: only the owner of an entry may replace that.
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

/** A name for a file that belongs to a proxy: an id may have characters, and a length, that no file can have. */
export function fileName(proxyId: string): string {
  const name = encodeURIComponent(proxyId)
  if (name.length <= MAX_NAME_BYTES) return name
  const hash = createHash('sha256').update(proxyId).digest('hex').slice(0, 16)
  return `${name.slice(0, MAX_NAME_BYTES - 17)}-${hash}`
}
