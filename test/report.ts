// Runs one test file, and prints a line with its counts and the details of each failure.
import { relative } from 'node:path'
import { run } from 'node:test'
import type { TestEvent } from 'node:test/reporters'
import { inspect } from 'node:util'
import { waitBound } from './fixtures/bounds.js'

export interface Counts {
  passed: number
  failed: number
  skipped: number
}

/** Bound on one file, which only ends a file that hangs: the slowest takes two minutes on the reference machine. */
const FILE_TIMEOUT_MS = waitBound(30 * 60_000)

/** Runs a file in a separate process with the loader of this process, and prints its result. */
export async function runFile(file: string): Promise<Counts> {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 }
  const output: string[] = []
  const failures: string[] = []
  const begin = performance.now()
  const events: AsyncIterable<TestEvent> = run({ files: [file], timeout: FILE_TIMEOUT_MS })
  for await (const event of events) {
    if (event.type === 'test:stderr') output.push(event.data.message)
    if (event.type !== 'test:pass' && event.type !== 'test:fail') continue
    const { data } = event
    // Suites and the file itself only summarize the tests in them.
    const isGroup = data.details.type === 'suite' || data.name === data.file
    if (event.type === 'test:fail') {
      const { error } = event.data.details
      if ((error as { failureType?: string }).failureType === 'subtestsFailed') continue
      counts.failed += 1
      failures.push(`FAILED ${data.name}\n${inspect(error.cause, { depth: 6 })}\n`)
    } else if (data.skip !== undefined && data.skip !== false) counts.skipped += 1
    else if (!isGroup) counts.passed += 1
  }
  const { passed, failed, skipped } = counts
  const seconds = ((performance.now() - begin) / 1_000).toFixed(1)
  const details = [`${passed} passed`, failed > 0 && `${failed} failed`, skipped > 0 && `${skipped} skipped`]
  const summary = `${details.filter(Boolean).join(', ')}, ${seconds} s`
  const status = failed === 0 ? 'ok    ' : 'FAILED'
  process.stdout.write(
    [`${status} ${relative(process.cwd(), file)} (${summary})\n`, ...output, ...failures].join(''),
  )
  return counts
}
