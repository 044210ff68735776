import { type FSWatcher, statSync, watch } from 'node:fs'
import { dirname, resolve } from 'node:path'

/** So long it must be quiet, and so long it may last, as Consul coalesced changes. */
const QUIET_MS = 500
const AT_MOST_MS = 5_000

/** Tells when something in files and folders may have changed. */
export class ConfigurationWatcher {
  readonly #folders: ReadonlySet<string>
  readonly #onChange: () => void
  #watchers: readonly FSWatcher[] = []
  #timer: NodeJS.Timeout | undefined
  #since: number | undefined

  /** @throws the system's error */
  constructor(paths: readonly string[], onChange: () => void) {
    this.#onChange = onChange
    // A file is replaced by another under its name, and so may a folder be: what they are in is watched as well.
    this.#folders = new Set(paths.map(folderOf).flatMap((folder) => [folder, dirname(folder)]))
    this.#watch()
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const watcher of this.#watchers) watcher.close()
  }

  #watch(): void {
    for (const watcher of this.#watchers) watcher.close()
    this.#watchers = [...this.#folders].flatMap((folder) => {
      try {
        const watcher = watch(folder, () => {
          this.#changed()
        })
        watcher.on('error', () => {
          this.#changed()
        })
        return watcher
      } catch {
        // It is gone for now: whatever it is in tells when it comes.
        return []
      }
    })
  }

  #changed(): void {
    const now = performance.now()
    this.#since ??= now
    clearTimeout(this.#timer)
    const waitMs = Math.max(0, Math.min(QUIET_MS, this.#since + AT_MOST_MS - now))
    this.#timer = setTimeout(() => {
      this.#since = undefined
      // The folder under this name may be another by now.
      this.#watch()
      this.#onChange()
    }, waitMs)
  }
}

function folderOf(path: string): string {
  const absolute = resolve(path)
  return statSync(absolute).isDirectory() ? absolute : dirname(absolute)
}
