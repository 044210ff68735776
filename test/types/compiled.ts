import assert from 'node:assert/strict'

/**
 * Holds code for the compiler: the code must compile, except for lines with `@ts-expect-error`. The function is never
 * called, so its parameters stand for values that no test has to create.
 */
export function compiled(code: (...values: never[]) => unknown): void {
  assert.equal(typeof code, 'function')
}
