import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { type TestContext, describe, it } from 'node:test'
import { sleep, systemClock } from '../../src/base/clock.js'
import { FakeClock } from '../fixtures/fake-clock.js'

const LONGEST = 2 ** 31 - 1

/** Records the timers of Node.js, which the test fires. */
function recordTimers(t: TestContext) {
  const timers: { ms: number; fire: () => void; id: object }[] = []
  const cleared: unknown[] = []
  const set = (callback: () => void, ms: number): object => {
    const id = { timer: timers.length }
    timers.push({ ms, fire: callback, id })
    return id
  }
  t.mock.method(globalThis, 'setTimeout', set as unknown as typeof setTimeout)
  t.mock.method(globalThis, 'clearTimeout', (id: unknown) => {
    cleared.push(id)
  })
  return { timers, cleared }
}

describe('systemClock', () => {
  it('returns the time of the system', () => {
    const before = Date.now()
    const now = systemClock.now()
    assert.ok(before <= now && now <= Date.now())
  })

  it('calls back once, after the delay, which may be the longest of Node.js', (t) => {
    for (const delayMs of [1500, LONGEST]) {
      const { timers } = recordTimers(t)
      let calls = 0
      systemClock.after(delayMs, () => {
        calls += 1
      })
      timers[0]!.fire()
      assert.equal(calls, 1)
      assert.deepEqual(
        timers.map(({ ms }) => ms),
        [delayMs],
      )
      t.mock.restoreAll()
    }
  })

  it('treats a negative delay as 0', (t) => {
    const { timers } = recordTimers(t)
    systemClock.after(-5, () => undefined)
    assert.equal(timers[0]!.ms, 0)
  })

  it('splits a delay above the longest of Node.js, which Node.js would turn into 1 ms', (t) => {
    const { timers } = recordTimers(t)
    let calls = 0
    const year = 365 * 24 * 3_600_000
    systemClock.after(year, () => {
      calls += 1
    })
    for (let i = 0; i < timers.length; i += 1) {
      assert.equal(calls, 0)
      timers[i]!.fire()
    }
    assert.equal(calls, 1)
    assert.ok(timers.every(({ ms }) => ms <= LONGEST))
    assert.equal(
      timers.reduce((sum, { ms }) => sum + ms, 0),
      year,
    )
  })

  it('returns a function that cancels the timer, also in a later part of a long delay', (t) => {
    const { timers, cleared } = recordTimers(t)
    systemClock.after(10, () => undefined)()
    assert.deepEqual(cleared, [timers[0]!.id])
    const cancel = systemClock.after(LONGEST + 5, () => undefined)
    timers[1]!.fire()
    cancel()
    assert.equal(cleared[1], timers[2]!.id)
  })
})

describe('sleep', () => {
  it('resolves after the delay, and leaves no listener', async () => {
    const [clock, controller] = [new FakeClock(), new AbortController()]
    let awake = false
    void sleep(clock, 100, controller.signal).then(() => {
      awake = true
    })
    await clock.advance(99)
    assert.equal(awake, false)
    await clock.advance(1)
    assert.equal(awake, true)
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
  })

  it('resolves at once when the signal is aborted, and leaves no timer', async () => {
    const [clock, controller] = [new FakeClock(), new AbortController()]
    const sleeping = sleep(clock, 100, controller.signal)
    controller.abort()
    await sleeping
    assert.equal(clock.pending, 0)
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
  })

  it('does not start a timer for an aborted signal', async () => {
    const clock = new FakeClock()
    await sleep(clock, 100, AbortSignal.abort())
    assert.equal(clock.pending, 0)
  })
})
