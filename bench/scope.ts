import type { TestContext } from 'node:test'

/** Calls a function that uses fixtures of tests, and then their hooks, last first. */
export async function withFixtures<T>(run: (scope: TestContext) => Promise<T>): Promise<T> {
  const hooks: (() => unknown)[] = []
  // Fixtures use only `after` of a TestContext.
  const scope = { after: (hook: () => unknown) => hooks.unshift(hook) } as unknown as TestContext
  try {
    return await run(scope)
  } finally {
    for (const hook of hooks) await hook()
  }
}
