import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EventEmitter } from 'eventemitter3'
import { emitSafely } from '../../src/base/emit-safely.js'
import { settle } from '../fixtures/fake-clock.js'

interface Events {
  told: [what: string, more: number]
}

describe('emitSafely', () => {
  it('tells every listener everything', () => {
    const emitter = new EventEmitter<Events>()
    const told: unknown[] = []
    emitter.on('told', (...args) => told.push(args))
    emitter.on('told', (...args) => told.push(args))
    emitSafely(emitter, 'told', 'a', 1)
    assert.deepEqual(told, [
      ['a', 1],
      ['a', 1],
    ])
  })

  it('a listener that throws does not reach us: it is an uncaught exception', async (t) => {
    const emitter = new EventEmitter<Events>()
    const failure = new Error('a listener of the application')
    emitter.on('told', () => {
      throw failure
    })
    const uncaught: unknown[] = []
    // The test runner has listeners of its own, which would take it for a failure of this test.
    const others = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.on('uncaughtException', (error) => uncaught.push(error))
    t.after(() => {
      process.removeAllListeners('uncaughtException')
      for (const listener of others) process.on('uncaughtException', listener)
    })
    emitSafely(emitter, 'told', 'a', 1)
    assert.deepEqual(uncaught, [])
    await settle()
    assert.deepEqual(uncaught, [failure])
  })
})
