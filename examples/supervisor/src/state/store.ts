import { constants } from 'node:fs'
import { type FileHandle, open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { EMPTY_STATE, type SavedState, SnapshotError, formatSnapshot, parseSnapshot } from './snapshot.js'

/** File operations of a write. Tests inject failures here. */
export interface FileSteps {
  open(path: string): Promise<FileHandle>
  write(file: FileHandle, text: string): Promise<void>
  sync(file: FileHandle): Promise<void>
  rename(from: string, to: string): Promise<void>
  syncFolder(path: string): Promise<void>
}

/** The default operations, which use the file system. */
export const STEPS: FileSteps = {
  // O_NOFOLLOW: another user may have placed a link.
  open: (path) =>
    open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, 0o600),
  write: (file, text) => file.writeFile(text),
  sync: (file) => file.sync(),
  rename,
  syncFolder: async (path) => {
    const folder = await open(path, 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  },
}

/** Stores the state in a file. Writes are atomic: after a crash, the file holds the last complete state. */
export class StateFile {
  readonly #path: string
  readonly #steps: FileSteps
  #written: string | undefined
  #wanted: string | undefined
  #writing: Promise<void> | undefined

  constructor(path: string, steps: FileSteps = STEPS) {
    this.#path = path
    this.#steps = steps
  }

  /**
   * Reads the state; an empty one if there is no file.
   * @throws Error that says what to do
   */
  async load(): Promise<SavedState> {
    let text: string
    try {
      text = await read(this.#path)
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      if (code === 'ENOENT') return EMPTY_STATE
      throw new Error(`${this.#path} cannot be read (${code ?? 'unknown error'})`, { cause })
    }
    try {
      const state = parseSnapshot(text)
      this.#written = text
      return state
    } catch (cause) {
      if (!(cause instanceof SnapshotError)) throw cause
      throw new Error(
        `${this.#path}: ${cause.message}. Nothing was changed, and running proxies keep running. Use the supervisor version that wrote the file, or restore a backup. To start without the file, move it away and stop the processes listed in ${dirname(this.#path)}/pids yourself, because the new supervisor does not know them`,
        { cause },
      )
    }
  }

  /**
   * Writes the state. Resolves when this state, or a later one, is on disk.
   * @throws the system's error
   */
  async save(state: SavedState): Promise<void> {
    this.#wanted = formatSnapshot(state)
    for (;;) {
      if (this.#writing !== undefined) {
        // A write is in progress. Write only the latest state after it; its error is reported to its own caller.
        await this.#writing.catch(() => undefined)
      } else if (this.#wanted === this.#written) {
        return
      } else {
        this.#writing = this.#write(this.#wanted).finally(() => {
          this.#writing = undefined
        })
        await this.#writing
      }
    }
  }

  async #write(text: string): Promise<void> {
    // The content on disk is unknown until all steps have completed.
    this.#written = undefined
    const temporary = `${this.#path}.new`
    const file = await this.#steps.open(temporary)
    try {
      await this.#steps.write(file, text)
      await this.#steps.sync(file)
    } finally {
      await file.close()
    }
    await this.#steps.rename(temporary, this.#path)
    await this.#steps.syncFolder(dirname(this.#path))
    this.#written = text
  }
}

/** @throws the system's error; ELOOP for a link */
async function read(path: string): Promise<string> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    return await file.readFile('utf8')
  } finally {
    await file.close()
  }
}
