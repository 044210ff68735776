// Runs the test suites that are named, or all: `npm test`, `npm test -- unit mesh`, `npm test -- test/unit/x.test.ts`.
import { existsSync, readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { findProgram } from './fixtures/programs.js'
import { type Counts, runFile } from './report.js'

const SUITES = ['unit', 'types', 'mesh', 'proxy', 'supervisor', 'recipes', 'guides', 'consul', 'package']
/** How many files run at a time. */
const CONCURRENCY = 2

const wanted = process.argv.slice(2)
const files = (wanted.length === 0 ? SUITES : wanted).flatMap((name) =>
  name.endsWith('.test.ts') ? [name] : testFiles(join('test', name)),
)
if (files.length === 0) {
  console.error(`no test files for ${wanted.join(', ')}; the suites are ${SUITES.join(', ')}`)
  process.exit(1)
}

const hasConsul = consulBinary() !== undefined
const needsConsul = files.some((file) =>
  ['consul', 'recipes', 'guides'].some((suite) => file.startsWith(join('test', suite))),
)
if (needsConsul && !hasConsul && process.env['REQUIRE_CONSUL'] === '1') {
  console.error(
    'REQUIRE_CONSUL=1, and there is no consul binary: put one on the PATH or name it in CONSUL_BIN',
  )
  process.exit(1)
}

if (wanted.length === 0) console.log(`${files.length} files: about 13 minutes on two cores`)
const queue = files.map((file) => resolve(file)).values()
const total: Counts = { passed: 0, failed: 0, skipped: 0 }
await Promise.all(
  Array.from({ length: CONCURRENCY }, async () => {
    for (const file of queue) {
      const { passed, failed, skipped } = await runFile(file)
      total.passed += passed
      total.failed += failed
      total.skipped += skipped
    }
  }),
)
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
if (total.failed > 0) process.exitCode = 1
if (needsConsul && !hasConsul) {
  console.log('\nSKIPPED: the tests against a real Consul agent, since there is no consul binary.')
  console.log(
    'Put one on the PATH or name it in CONSUL_BIN to run them; REQUIRE_CONSUL=1 makes this a failure.',
  )
}

function testFiles(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(folder, name))
}

function consulBinary(): string | undefined {
  const named = process.env['CONSUL_BIN']
  if (named !== undefined && named !== '') return existsSync(named) ? named : undefined
  return findProgram('consul')
}
