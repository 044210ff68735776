import { type Stats, lstatSync, readlinkSync } from 'node:fs'
import { dirname, join, parse, resolve, sep } from 'node:path'

/** One name that the system looks up on the way to a file. */
export interface PathStep {
  readonly path: string
  /** The folder in which the name is looked up. */
  readonly folder: string
  readonly name: string
  /** Of the name itself, not of what a link leads to. */
  readonly stats: Stats
}

/** As many links as Linux follows in one path, path_resolution(7). */
const MAX_LINKS = 40

/**
 * Lists every name that the system looks up to find a file, links and what they lead to included, from the root on. The
 * list ends at the first name that does not exist.
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
