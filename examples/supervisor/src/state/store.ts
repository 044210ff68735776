import { constants } from 'node:fs'
import { type FileHandle, open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { EMPTY_STATE, type SavedState, SnapshotError, formatSnapshot, parseSnapshot } from './snapshot.js'

/** The steps of a write, each of which may be the last. */
export interface FileSteps {
  open(path: string): Promise<FileHandle>
  write(file: FileHandle, text: string): Promise<void>
  sync(file: FileHandle): Promise<void>
  rename(from: string, to: string): Promise<void>
  syncFolder(path: string): Promise<void>
}

/** As the system does them. */
export const STEPS: FileSteps = {
  // Nothing is followed that somebody may have put there.
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

/** Keeps the state in a file: the last whole one is there whenever a process, or the machine, ends. */
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
   * An empty state when there is no file yet.
   * @throws Error, which says what to do
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
        `${this.#path}: ${cause.message}. Nothing has been changed, and proxies that run go on. Use the supervisor that wrote it, or put back a copy; to start without it, move it away: then end the processes in ${dirname(this.#path)}/pids yourself, for they will not be found again`,
        { cause },
      )
    }
  }

  /**
   * Resolves when this state, or a later one, is on the disk.
   * @throws the system's error
   */
  async save(state: SavedState): Promise<void> {
    this.#wanted = formatSnapshot(state)
    for (;;) {
      if (this.#writing !== undefined) {
        // What is asked for while one is written is written next, and once; how the other ends is for who asked for it.
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
    // What is on the disk is not known until all steps are done.
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
