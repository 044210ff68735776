import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EventEmitter } from 'eventemitter3'
import { emitSafely } from '../../src/base/emit-safely.js'
import { settle } from '../fixtures/fake-clock.js'

interface Events {
  change: [name: string, count: number]
}

describe('emitSafely', () => {
  it('calls every listener with all arguments', () => {
    const emitter = new EventEmitter<Events>()
    const calls: unknown[] = []
    for (const listener of [1, 2]) emitter.on('change', (...args) => calls.push([listener, ...args]))
    emitSafely(emitter, 'change', 'a', 1)
    assert.deepEqual(calls, [
      [1, 'a', 1],
      [2, 'a', 1],
    ])
  })

  it('turns an exception of a listener into an uncaught exception', async (t) => {
    const emitter = new EventEmitter<Events>()
    const failure = new Error('a listener of the application')
    emitter.on('change', () => {
      throw failure
    })
    const uncaught: unknown[] = []
    // The listeners of the test runner would report the exception as a failure of this test.
    const runnerListeners = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.on('uncaughtException', (error) => uncaught.push(error))
    t.after(() => {
      process.removeAllListeners('uncaughtException')
      for (const listener of runnerListeners) process.on('uncaughtException', listener)
    })
    emitSafely(emitter, 'change', 'a', 1)
    assert.deepEqual(uncaught, [])
    await settle()
    assert.deepEqual(uncaught, [failure])
  })
})
