// One line for each file, the whole story of each failure, and the count at the end.
import { relative } from 'node:path'
import type { TestEvent } from 'node:test/reporters'
import { inspect } from 'node:util'

interface Tally {
  passed: number
  failed: number
  skipped: number
}

export async function* report(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const files = new Map<string, Tally>()
  const failures: string[] = []
  for await (const event of source) {
    if (event.type === 'test:pass' || event.type === 'test:fail') {
      const { data } = event
      const file = relative(process.cwd(), data.file ?? data.name)
      const tally = files.get(file) ?? { passed: 0, failed: 0, skipped: 0 }
      files.set(file, tally)
      // Suites and file wrappers only sum up what is in them.
      const isGroup = data.details.type === 'suite' || data.name === data.file
      if (event.type === 'test:fail') {
        const { error } = event.data.details
        const subtestsFailed = (error as { failureType?: string }).failureType === 'subtestsFailed'
        if (subtestsFailed) continue
        tally.failed += 1
        failures.push(`\nFAILED ${file}: ${data.name}\n${inspect(error.cause, { depth: 6 })}\n`)
      } else if (data.skip !== undefined && data.skip !== false) tally.skipped += 1
      else if (!isGroup) tally.passed += 1
    } else if (event.type === 'test:stderr') {
      yield event.data.message
    }
  }
  const total: Tally = { passed: 0, failed: 0, skipped: 0 }
  for (const [file, { passed, failed, skipped }] of [...files].sort(([a], [b]) => a.localeCompare(b))) {
    total.passed += passed
    total.failed += failed
    total.skipped += skipped
    const skips = skipped === 0 ? '' : `, ${skipped} skipped`
    yield `${failed === 0 ? 'ok    ' : 'FAILED'} ${file} (${passed}${skips})\n`
  }
  for (const failure of failures) yield failure
  yield `\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped\n`
}
