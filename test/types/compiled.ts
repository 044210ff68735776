import assert from 'node:assert/strict'

/**
 * What compiles, or by its comment does not. It is for the compiler alone and never called, so that what it uses may be
 * a parameter that nobody has made.
 */
export function compiled(use: (...given: never[]) => unknown): void {
  assert.equal(typeof use, 'function')
}
