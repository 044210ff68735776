import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { type TestContext, describe, it } from 'node:test'
import { sleep, systemClock } from '../../src/base/clock.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const LONGEST = 2 ** 31 - 1

/** Node's timers, written down and fired by hand. */
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
  it('tells the time of the system', () => {
    const before = Date.now()
    const now = systemClock.now()
    assert.ok(before <= now && now <= Date.now())
  })

  it('calls once, after the delay', (t) => {
    const { timers } = recordTimers(t)
    let calls = 0
    systemClock.after(1500, () => {
      calls += 1
    })
    assert.deepEqual(
      timers.map(({ ms }) => ms),
      [1500],
    )
    timers[0]!.fire()
    assert.equal(calls, 1)
    assert.equal(timers.length, 1)
  })

  it('a delay in the past is none', (t) => {
    const { timers } = recordTimers(t)
    systemClock.after(-5, () => undefined)
    assert.equal(timers[0]!.ms, 0)
  })

  it('a delay that Node would turn into 1 ms is made of several', (t) => {
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

  it('the longest delay that Node takes is one', (t) => {
    const { timers } = recordTimers(t)
    systemClock.after(LONGEST, () => undefined)
    assert.deepEqual(
      timers.map(({ ms }) => ms),
      [LONGEST],
    )
  })

  it('what it returns cancels the timer that is armed, the later ones of a long delay too', (t) => {
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
  it('wakes after its time, and leaves no listener', async () => {
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

  it('an abort wakes it at once, without an error, and leaves no timer', async () => {
    const [clock, controller] = [new FakeClock(), new AbortController()]
    const sleeping = sleep(clock, 100, controller.signal)
    controller.abort()
    await sleeping
    assert.equal(clock.pending, 0)
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
    await settle()
  })

  it('on an aborted signal it does not begin', async () => {
    const clock = new FakeClock()
    await sleep(clock, 100, AbortSignal.abort())
    assert.equal(clock.pending, 0)
  })
})
