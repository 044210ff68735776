import { type FSWatcher, watch } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { statSync } from 'node:fs'

/** So long it must be quiet, and so long it may last, as Consul coalesced changes. */
const QUIET_MS = 500
const AT_MOST_MS = 5_000

/** Tells when something in files and folders may have changed. */
export class ConfigurationWatcher {
  readonly #watchers: FSWatcher[] = []
  readonly #onChange: () => void
  #timer: NodeJS.Timeout | undefined
  #since: number | undefined

  /** @throws the system's error */
  constructor(paths: readonly string[], onChange: () => void) {
    this.#onChange = onChange
    // A file is replaced by another under its name, so that its folder is what is watched.
    for (const folder of new Set(paths.map(folderOf))) {
      const watcher = watch(folder, () => {
        this.#changed()
      })
      watcher.on('error', () => undefined)
      this.#watchers.push(watcher)
    }
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const watcher of this.#watchers) watcher.close()
  }

  #changed(): void {
    const now = performance.now()
    this.#since ??= now
    clearTimeout(this.#timer)
    const waitMs = Math.max(0, Math.min(QUIET_MS, this.#since + AT_MOST_MS - now))
    this.#timer = setTimeout(() => {
      this.#since = undefined
      this.#onChange()
    }, waitMs)
  }
}

function folderOf(path: string): string {
  const absolute = resolve(path)
  return statSync(absolute).isDirectory() ? absolute : dirname(absolute)
}
