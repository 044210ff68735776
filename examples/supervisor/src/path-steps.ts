import { type Stats, lstatSync, readlinkSync } from 'node:fs'
import { dirname, join, parse, resolve, sep } from 'node:path'

/** One path component that the system resolves on the way to a file. */
export interface PathStep {
  readonly path: string
  /** Directory that contains the component. */
  readonly folder: string
  readonly name: string
  /** From lstat(2): describes a symbolic link itself, not its target. */
  readonly stats: Stats
}

/** Limit on symbolic links in one path; Linux has the same limit, path_resolution(7). */
const MAX_LINKS = 40

/**
 * Lists every path component that the system resolves to find a file, starting at the root and including symbolic
 * links and their targets. The list ends at the first component that does not exist.
 * @throws Error with the code ELOOP, and the system's errors other than ENOENT
 */
export function pathSteps(path: string): readonly PathStep[] {
  const steps: PathStep[] = []
  const pending = resolve(path).split(sep).filter(Boolean)
  let folder = parse(resolve(path)).root
  let links = 0
  for (let name = pending.shift(); name !== undefined; name = pending.shift()) {
    if (name === '.' || name === '') continue
    if (name === '..') {
      folder = dirname(folder)
      continue
    }
    const here = join(folder, name)
    const stats = lstatSync(here, { throwIfNoEntry: false })
    if (stats === undefined) break
    steps.push({ path: here, folder, name, stats })
    if (!stats.isSymbolicLink()) {
      folder = here
      continue
    }
    links += 1
    if (links > MAX_LINKS) throw Object.assign(new Error(`too many links: ${path}`), { code: 'ELOOP' })
    const target = readlinkSync(here)
    if (target.startsWith(sep)) folder = parse(target).root
    pending.unshift(...target.split(sep))
  }
  return steps
}
