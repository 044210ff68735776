import { createHash } from 'node:crypto'
import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { type PathStep, pathSteps } from '../path-steps.js'
import { MAX_BYTES, configurationFiles, isConfigurationName } from './files.js'

/**
 * A reload starts 500 ms after the last change, and at most 5 s after the first. Consul coalesced changes in the same
 * way.
 */
const QUIET_MS = 500
const MAX_WAIT_MS = 5_000

/** Selects the file names to watch in a directory. */
type Names = (name: string) => boolean

/**
 * Calls back when the content of the configuration changes. Ignores other files in the same directories, such as
 * logs, and files that are rewritten with the same content.
 */
export class ConfigurationWatcher {
  readonly #paths: readonly string[]
  readonly #onChange: () => void
  #watchers: readonly FSWatcher[] = []
  #timer: NodeJS.Timeout | undefined
  #since: number | undefined
  #content: string

  /** @throws the system's error when a path does not exist */
  constructor(paths: readonly string[], onChange: () => void) {
    this.#paths = paths.map((path) => resolve(path))
    this.#onChange = onChange
    for (const path of this.#paths) statSync(path)
    this.#watch()
    this.#content = contentOf(this.#paths)
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const watcher of this.#watchers) watcher.close()
  }

  #watch(): void {
    for (const watcher of this.#watchers) watcher.close()
    this.#watchers = [...watchedNames(this.#paths)].flatMap(([folder, names]) => {
      try {
        const watcher = watch(folder, (_, name) => {
          // The operating system does not always report the name.
          if (name === null || names.some((accepts) => accepts(name))) this.#schedule()
        })
        watcher.on('error', () => {
          this.#schedule()
        })
        return watcher
      } catch {
        // The directory does not exist at the moment. An event in its parent directory announces its return.
        return []
      }
    })
  }

  #schedule(): void {
    const now = performance.now()
    this.#since ??= now
    clearTimeout(this.#timer)
    const waitMs = Math.max(0, Math.min(QUIET_MS, this.#since + MAX_WAIT_MS - now))
    this.#timer = setTimeout(() => {
      this.#since = undefined
      // A directory may have been replaced by another of the same name. Watch before reading, so that no change is
      // missed.
      this.#watch()
      const content = contentOf(this.#paths)
      if (content === this.#content) return
      this.#content = content
      this.#onChange()
    }, waitMs)
  }
}

/**
 * Lists the watched names by directory: the configuration files, the directories that contain them, and all symbolic
 * links on the path. Kubernetes, for example, updates a ConfigMap by replacing a link.
 */
function watchedNames(paths: readonly string[]): ReadonlyMap<string, readonly Names[]> {
  const watched = new Map<string, Names[]>()
  const add = (folder: string, names: Names): void => {
    watched.set(folder, [...(watched.get(folder) ?? []), names])
  }
  const addName = (path: string): void => {
    add(dirname(path), (name) => name === basename(path))
  }
  for (const path of paths) {
    addName(path)
    // Replacing a directory changes its parent directory.
    if (isFolder(path)) add(path, isConfigurationName)
    else addName(dirname(path))
  }
  for (const file of [...paths, ...filesOf(paths)]) {
    const steps = stepsOf(file)
    for (const { path, stats } of steps) if (stats.isSymbolicLink()) addName(path)
    const last = steps.at(-1)
    if (last?.stats.isFile() === true) addName(last.path)
  }
  return watched
}

/** Hashes the content of all files. For a file that cannot be read, hashes the error code. */
function contentOf(paths: readonly string[]): string {
  const hash = createHash('sha256')
  for (const file of filesOf(paths)) {
    hash.update(`\0${file}\0`)
    try {
      const stats = statSync(file)
      // A reload rejects these files without reading them.
      if (!stats.isFile() || stats.size > MAX_BYTES) throw new Error('unreadable')
      hash.update(readFileSync(file))
    } catch (error) {
      hash.update((error as NodeJS.ErrnoException).code ?? 'unreadable')
    }
  }
  return hash.digest('base64url')
}

function filesOf(paths: readonly string[]): readonly string[] {
  return paths.flatMap((path) => {
    try {
      return configurationFiles(path)
    } catch {
      return [path]
    }
  })
}

function stepsOf(path: string): readonly PathStep[] {
  try {
    return pathSteps(path)
  } catch {
    return []
  }
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}
