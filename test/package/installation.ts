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

/** A directory in which the package is installed from its tarball, outside this project. */
export interface Installation {
  readonly folder: string
  /** The installed packages, including consul-connect, without those of the compiler. */
  readonly packages: readonly string[]
  readonly remove: () => void
}

/** Types that every TypeScript program for Node.js needs. */
const TYPES = '@types/node'

/** Packs the built package, and installs it in a temporary directory. */
export function install(): Installation {
  assert.ok(existsSync('dist/index.js'), 'dist is missing: npm run build')
  const folder = mkdtempSync(join(tmpdir(), 'consul-connect-package-'))
  const remove = (): void => {
    rmSync(folder, { recursive: true, force: true })
  }
  try {
    const output = npm(process.cwd(), 'pack', '--json', '--ignore-scripts', '--pack-destination', folder)
    const [pack] = JSON.parse(output) as [{ filename: string }]
    writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest(pack.filename)))
    // Offline: a package that the manifest lacks is an error.
    npm(folder, 'install', '--offline', '--install-links', '--ignore-scripts', '--no-audit', '--no-fund')
    const installed = readLock(join(folder, 'node_modules', '.package-lock.json')).packages
    const packages = Object.entries(installed).filter(([, { dev }]) => dev !== true)
    return { folder, packages: packages.map(([path]) => nameOf(path)).sort(), remove }
  } catch (error) {
    remove()
    throw error
  }
}

/** A manifest with the tarball and all transitive dependencies, as copies of the installed ones: nothing is downloaded. */
function manifest(tarball: string): object {
  return {
    private: true,
    type: 'module',
    dependencies: { 'consul-connect': `file:${tarball}`, ...copies(transitiveDependencies('')) },
    devDependencies: copies([TYPES, ...transitiveDependencies(`node_modules/${TYPES}`)]),
  }
}

function copies(names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(names.map((name) => [name, `file:${resolve('node_modules', name)}`]))
}

/** The names of the transitive dependencies of a package in the lock file. */
function transitiveDependencies(path: string): readonly string[] {
  const { packages } = readLock('package-lock.json')
  const names = new Set(Object.keys(packages[path]?.dependencies ?? {}))
  // The iteration includes names that are added meanwhile.
  for (const name of names)
    for (const dependency of Object.keys(packages[`node_modules/${name}`]?.dependencies ?? {}))
      names.add(dependency)
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
