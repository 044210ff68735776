// Runs all tests, or the named suites or files: `npm test`, `npm test -- unit mesh`, `npm test -- test/unit/x.test.ts`.
import { existsSync, readdirSync } from 'node:fs'
import { join, relative, resolve, sep } from 'node:path'
import { findProgram } from './fixtures/programs.js'
import { type Counts, runFile } from './report.js'

/** The suites in the order of the run, with their durations in seconds: Node.js 20 on two cores of an Intel Xeon. */
const SUITE_SECONDS: Readonly<Record<string, number>> = {
  unit: 60,
  types: 2,
  mesh: 120,
  proxy: 55,
  supervisor: 100,
  recipes: 60,
  guides: 15,
  consul: 420,
  envoy: 60,
  package: 25,
}
const SUITES = Object.keys(SUITE_SECONDS)
/** Suites with tests that need a `consul` binary. */
const CONSUL_SUITES = ['consul', 'recipes', 'guides']
/** How many files run at a time. */
const CONCURRENCY = 2

const names = process.argv.slice(2)
const files = (names.length === 0 ? SUITES : names).flatMap((name) =>
  name.endsWith('.test.ts') ? [name] : testFiles(name),
)
if (files.length === 0) {
  console.error(`no test files for ${names.join(', ')}; the suites are ${SUITES.join(', ')}`)
  process.exit(1)
}

const hasConsul = consulBinary() !== undefined
const needsConsul = files.some((file) => CONSUL_SUITES.includes(suiteOf(file)))
if (needsConsul && !hasConsul && process.env['REQUIRE_CONSUL'] === '1') {
  console.error('REQUIRE_CONSUL=1: consul binary not found; put it on the PATH, or set CONSUL_BIN')
  process.exit(1)
}

console.log(`${files.length} test file${files.length === 1 ? '' : 's'}, ${expectedDuration()} on two cores`)
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
if (files.some((file) => suiteOf(file) === 'envoy') && !existsSync('test/peers/bin/envoy')) {
  console.log('\nSKIPPED: tests against Envoy, because it is not installed. Run test/peers/install.')
  console.log('REQUIRE_PEERS=1 makes this a failure.')
}
if (needsConsul && !hasConsul) {
  console.log('\nSKIPPED: tests against a real Consul agent, because no consul binary was found.')
  console.log('Put it on the PATH, or set CONSUL_BIN. REQUIRE_CONSUL=1 makes this a failure.')
}

function testFiles(suite: string): string[] {
  const folder = join('test', suite)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(folder, name))
}

function suiteOf(file: string): string {
  return relative('test', file).split(sep)[0] ?? ''
}

/** The duration of the run: each file takes an equal share of the duration of its suite. */
function expectedDuration(): string {
  const seconds = files
    .map((file) => (SUITE_SECONDS[suiteOf(file)] ?? 0) / (testFiles(suiteOf(file)).length || 1))
    .reduce((sum, share) => sum + share, 0)
  return seconds < 60 ? `about ${Math.ceil(seconds / 10) * 10} s` : `about ${Math.round(seconds / 60)} min`
}

function consulBinary(): string | undefined {
  const path = process.env['CONSUL_BIN']
  if (path !== undefined && path !== '') return existsSync(path) ? path : undefined
  return findProgram('consul')
}
