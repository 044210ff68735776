import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { waitBound } from '../fixtures/bounds.js'

interface Lock {
  readonly packages: Readonly<Record<string, LockEntry>>
}

interface LockEntry {
  readonly dependencies?: Readonly<Record<string, string>>
  readonly dev?: boolean
}

/** A folder of a user's own, in which the package is installed from its tarball. */
export interface Installation {
  readonly folder: string
  /** The packages that came with it, itself included, without those of the compiler. */
  readonly packages: readonly string[]
  readonly remove: () => void
}

/** What a program needs that is compiled with the package, and that every TypeScript program for Node.js has. */
const TYPES = '@types/node'

/** Packs what has been built, and installs it where nothing of this project can be found by accident. */
export function install(): Installation {
  assert.ok(existsSync('dist/index.js'), 'dist is not there, which is what the package holds: npm run build')
  const folder = mkdtempSync(join(tmpdir(), 'consul-connect-package-'))
  const remove = (): void => {
    rmSync(folder, { recursive: true, force: true })
  }
  try {
    const said = npm(process.cwd(), 'pack', '--json', '--ignore-scripts', '--pack-destination', folder)
    const [pack] = JSON.parse(said) as [{ filename: string }]
    writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest(pack.filename)))
    // What the manifest does not have would be a download, and fails.
    npm(folder, 'install', '--offline', '--install-links', '--ignore-scripts', '--no-audit', '--no-fund')
    const installed = readLock(join(folder, 'node_modules', '.package-lock.json')).packages
    const packages = Object.entries(installed).filter(([, { dev }]) => dev !== true)
    return { folder, packages: packages.map(([path]) => nameOf(path)).sort(), remove }
  } catch (error) {
    remove()
    throw error
  }
}

/**
 * A user's manifest. Beside the tarball it has all that this pulls in, as copies of what is installed here already, so that
 * nothing is downloaded.
 */
function manifest(tarball: string): object {
  return {
    private: true,
    type: 'module',
    dependencies: { 'consul-connect': `file:${tarball}`, ...copies(pulledIn('')) },
    devDependencies: copies([TYPES, ...pulledIn(`node_modules/${TYPES}`)]),
  }
}

function copies(names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(names.map((name) => [name, `file:${resolve('node_modules', name)}`]))
}

/** The names of what a package of the lock file depends on, directly or not. */
function pulledIn(path: string): readonly string[] {
  const { packages } = readLock('package-lock.json')
  const names = new Set(Object.keys(packages[path]?.dependencies ?? {}))
  // A set that grows while it is gone through is gone through to its end.
  for (const name of names)
    for (const further of Object.keys(packages[`node_modules/${name}`]?.dependencies ?? {}))
      names.add(further)
  return [...names]
}

function readLock(path: string): Lock {
  return JSON.parse(readFileSync(path, 'utf8')) as Lock
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
}

function npm(cwd: string, ...args: readonly string[]): string {
  return execFileSync('npm', args, { cwd, encoding: 'utf8', timeout: waitBound(60_000), stdio: 'pipe' })
}
