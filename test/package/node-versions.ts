import { execFileSync } from 'node:child_process'
import { delimiter } from 'node:path'
import { waitBound } from '../fixtures/bounds.js'

/** A Node.js to try the package on. */
export interface NodeVersion {
  readonly binary: string
  /** As `process.version` has it. */
  readonly version: string
}

/** The one that runs the tests, and the binaries that `NODE_BINARIES` lists. */
export const NODE_VERSIONS: readonly NodeVersion[] = distinct(
  [process.execPath, ...list('NODE_BINARIES', delimiter)].map((binary) => {
    return { binary, version: versionOf(binary) }
  }),
)

/** The major versions that `REQUIRE_NODE_VERSIONS` lists and that are not among them. */
export const MISSING_VERSIONS: readonly string[] = list('REQUIRE_NODE_VERSIONS', ',').filter(
  (major) => !NODE_VERSIONS.some(({ version }) => version.startsWith(`v${major}.`)),
)

function list(variable: string, separator: string): readonly string[] {
  const items = (process.env[variable] ?? '').split(separator).map((item) => item.trim())
  return items.filter((item) => item !== '')
}

function versionOf(binary: string): string {
  try {
    return execFileSync(binary, ['--print', 'process.version'], {
      encoding: 'utf8',
      timeout: waitBound(30_000),
    }).trim()
  } catch (cause) {
    throw new Error(`NODE_BINARIES lists ${binary}, which is no Node.js that can be run`, { cause })
  }
}

function distinct(all: readonly NodeVersion[]): readonly NodeVersion[] {
  return all.filter(({ version }, i) => all.findIndex((other) => other.version === version) === i)
}
