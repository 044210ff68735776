import { execFileSync } from 'node:child_process'
import { delimiter } from 'node:path'
import { waitBound } from '../fixtures/bounds.js'

/** A Node.js binary to test the package with. */
export interface NodeVersion {
  readonly binary: string
  /** `process.version` */
  readonly version: string
}

/** The binary that runs the tests, and the binaries in `NODE_BINARIES`. */
export const NODE_VERSIONS: readonly NodeVersion[] = distinct(
  [process.execPath, ...list('NODE_BINARIES', delimiter)].map((binary) => {
    return { binary, version: versionOf(binary) }
  }),
)

/** The major versions in `REQUIRE_NODE_VERSIONS` that are missing in `NODE_VERSIONS`. */
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
    throw new Error(`NODE_BINARIES: ${binary} is not an executable Node.js`, { cause })
  }
}

function distinct(all: readonly NodeVersion[]): readonly NodeVersion[] {
  return all.filter(({ version }, i) => all.findIndex((candidate) => candidate.version === version) === i)
}
