import assert from 'node:assert/strict'
import { it } from 'node:test'
import { elapsed } from '../../examples/proxy/src/time.js'

it('does not end a wait of more than 2^31 - 1 ms at once', async () => {
  const ending = new AbortController()
  const { signal } = ending
  for (const ms of [2 ** 31, 2 ** 52]) {
    const waits = [elapsed(ms, signal).then(() => ms), elapsed(20, signal).then(() => 20)]
    assert.equal(await Promise.race(waits), 20)
  }
  ending.abort()
})

it('ends a wait of any length when its signal is aborted', async () => {
  for (const ms of [1, 2 ** 31, 2 ** 52]) {
    const ending = new AbortController()
    const wait = elapsed(ms, ending.signal)
    ending.abort()
    assert.equal(await wait, false)
    assert.equal(await elapsed(ms, ending.signal), false)
  }
})
