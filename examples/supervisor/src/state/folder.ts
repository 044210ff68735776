import { createHash } from 'node:crypto'
import { accessSync, chmodSync, constants, existsSync, lstatSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'

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
      // What another user can rename, he can put his own in its place.
      if (own === 0) expectRoots(dirname(folder.path))
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

/** Whoever may write to a folder above ours could put another in our place. */
function expectRoots(path: string): void {
  const { uid, mode } = statSync(path)
  const isShared = (mode & WRITABLE_BY_OTHERS) !== 0 && (mode & STICKY) === 0
  if (uid !== 0 || isShared) throw new Error(`${path} can be changed by others than root`)
  if (dirname(path) !== path) expectRoots(dirname(path))
}

const MAX_NAME_BYTES = 200

/** A name for a file that belongs to a proxy: an id may have characters, and a length, that no file can have. */
export function fileName(proxyId: string): string {
  const name = encodeURIComponent(proxyId)
  if (name.length <= MAX_NAME_BYTES) return name
  const hash = createHash('sha256').update(proxyId).digest('hex').slice(0, 16)
  return `${name.slice(0, MAX_NAME_BYTES - 17)}-${hash}`
}
