import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { AgentResponse } from '../../src/agent/client.js'
import {
  type BlockingQuery,
  type Position,
  Watch,
  type WatchOptions,
  blocking,
  nextPosition,
} from '../../src/agent/watch.js'
import { BlockingSlots } from '../../src/agent/blocking-slots.js'
import type { AgentError, ErrorCode } from '../../src/base/errors.js'
import { AWAY, FORBIDDEN, agentError } from '../fixtures/errors.js'
import { FakeClock } from '../fixtures/fake-clock.js'

interface Answer {
  readonly value?: unknown
  readonly index?: number
  readonly hash?: string
}

interface Read {
  readonly query: BlockingQuery
  readonly resolve: (response: AgentResponse<unknown>) => void
  readonly reject: (error: unknown) => void
}

/** Starts a watch whose reads the test answers. */
async function start(options: Partial<WatchOptions<unknown>> = {}) {
  const clock = new FakeClock()
  const [reads, values]: [Read[], unknown[]] = [[], []]
  const failures: { error: Error; retryInMs: number }[] = []
  const watch = new Watch<unknown>({
    name: 'test',
    clock,
    random: () => 0,
    fetch: (query) =>
      new Promise((resolve, reject) => {
        reads.push({ query, resolve, reject })
      }),
    onValue: (value) => {
      values.push(value)
    },
    onError: (error, retryInMs) => failures.push({ error, retryInMs }),
    ...options,
  })
  await clock.advance(0)
  return {
    watch,
    clock,
    reads,
    values,
    failures,
    last: () => reads.at(-1)!.query,
    /** Answers the pending read, and lets the next read start. */
    answer: async ({ value = 'v', index, hash }: Answer) => {
      reads.at(-1)!.resolve({ value, index, hash })
      await clock.advance(0)
    },
    fail: async (error: unknown = AWAY) => {
      reads.at(-1)!.reject(error)
      await clock.advance(0)
    },
  }
}

type Started = Awaited<ReturnType<typeof start>>

/** Advances the clock to the next read, and returns the elapsed time. */
async function untilNextRead({ clock, reads }: Started, limitMs = 600_000): Promise<number> {
  const [before, begin] = [reads.length, clock.now()]
  while (reads.length === before && clock.now() - begin < limitMs)
    await clock.advance(Math.max(1, clock.delays[0] ?? 1))
  return clock.now() - begin
}

describe('Watch: the position of a read', () => {
  it('reads without an index first, and then with the index of the last answer', async () => {
    const { reads, last, answer } = await start()
    assert.equal(reads.length, 1)
    assert.deepEqual([last().index, last().hash], [undefined, undefined])
    for (const index of [7, 9, 9]) {
      await answer({ index })
      assert.equal(last().index, index)
    }
  })

  it('starts again without an index when the index goes back', async () => {
    const { last, answer } = await start()
    await answer({ index: 100 })
    await answer({ index: 99 })
    assert.equal(last().index, undefined)
    await answer({ index: 5 })
    assert.equal(last().index, 5)
  })

  it('prefers a content hash to an index', async () => {
    const { last, answer } = await start()
    await answer({ hash: 'abc', index: 5 })
    assert.deepEqual([last().index, last().hash], [undefined, 'abc'])
    await answer({ hash: 'def' })
    assert.equal(last().hash, 'def')
  })

  for (const by of [{ index: 7 }, { hash: 'abc' }]) {
    it(`an error drops the ${Object.keys(by)[0]!}`, async () => {
      const started = await start()
      await started.answer(by)
      await started.fail()
      await untilNextRead(started)
      assert.deepEqual([started.last().index, started.last().hash], [undefined, undefined])
    })
  }

  it('polls every 5 to 10 s when the answer has no index and no hash', async () => {
    for (const [random, pauseMs] of [
      [0, 5000],
      [0.5, 7500],
    ] as const) {
      const { watch, clock, reads, last, answer } = await start({ random: () => random })
      await answer({})
      assert.equal(reads.length, 1)
      await clock.advance(pauseMs - 1)
      assert.equal(reads.length, 1)
      await clock.advance(1)
      assert.equal(reads.length, 2)
      assert.deepEqual([last().index, last().timeoutMs], [undefined, undefined])
      await answer({ index: 3 })
      assert.equal(last().index, 3)
      watch.close()
    }
  })

  const START: Position = { from: 'start' }
  const at = (index: number): Position => ({ from: 'index', index })
  const hash: Position = { from: 'hash', hash: 'a' }
  const positions: [rule: string, before: Position, answer: Answer, after: Position][] = [
    ['an index', START, { index: 3 }, at(3)],
    ['the same index', at(3), { index: 3 }, at(3)],
    ['a higher index', at(3), { index: 4 }, at(4)],
    ['a lower index', at(3), { index: 2 }, START],
    ['index 0 after an index', at(3), { index: 0 }, START],
    ['index 0 at the start, which would not block', START, { index: 0 }, at(1)],
    ['an index after a hash', hash, { index: 1 }, at(1)],
    ['an index after a poll', { from: 'poll' }, { index: 1 }, at(1)],
    ['a hash after an index', at(3), { hash: 'b', index: 2 }, { from: 'hash', hash: 'b' }],
    ['an answer without index and hash, after an index', at(3), {}, { from: 'poll' }],
    ['an answer without index and hash, after a hash', hash, {}, { from: 'poll' }],
  ]
  for (const [rule, before, answer, after] of positions) {
    it(`computes the position after ${rule}`, () => {
      assert.deepEqual(nextPosition(before, { index: undefined, hash: undefined, ...answer }), after)
    })
  }
})

describe('Watch: onValue and onError', () => {
  it('reports the first value, and each value whose content differs from the last', async () => {
    const { values, answer } = await start()
    await answer({ value: { a: [1, { b: 2 }] }, index: 1 })
    await answer({ value: { a: [1, { b: 3 }] }, index: 2 })
    await answer({ value: { a: [1, { b: 2 }] }, index: 3 })
    await answer({ value: { a: [1, { b: 2 }] }, index: 4 })
    assert.equal(values.length, 3)
  })

  it('reports a new value under the same index or hash', async () => {
    for (const by of [{ index: 1 }, { hash: 'a' }, {}]) {
      const started = await start()
      await started.answer({ value: 'old', ...by })
      if (Object.keys(by).length === 0) await untilNextRead(started)
      await started.answer({ value: 'new', ...by })
      assert.deepEqual(started.values, ['old', 'new'])
      started.watch.close()
    }
  })

  it('does not report the same value again after an error', async () => {
    const started = await start()
    await started.answer({ index: 1 })
    await started.fail()
    await untilNextRead(started)
    await started.answer({ index: 1 })
    assert.deepEqual(started.values, ['v'])
  })

  it('reports undefined and null like other values', async () => {
    const { values, reads, clock } = await start()
    for (const value of [undefined, undefined, null, null]) {
      reads.at(-1)!.resolve({ value, index: 1, hash: undefined })
      await clock.advance(0)
    }
    assert.deepEqual(values, [undefined, null])
  })

  it('reports a refused value again after another read at the same index', async () => {
    const refusal = new Error('refused')
    const offered: unknown[] = []
    const started = await start({
      onValue: (value) => {
        offered.push(value)
        if (offered.length < 3) throw refusal
      },
    })
    await started.answer({ value: 'same', index: 5 })
    assert.deepEqual(started.failures, [{ error: refusal, retryInMs: 50 }])
    assert.equal(await untilNextRead(started), 50)
    // A plain read would be answered from the agent's cache, with the same value.
    assert.deepEqual([started.last().index, started.last().waitMs], [5, 2_000])
    await started.answer({ value: 'same', index: 5 })
    assert.equal(await untilNextRead(started), 100)
    await started.answer({ value: 'same', index: 5 })
    assert.deepEqual(offered, ['same', 'same', 'same'])
    assert.equal(started.failures.length, 2)
    assert.deepEqual([started.last().index, started.last().waitMs], [5, 300_000])
  })

  it('waits for an asynchronous onValue before the next read', async () => {
    const accepted: unknown[] = []
    let accept = (): void => undefined
    const started = await start({
      onValue: (value) =>
        new Promise((resolve) => {
          accept = () => {
            accepted.push(value)
            resolve()
          }
        }),
    })
    await started.answer({ value: 1, index: 5 })
    assert.equal(started.reads.length, 1)
    accept()
    await started.clock.advance(0)
    assert.deepEqual([accepted, started.last().index], [[1], 5])
  })

  it('wraps a thrown value that is not an Error', async () => {
    const { failures, fail } = await start()
    await fail('a string')
    assert.match(failures[0]!.error.message, /a string/)
  })

  it('reports a fetch that throws synchronously', async () => {
    let attempts = 0
    const started = await start({
      fetch: () => {
        attempts += 1
        throw AWAY
      },
    })
    assert.deepEqual(started.failures, [{ error: AWAY, retryInMs: 50 }])
    await started.clock.advance(50)
    assert.equal(attempts, 2)
  })
})

describe('Watch: backoff', () => {
  /** Returns the pauses after `count` failures in a row. */
  async function pauses(error: unknown, count: number, random = 0): Promise<number[]> {
    const started = await start({ random: () => random })
    const pausesMs: number[] = []
    for (let i = 0; i < count; i += 1) {
      await started.fail(error)
      assert.equal(started.failures.length, i + 1)
      pausesMs.push(started.failures[i]!.retryInMs)
      assert.equal(await untilNextRead(started), pausesMs[i])
    }
    return pausesMs
  }
  const FAST = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
  const SLOW = [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]

  for (const [random, factor] of [
    [0, 0.5],
    [0.5, 0.75],
    [1 - 2 ** -32, 1],
  ] as const) {
    it(`doubles the pause up to 10 s, with jitter: random number ${factor * 2 - 1}`, async () => {
      assert.deepEqual(
        await pauses(AWAY, FAST.length, random),
        FAST.map((ms) => ms * factor),
      )
    })
  }

  const slow: ErrorCode[] = [
    'ERR_CONNECT_AGENT_FORBIDDEN',
    'ERR_CONNECT_AGENT_RATE_LIMITED',
    'ERR_CONNECT_DISABLED',
  ]
  for (const code of slow) {
    it(`doubles the pause from 2 s up to a minute after ${code}`, async () => {
      assert.deepEqual(
        await pauses(agentError(code), SLOW.length),
        SLOW.map((ms) => ms / 2),
      )
    })
  }

  it('does not overflow the pause after 1,100 failures', async () => {
    const pausesMs = await pauses(AWAY, 1100)
    assert.ok(pausesMs.slice(10).every((ms) => ms === 5000))
  })

  it('retries soon after other errors of the agent', async () => {
    for (const kind of ['NOT_FOUND', 'TIMEOUT', 'FAILED', 'REFUSED', 'SHAPE'] as const)
      assert.deepEqual(await pauses(agentError(`ERR_CONNECT_AGENT_${kind}`), 2), [50, 100], kind)
  })

  it('resets the pause after a success', async () => {
    const started = await start()
    for (let i = 0; i < 5; i += 1) {
      await started.fail()
      await untilNextRead(started)
    }
    await started.answer({ index: 1 })
    await started.fail()
    assert.equal(started.failures.at(-1)?.retryInMs, 50)
  })
})

describe('Watch: restart', () => {
  it('ends a pause after a failure, once, without a timer left', async () => {
    const { watch, clock, reads, fail } = await start()
    await fail(FORBIDDEN)
    assert.equal(reads.length, 1)
    watch.restart()
    watch.restart()
    await clock.advance(0)
    assert.deepEqual([reads.length, clock.pending], [2, 0])
    await fail()
    assert.equal(reads.length, 2)
  })

  it('ends a pause between two polls', async () => {
    const { watch, clock, reads, answer } = await start()
    await answer({})
    watch.restart()
    await clock.advance(0)
    assert.equal(reads.length, 2)
  })

  it('replaces a blocking read with a read without an index, which is not a failure', async () => {
    const { watch, clock, reads, failures, answer } = await start()
    await answer({ index: 7 })
    assert.equal(reads[1]!.query.index, 7)
    watch.restart()
    assert.equal(reads[1]!.query.signal?.aborted, true)
    reads[1]!.reject(new Error('aborted'))
    await clock.advance(0)
    assert.equal(reads.length, 3)
    assert.equal(reads[2]!.query.index, undefined)
    assert.equal(failures.length, 0)
    assert.equal(watch.lastError, undefined)
  })

  it('reads again when it crosses an answer, and does not lose the answer', async () => {
    const { watch, clock, reads, values, answer } = await start()
    await answer({ value: 'old', index: 7 })
    reads[1]!.resolve({ value: 'new', index: 8, hash: undefined })
    watch.restart()
    await clock.advance(0)
    assert.equal(reads.length, 3)
    // A read at index 8 would block until the next change.
    if (!values.includes('new')) assert.equal(reads[2]!.query.index, undefined)
    await answer({ value: 'new', index: 8 })
    assert.deepEqual(values, ['old', 'new'])
  })
})

describe('Watch: hurry', () => {
  it('ends a pause after a second, not earlier', async () => {
    const { watch, clock, reads, fail } = await start()
    assert.equal(watch.hurry(), true)
    for (const count of [1, 2]) {
      await fail(FORBIDDEN)
      await clock.advance(999)
      assert.equal(watch.hurry(), false)
      await clock.advance(0)
      assert.equal(reads.length, count)
      await clock.advance(1)
      assert.equal(watch.hurry(), true)
      await clock.advance(0)
      assert.equal(reads.length, count + 1)
    }
    assert.equal(clock.pending, 0)
  })

  it('does not shorten the next pause', async () => {
    const { watch, clock, failures, fail } = await start()
    for (let i = 0; i < 3; i += 1) {
      await fail(FORBIDDEN)
      await clock.advance(1_000)
      watch.hurry()
      await clock.advance(0)
    }
    assert.deepEqual(
      failures.map(({ retryInMs }) => retryInMs),
      [1_000, 2_000, 4_000],
    )
  })

  it('does not abort a read', async () => {
    const { watch, clock, reads, answer } = await start()
    watch.hurry()
    await answer({ index: 7 })
    watch.hurry()
    await clock.advance(0)
    assert.equal(reads.length, 2)
    assert.equal(reads[1]!.query.signal?.aborted, false)
    assert.equal(reads[1]!.query.index, 7)
  })

  it('does not abort a read after a pause that ended', async () => {
    const started = await start()
    await started.fail()
    await untilNextRead(started)
    started.watch.hurry()
    await started.clock.advance(0)
    assert.equal(started.reads.length, 2)
    assert.equal(started.last().signal?.aborted, false)
  })

  it('does not end a pause between two polls', async () => {
    const { watch, clock, reads, answer } = await start()
    await answer({})
    watch.hurry()
    await clock.advance(4_999)
    assert.equal(reads.length, 1)
    await clock.advance(1)
    assert.equal(reads.length, 2)
  })

  it('does not exceed the rate limit with 1,000 calls in 10 s', async () => {
    const { watch, clock, reads } = await start()
    for (let ms = 0; ms < 10_000; ms += 10) {
      reads.at(-1)!.reject(AWAY)
      await clock.advance(0)
      watch.hurry()
      await clock.advance(10)
    }
    assert.ok(reads.length <= 20 + 10 * 10 + 1, `${reads.length} reads in 10 s`)
  })
})

describe('Watch: onRead', () => {
  it('is called after each successful read, after its onValue', async () => {
    const events: string[] = []
    const started = await start({
      onValue: (value) => {
        events.push(`value ${String(value)}`)
      },
      onRead: () => {
        events.push('read')
      },
      onError: () => {
        events.push('error')
      },
    })
    await started.answer({ value: 1, index: 1 })
    await started.answer({ value: 1, index: 2 })
    await started.fail()
    await untilNextRead(started)
    await started.answer({ value: 2, index: 3 })
    assert.deepEqual(events, ['value 1', 'read', 'read', 'error', 'value 2', 'read'])
  })

  it('sees lastError cleared', async () => {
    const lastErrors: unknown[] = []
    const started: Started = await start({
      onRead: () => {
        lastErrors.push(started.watch.lastError)
      },
    })
    await started.fail()
    assert.equal(started.watch.lastError, AWAY)
    await untilNextRead(started)
    await started.answer({ index: 1 })
    assert.deepEqual(lastErrors, [undefined])
  })

  it('is not called for a refused value, or after close()', async () => {
    let calls = 0
    const { watch, reads, clock, answer } = await start({
      onValue: () => {
        throw new Error('refused')
      },
      onRead: () => {
        calls += 1
      },
    })
    await answer({ index: 1 })
    assert.equal(calls, 0)
    await clock.advance(50)
    watch.close()
    reads.at(-1)!.resolve({ value: 'late', index: 2, hash: undefined })
    await clock.advance(0)
    assert.equal(calls, 0)
  })

  it('may close the watch', async () => {
    const started: Started = await start({
      onRead: () => {
        started.watch.close()
      },
    })
    await started.answer({ index: 1 })
    assert.deepEqual([started.reads.length, started.clock.pending], [1, 0])
  })
})

describe('Watch: slots for blocking reads', () => {
  const none = (): void => undefined

  it('are counted', () => {
    const slots = BlockingSlots.create(2)
    assert.equal(slots.isFull, false)
    const releases = [slots.take(none), slots.take(none), slots.take(none)]
    assert.equal(slots.isFull, true)
    // A second release of the same slot has no effect.
    for (const [index, isFull] of [
      [0, true],
      [0, true],
      [1, false],
    ] as const) {
      releases[index]!()
      assert.equal(slots.isFull, isFull)
    }
  })

  it('reserve a share for the service itself', () => {
    const slots = BlockingSlots.create(4)
    const upstreams = slots.forUpstreams(0.75)
    for (const expected of [false, false, true]) {
      upstreams.take(none)
      assert.equal(upstreams.isFull, expected)
    }
    assert.equal(slots.isFull, false)
    slots.take(none)
    assert.equal(slots.isFull, true)
    assert.equal(BlockingSlots.create(1).forUpstreams(0.5).isFull, false)
  })

  it('are halved by shrink() for a minute', () => {
    let now = 0
    const evicted: string[] = []
    const slots = BlockingSlots.create(8, () => now)
    const upstreams = slots.forUpstreams(0.75)
    slots.take(() => evicted.push('roots'))
    const releases = ['a', 'b', 'c', 'd', 'e'].map((name) => upstreams.take(() => evicted.push(name)))
    slots.shrink()
    // Half of the six open slots remain. The query of the service itself is not evicted.
    assert.deepEqual(evicted, ['a', 'b', 'c'])
    for (const release of releases.slice(0, 3)) release()
    assert.equal(slots.isFull, true)
    now = 59_999
    assert.equal(slots.isFull, true)
    now = 60_000
    assert.deepEqual([slots.isFull, upstreams.isFull], [false, false])
    slots.shrink()
    slots.shrink()
    slots.shrink()
    now += 59_999
    assert.equal(BlockingSlots.create(1, () => now).isFull, false)
    assert.equal(slots.isFull, true)
  })

  for (const by of [{ index: 7 }, { hash: 'a' }]) {
    it(`are taken by a read that blocks by ${Object.keys(by)[0]!}, and by no other read`, async () => {
      const slots = BlockingSlots.create(1)
      const started = await start({ slots })
      assert.equal(slots.isFull, false)
      await started.answer(by)
      assert.equal(slots.isFull, true)
      // The next blocking read keeps the slot.
      await started.answer(by)
      assert.equal(slots.isFull, true)
      assert.equal(started.reads.length, 3)
      await started.fail()
      assert.equal(slots.isFull, false)
      await untilNextRead(started)
      assert.equal(slots.isFull, false)
    })
  }

  it('are released by close() and restart()', async () => {
    const slots = BlockingSlots.create(1)
    const { watch, clock, reads, answer } = await start({ slots })
    await answer({ index: 7 })
    assert.equal(slots.isFull, true)
    watch.restart()
    reads[1]!.reject(new Error('aborted'))
    await clock.advance(0)
    assert.equal(slots.isFull, false)
    await answer({ index: 8 })
    assert.equal(slots.isFull, true)
    watch.close()
    reads.at(-1)!.reject(new Error('aborted'))
    await clock.advance(0)
    assert.equal(slots.isFull, false)
  })

  it('let the watch poll every 5 to 10 s while none is free', async () => {
    const slots = BlockingSlots.create(1)
    const release = slots.take(none)
    const { clock, reads, last, answer, values, failures } = await start({ slots })
    await answer({ value: 1, index: 7 })
    assert.equal(reads.length, 1)
    await clock.advance(4_999)
    assert.equal(reads.length, 1)
    await clock.advance(1)
    assert.equal(reads.length, 2)
    // A poll does not block, and takes no slot.
    assert.deepEqual([last().index, last().hash, last().timeoutMs], [undefined, undefined, undefined])
    await answer({ value: 2, index: 8 })
    assert.equal(reads.length, 2)
    release()
    await clock.advance(5_000)
    assert.equal(reads.length, 3)
    assert.equal(last().index, undefined)
    // A lower index than that of the previous poll has no meaning.
    await answer({ value: 3, index: 1 })
    assert.equal(reads.length, 4)
    assert.deepEqual([last().index, slots.isFull, values, failures], [1, true, [1, 2, 3], []])
  })

  it('limit the blocking reads of several watches', async () => {
    const slots = BlockingSlots.create(2)
    const watches = await Promise.all([1, 2, 3, 4].map(() => start({ slots })))
    for (const { answer } of watches) await answer({ index: 1 })
    assert.deepEqual(
      watches.map(({ reads }) => reads.length),
      [2, 2, 1, 1],
    )
    // The slot of a closed watch goes to the watch that reads next.
    watches[0]!.watch.close()
    watches[0]!.reads.at(-1)!.reject(new Error('aborted'))
    await watches[2]!.clock.advance(5_000)
    await watches[2]!.answer({ index: 1 })
    assert.equal(watches[2]!.last().index, 1)
    await watches[3]!.clock.advance(5_000)
    await watches[3]!.answer({ index: 1 })
    assert.equal(watches[3]!.reads.length, 2)
  })

  it('let the watch poll at the interval of pollMs', async () => {
    const slots = BlockingSlots.create(1)
    slots.take(none)
    const started = await start({ slots, pollMs: () => 60_000 })
    await started.answer({ index: 7 })
    assert.equal(await untilNextRead(started), 30_000)
  })

  it('let the watch read without blocking at once after an eviction', async () => {
    const slots = BlockingSlots.create(2)
    const started = await start({ slots: slots.forUpstreams(1) })
    slots.take(none)
    await started.answer({ index: 7 })
    slots.shrink()
    await started.fail(new Error('aborted'))
    assert.equal(started.last().index, undefined)
    assert.equal(started.failures.length, 0)
    await started.answer({ index: 8 })
    assert.equal(await untilNextRead(started), 5_000)
  })
})

describe('Watch: close', () => {
  const states: [state: string, reach: (started: Started) => Promise<unknown>][] = [
    ['starting', () => Promise.resolve()],
    ['reading', ({ clock }) => clock.advance(0)],
    ['blocking', ({ answer }) => answer({ index: 1 })],
    ['polling', ({ answer }) => answer({})],
    ['backing off', ({ fail }) => fail()],
    [
      'waiting for the token bucket',
      async ({ answer, reads }) => {
        for (let i = 0, seen = -1; seen !== reads.length; i += 1) {
          seen = reads.length
          await answer({ value: i, index: i + 1 })
        }
      },
    ],
  ]
  for (const [state, reach] of states) {
    for (const late of ['value', 'error']) {
      it(`ends the watch while ${state}, and a late ${late} has no effect`, async () => {
        const started = await start()
        await reach(started)
        const { watch, clock, reads, values, failures } = started
        const before = [reads.length, values.length, failures.length]
        watch.close()
        await clock.advance(0)
        assert.equal(clock.pending, 0)
        // While the watch waits for the token bucket, its last read has ended.
        if (state !== 'waiting for the token bucket') assert.equal(reads.at(-1)!.query.signal?.aborted, true)
        if (late === 'value') reads.at(-1)!.resolve({ value: 'late', index: 1000, hash: undefined })
        else reads.at(-1)!.reject(new Error('late'))
        watch.restart()
        watch.close()
        await clock.advance(600_000)
        assert.deepEqual([reads.length, values.length, failures.length], before)
        assert.equal(clock.pending, 0)
      })
    }
  }

  it('works in onValue and onError', async () => {
    for (const outcome of ['value', 'error'] as const) {
      const started: Started = await start({
        onValue: () => {
          started.watch.close()
        },
        onError: () => {
          started.watch.close()
        },
      })
      if (outcome === 'value') await started.answer({})
      else await started.fail()
      assert.equal(started.clock.pending, 0)
      await started.clock.advance(600_000)
      assert.equal(started.reads.length, 1)
    }
  })
})

describe('Watch: timeouts and rates', () => {
  it('gives a blocking read the wait, a sixteenth of it, and a margin; the first read has the timeout of the client', async () => {
    for (const [waitMs, timeoutMs] of [
      [undefined, 328_750],
      [1600, 11_700],
    ] as const) {
      const { watch, last, answer } = await start(waitMs === undefined ? {} : { waitMs })
      assert.equal(last().timeoutMs, undefined)
      await answer({ index: 1 })
      assert.equal(last().timeoutMs, timeoutMs)
      assert.equal(last().waitMs, waitMs ?? 300_000)
      await answer({ hash: 'a' })
      assert.equal(last().timeoutMs, timeoutMs)
      watch.close()
    }
  })

  /** Answers each read at once for `ms`, and returns the number of reads. */
  async function readsOf(started: Started, ms: number, answer: (read: number) => Answer): Promise<number> {
    const { clock, reads } = started
    const [end, before] = [clock.now() + ms, reads.length]
    for (let answered = before - 1; clock.now() < end;) {
      if (answered < reads.length) {
        answered = reads.length
        await started.answer(answer(answered))
      } else await clock.advance(Math.min(clock.delays[0] ?? ms, end - clock.now()))
    }
    return reads.length - before + 1
  }

  const churn: [rule: string, answer: (read: number) => Answer][] = [
    ['an index that grows', (read) => ({ value: read, index: read })],
    ['an index that grows with nothing new', (read) => ({ index: read })],
    ['an index that stands still', () => ({ index: 1 })],
    ['an index that goes up and down', (read) => ({ index: 1 + (read % 2) })],
    ['an index of 0', () => ({ index: 0 })],
    ['a hash that changes', (read) => ({ hash: `${read}` })],
  ]
  for (const [rule, answer] of churn) {
    it(`allows 20 reads, and then 10 per second, with ${rule}`, async () => {
      const started = await start()
      assert.equal(await readsOf(started, 10_000, answer), 120)
    })
  }

  it('reads an endpoint that cannot block once in 5 s', async () => {
    const started = await start()
    // At 0 s, 5 s, and so on to 60 s.
    assert.equal(await readsOf(started, 60_000, () => ({})), 13)
  })

  it('allows one burst after a quiet hour', async () => {
    const started = await start()
    await started.clock.advance(3_600_000)
    const inOneSecond = await readsOf(started, 1000, (read) => ({ index: read }))
    // The pending read, the burst, and the rate of one second.
    assert.equal(inOneSecond, 1 + 20 + 10)
  })

  it('keeps the rate after the clock is set back', async () => {
    const started = await start()
    await readsOf(started, 5000, (read) => ({ index: read }))
    started.clock.set(started.clock.now() - 3_600_000)
    const count = await readsOf(started, 1000, (read) => ({ index: read }))
    assert.ok(count >= 9 && count <= 11, `${count} reads`)
  })
})

describe('blocking', () => {
  const { signal } = new AbortController()
  const cases: [rule: string, options: BlockingQuery, query: object][] = [
    [
      'sends no wait without a position',
      { waitMs: 1000 },
      { index: undefined, hash: undefined, wait: undefined },
    ],
    [
      'sends an index and the wait',
      { index: 5, waitMs: 1000 },
      { index: 5, hash: undefined, wait: '1000ms' },
    ],
    [
      'sends a hash and the wait',
      { hash: 'a', waitMs: 1000 },
      { index: undefined, hash: 'a', wait: '1000ms' },
    ],
    ['leaves the wait to the agent', { index: 5 }, { index: 5, hash: undefined, wait: undefined }],
  ]
  for (const [rule, options, query] of cases) {
    it(rule, () => {
      assert.deepEqual(blocking({ ...options, signal, timeoutMs: 7 }), { query, signal, timeoutMs: 7 })
    })
  }
})

describe('Watch: agents and proxies that end blocking reads', () => {
  const gatewayError = (status: number): AgentError => agentError('ERR_CONNECT_AGENT_FAILED', status)

  for (const status of [408, 504, 524]) {
    it(`shortens the wait after a ${status} that ends a blocking read, which is not a failure`, async () => {
      const { clock, last, answer, fail, failures, reads } = await start()
      await answer({ index: 7 })
      await clock.advance(30_000)
      await fail(gatewayError(status))
      assert.deepEqual(failures, [])
      assert.equal(reads.length, 3)
      assert.deepEqual([last().index, last().waitMs], [7, 24_000])
      await clock.advance(24_000)
      await answer({ index: 7 })
      assert.deepEqual([last().index, last().waitMs], [7, 24_000])
    })
  }

  it('shortens the wait when the agent closes every connection after 30 s, which is not a failure', async () => {
    const { clock, last, answer, fail, failures } = await start()
    await answer({ index: 7 })
    for (const waitMs of [300_000, 24_000]) {
      await clock.advance(30_000)
      await fail(AWAY)
      assert.deepEqual([failures.length, last().index, last().waitMs], [0, 7, waitMs])
    }
  })

  const failing: [rule: string, lastedMs: number, error: AgentError][] = [
    ['a 504 at once', 999, gatewayError(504)],
    ['a 500 after a while', 30_000, gatewayError(500)],
    ['a 504 after the agent should have answered', 300_000, gatewayError(504)],
    ['a timeout of the client', 30_000, agentError('ERR_CONNECT_AGENT_TIMEOUT')],
    ['a connection that ends at once', 10, AWAY],
  ]
  for (const [rule, lastedMs, error] of failing) {
    it(`reports ${rule} as a failure`, async () => {
      const { clock, answer, fail, failures } = await start()
      await answer({ index: 7 })
      await clock.advance(lastedMs)
      await fail(error)
      assert.equal(failures.length, 1)
    })
  }

  it('retries a read that timed out with the lowest index, and then without an index', async () => {
    const started = await start()
    const hung = agentError('ERR_CONNECT_AGENT_TIMEOUT')
    await started.fail(hung)
    await untilNextRead(started)
    const { index, waitMs, timeoutMs } = started.last()
    assert.deepEqual([index, waitMs, timeoutMs], [1, 1_000, undefined])
    await started.fail(hung)
    await untilNextRead(started)
    assert.equal(started.last().index, undefined)
  })

  it('confirms a doubtful answer of a blocking read by a read without an index', async () => {
    const isDoubtful = (value: unknown): boolean => value === 'none'
    const { last, answer, values, failures, fail } = await start({ isDoubtful })
    // A doubtful answer of a plain read is accepted.
    await answer({ value: 'none', index: 3 })
    await answer({ value: 'some', index: 7 })
    await answer({ value: 'none', index: 8 })
    assert.equal(last().index, undefined)
    await answer({ value: 'other', index: 9 })
    assert.deepEqual(values, ['none', 'some', 'other'])
    await answer({ value: 'none', index: 10 })
    await fail(FORBIDDEN)
    assert.deepEqual([values, failures.length], [['none', 'some', 'other'], 1])
  })
})
