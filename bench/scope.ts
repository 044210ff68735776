import type { TestContext } from 'node:test'

/** Runs what tests' fixtures are used in, and ends all that they have started. */
export async function withFixtures<T>(run: (scope: TestContext) => Promise<T>): Promise<T> {
  const endings: (() => unknown)[] = []
  // All that fixtures want of a test is to be told of its end.
  const scope = { after: (ending: () => unknown) => endings.unshift(ending) } as unknown as TestContext
  try {
    return await run(scope)
  } finally {
    for (const end of endings) await end()
  }
}
