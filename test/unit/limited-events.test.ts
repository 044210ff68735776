import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { LimitedEvents } from '../../src/service/limited-events.js'
import { FakeClock } from '../fixtures/fake-clock.js'

function open() {
  const clock = new FakeClock()
  const events: [string, number][] = []
  const rejections = new LimitedEvents<string>(clock, (latest, count) => events.push([latest, count]))
  const report = (from: number, to: number): void => {
    for (let i = from; i <= to; i += 1) rejections.report(String(i))
  }
  const counted = (): number => events.reduce((sum, [, count]) => sum + count, 0)
  return { clock, events, rejections, report, counted }
}

describe('LimitedEvents', () => {
  it('emits at most ten events per second, and one more with the count of the remaining ones', async () => {
    const { clock, events, report, counted } = open()
    report(1, 3_000)
    assert.deepEqual(
      events,
      Array.from({ length: 10 }, (_, i) => [String(i + 1), 1]),
    )
    await clock.advance(1_000)
    assert.deepEqual(events.slice(10), [['3000', 2_990]])
    report(3_001, 3_002)
    assert.equal(counted(), 3_002)
    assert.equal(clock.pending, 0)
  })

  it('emits the pending count when flushed', () => {
    const { clock, rejections, report, counted } = open()
    report(1, 15)
    rejections.flush()
    assert.equal(counted(), 15)
    assert.equal(clock.pending, 0)
  })

  it('continues to count after the clock is set back', async () => {
    const { clock, report, counted } = open()
    report(1, 12)
    clock.set(clock.now() - 86_400_000)
    report(13, 14)
    await clock.advance(1_000)
    report(15, 15)
    await clock.advance(86_400_000)
    assert.equal(counted(), 15)
  })
})
