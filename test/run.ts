// Runs the test suites that are named, or all: `npm test`, `npm test -- unit mesh`, `npm test -- test/unit/x.test.ts`.
import { existsSync, readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { run } from 'node:test'
import { findProgram } from './fixtures/programs.js'
import { report } from './report.js'

const SUITES = ['unit', 'types', 'mesh', 'proxy', 'supervisor', 'recipes', 'guides', 'consul', 'package']

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

// Each file runs in a process of its own, with the loader that this one was started with.
const events = run({ files: files.map((file) => resolve(file)), concurrency: 2, timeout: 120_000 })
events.on('test:fail', () => {
  process.exitCode = 1
})
events.compose(report).pipe(process.stdout)
events.on('end', () => {
  if (!needsConsul || hasConsul) return
  process.on('exit', () => {
    console.log('\nSKIPPED: the tests against a real Consul agent, since there is no consul binary.')
    console.log(
      'Put one on the PATH or name it in CONSUL_BIN to run them; REQUIRE_CONSUL=1 makes this a failure.',
    )
  })
})

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
