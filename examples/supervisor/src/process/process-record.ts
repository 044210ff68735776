import { join } from 'node:path'
import { type StateFolder, fileName } from '../state/folder.js'
import { removePidFile, writePidFile } from '../state/pid-file.js'
import type { SavedProcess } from '../state/snapshot.js'
import { adminSocketPrefix, removeAdminSocket } from './admin-socket.js'
import type { ProcessId } from './identity.js'
import { type Launch, fingerprint } from './launch.js'

/** Records the process of one proxy: the entry for the state file, the pid file, and the admin socket. */
export class ProcessRecord {
  readonly #proxyId: string
  readonly #folder: StateFolder | undefined
  #saved: SavedProcess | undefined

  /** @param folder - undefined with `-dev`: no files are written */
  constructor(proxyId: string, folder: StateFolder | undefined) {
    this.#proxyId = proxyId
    this.#folder = folder
  }

  /** The entry for the state file; undefined if there is no process. */
  get saved(): SavedProcess | undefined {
    return this.#saved
  }

  /** Path prefix of the admin socket. Undefined with `-dev`, and if the path is too long for a Unix socket. */
  get adminSocketPrefix(): string | undefined {
    return this.#folder === undefined ? undefined : adminSocketPrefix(this.#folder.pids, this.#proxyId)
  }

  /** Records a process of an earlier supervisor. */
  adopted(saved: SavedProcess, id: ProcessId): void {
    this.#saved = { ...saved, id }
  }

  /** Records that a start will be attempted. */
  launching(launch: Launch, launchId: string): void {
    this.#saved = savedProcess(launch, launchId, undefined)
  }

  /**
   * Records a started process and writes its pid file.
   * @throws the system's error
   */
  started(launch: Launch, launchId: string, id: ProcessId): void {
    this.#saved = savedProcess(launch, launchId, id)
    if (this.#folder !== undefined) writePidFile(this.#pidFile(this.#folder), id.pid)
  }

  /**
   * Removes the record and the files of an exited process.
   * @throws the system's error
   */
  clear(): void {
    const pid = this.#saved?.id?.pid
    this.#saved = undefined
    if (this.#folder === undefined) return
    removeAdminSocket(this.adminSocketPrefix, pid)
    removePidFile(this.#pidFile(this.#folder))
  }

  #pidFile({ pids }: StateFolder): string {
    return join(pids, `${fileName(this.#proxyId)}.pid`)
  }
}

function savedProcess(launch: Launch, launchId: string, id: ProcessId | undefined): SavedProcess {
  const { path, args, directory } = launch
  return { launchId, fingerprint: fingerprint(launch), id, path, args, directory }
}
