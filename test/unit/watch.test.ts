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
import { AgentError, type ErrorCode } from '../../src/base/errors.js'
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

const agentError = (code: ErrorCode): AgentError =>
  new AgentError(code, code, { address: 'a', request: 'GET /' })
const AWAY = agentError('ERR_CONNECT_AGENT_UNREACHABLE')

/** A watch whose reads are answered by hand. */
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
    /** Answers the read that is under way, and lets the next begin. */
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

/** How long until the next read, which is failed in its turn by whoever called. */
async function untilNextRead({ clock, reads }: Started, limitMs = 600_000): Promise<number> {
  const [before, begin] = [reads.length, clock.now()]
  while (reads.length === before && clock.now() - begin < limitMs)
    await clock.advance(Math.max(1, clock.delays[0] ?? 1))
  return clock.now() - begin
}

describe('Watch: where a read starts', () => {
  it('the first read has no index, the next has the index of its answer', async () => {
    const { watch, reads, last, answer } = await start()
    assert.equal(reads.length, 1)
    assert.equal(last().index, undefined)
    assert.equal(last().hash, undefined)
    await answer({ index: 7 })
    assert.equal(last().index, 7)
    await answer({ index: 9 })
    assert.equal(last().index, 9)
    await answer({ index: 9 })
    assert.equal(last().index, 9)
    watch.close()
  })

  it('an index that goes back starts again from nothing, and then goes on', async () => {
    const { watch, last, answer, values } = await start()
    await answer({ value: 1, index: 100 })
    await answer({ value: 2, index: 99 })
    assert.equal(last().index, undefined)
    assert.deepEqual(values, [1, 2])
    await answer({ value: 3, index: 5 })
    assert.equal(last().index, 5)
    watch.close()
  })

  it('an index of 0 counts as 1: a read at 0 would not block', async () => {
    const { watch, last, answer } = await start()
    await answer({ index: 0 })
    assert.equal(last().index, 1)
    watch.close()
  })

  it('a content hash goes before an index, and needs none', async () => {
    const { watch, last, answer } = await start()
    await answer({ hash: 'abc', index: 5 })
    assert.equal(last().hash, 'abc')
    assert.equal(last().index, undefined)
    await answer({ hash: 'def' })
    assert.equal(last().hash, 'def')
    watch.close()
  })

  for (const by of [{ index: 7 }, { hash: 'abc' }]) {
    it(`an error drops the ${Object.keys(by)[0]!}`, async () => {
      const started = await start()
      await started.answer(by)
      await started.fail()
      await untilNextRead(started)
      assert.equal(started.last().index, undefined)
      assert.equal(started.last().hash, undefined)
      started.watch.close()
    })
  }

  it('without index and hash it reads every 5 to 10 seconds', async () => {
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
      assert.equal(last().index, undefined)
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
    ['0 after an index', at(3), { index: 0 }, START],
    ['0 at the start', START, { index: 0 }, at(1)],
    ['an index after a hash', hash, { index: 1 }, at(1)],
    ['an index after a poll', { from: 'poll' }, { index: 1 }, at(1)],
    ['a hash after an index', at(3), { hash: 'b', index: 2 }, { from: 'hash', hash: 'b' }],
    ['neither after an index', at(3), {}, { from: 'poll' }],
    ['neither after a hash', hash, {}, { from: 'poll' }],
  ]
  for (const [rule, before, answer, after] of positions) {
    it(`nextPosition: ${rule}`, () => {
      assert.deepEqual(nextPosition(before, { index: undefined, hash: undefined, ...answer }), after)
    })
  }
})

describe('Watch: what it tells', () => {
  it('the first value, and each that differs in content from the one before', async () => {
    const { watch, values, answer } = await start()
    await answer({ value: { a: [1, { b: 2 }] }, index: 1 })
    await answer({ value: { a: [1, { b: 3 }] }, index: 2 })
    await answer({ value: { a: [1, { b: 2 }] }, index: 3 })
    assert.equal(values.length, 3)
    watch.close()
  })

  it('nothing when the same comes under a new index', async () => {
    const { watch, values, last, answer } = await start()
    for (const index of [1, 2, 3]) await answer({ value: { a: [1] }, index })
    assert.equal(values.length, 1)
    assert.equal(last().index, 3)
    watch.close()
  })

  it('what is new under the same index or hash', async () => {
    for (const by of [{ index: 1 }, { hash: 'a' }, {}]) {
      const started = await start()
      await started.answer({ value: 'old', ...by })
      if (Object.keys(by).length === 0) await untilNextRead(started)
      await started.answer({ value: 'new', ...by })
      assert.deepEqual(started.values, ['old', 'new'])
      started.watch.close()
    }
  })

  it('nothing when the same comes after an error', async () => {
    const started = await start()
    await started.answer({ index: 1 })
    await started.fail()
    await untilNextRead(started)
    await started.answer({ index: 1 })
    assert.deepEqual(started.values, ['v'])
    started.watch.close()
  })

  it('undefined and null are values like any other', async () => {
    const { watch, values, reads, clock } = await start()
    for (const value of [undefined, undefined, null, null]) {
      reads.at(-1)!.resolve({ value, index: 1, hash: undefined })
      await clock.advance(0)
    }
    assert.deepEqual(values, [undefined, null])
    watch.close()
  })

  it('offers a refused value again, after a read that continues where it was refused', async () => {
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
    started.watch.close()
  })

  it('waits for a value that takes time to be accepted', async () => {
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
    started.watch.close()
  })

  it('what is thrown that is no error, as one', async () => {
    const { watch, failures, fail } = await start()
    await fail('a string')
    assert.match(failures[0]!.error.message, /a string/)
    watch.close()
  })

  it('a fetch that throws at once is a failure like any other', async () => {
    let tries = 0
    const started = await start({
      fetch: () => {
        tries += 1
        throw AWAY
      },
    })
    assert.deepEqual(started.failures, [{ error: AWAY, retryInMs: 50 }])
    await started.clock.advance(50)
    assert.equal(tries, 2)
    started.watch.close()
  })
})

describe('Watch: backing off', () => {
  /** The pauses after so many failures in a row. */
  async function pauses(error: unknown, count: number, random = 0): Promise<number[]> {
    const started = await start({ random: () => random })
    const found: number[] = []
    for (let i = 0; i < count; i += 1) {
      await started.fail(error)
      assert.equal(started.failures.length, i + 1)
      found.push(started.failures[i]!.retryInMs)
      assert.equal(await untilNextRead(started), found[i])
    }
    started.watch.close()
    return found
  }
  const FAST = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
  const SLOW = [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]

  for (const [random, factor] of [
    [0, 0.5],
    [0.5, 0.75],
    [1 - 2 ** -32, 1],
  ] as const) {
    it(`doubles up to 10 seconds, and is told as it is waited: a random number of ${factor * 2 - 1}`, async () => {
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
    it(`starts at 2 seconds and goes up to a minute: ${code}`, async () => {
      assert.deepEqual(
        await pauses(agentError(code), SLOW.length),
        SLOW.map((ms) => ms / 2),
      )
    })
  }

  it('never ends and never overflows', async () => {
    const found = await pauses(AWAY, 1100)
    assert.ok(found.slice(10).every((ms) => ms === 5000))
  })

  it('each other failure of the agent is tried again soon', async () => {
    const others: ErrorCode[] = [
      'ERR_CONNECT_AGENT_NOT_FOUND',
      'ERR_CONNECT_AGENT_TIMEOUT',
      'ERR_CONNECT_AGENT_FAILED',
      'ERR_CONNECT_AGENT_REFUSED',
      'ERR_CONNECT_AGENT_SHAPE',
    ]
    for (const code of others) assert.deepEqual(await pauses(agentError(code), 2), [50, 100], code)
  })

  it('a success sets it back', async () => {
    const started = await start()
    for (let i = 0; i < 5; i += 1) {
      await started.fail()
      await untilNextRead(started)
    }
    await started.answer({ index: 1 })
    await started.fail()
    assert.equal(started.failures.at(-1)?.retryInMs, 50)
    started.watch.close()
  })
})

describe('Watch: restart', () => {
  it('ends a pause after a failure, once', async () => {
    const { watch, clock, reads, fail } = await start()
    await fail(agentError('ERR_CONNECT_AGENT_FORBIDDEN'))
    assert.equal(reads.length, 1)
    watch.restart()
    watch.restart()
    await clock.advance(0)
    assert.equal(reads.length, 2)
    await fail()
    assert.equal(reads.length, 2)
    watch.close()
  })

  it('ends a pause between two polls', async () => {
    const { watch, clock, reads, answer } = await start()
    await answer({})
    watch.restart()
    await clock.advance(0)
    assert.equal(reads.length, 2)
    watch.close()
  })

  it('leaves no timer behind', async () => {
    const { watch, clock, fail } = await start()
    await fail()
    watch.restart()
    await clock.advance(0)
    assert.equal(clock.pending, 0)
    watch.close()
  })

  it('ends a read that hangs, and reads anew without an index; that is no failure', async () => {
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
    watch.close()
  })

  it('crosses an answer: reads anew all the same, and what was answered is not lost', async () => {
    const { watch, clock, reads, values, answer } = await start()
    await answer({ value: 'old', index: 7 })
    reads[1]!.resolve({ value: 'new', index: 8, hash: undefined })
    watch.restart()
    await clock.advance(0)
    assert.equal(reads.length, 3)
    // Otherwise nothing is heard of it until the next change.
    if (!values.includes('new')) assert.equal(reads[2]!.query.index, undefined)
    await answer({ value: 'new', index: 8 })
    assert.deepEqual(values, ['old', 'new'])
    watch.close()
  })
})

describe('Watch: hurry', () => {
  it('ends a pause that has lasted a second, and no shorter one', async () => {
    const { watch, clock, reads, fail } = await start()
    assert.equal(watch.hurry(), true)
    for (const count of [1, 2]) {
      await fail(agentError('ERR_CONNECT_AGENT_FORBIDDEN'))
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
    watch.close()
  })

  it('the pause after that is as long as it would have been', async () => {
    const { watch, clock, failures, fail } = await start()
    for (let i = 0; i < 3; i += 1) {
      await fail(agentError('ERR_CONNECT_AGENT_FORBIDDEN'))
      await clock.advance(1_000)
      watch.hurry()
      await clock.advance(0)
    }
    assert.deepEqual(
      failures.map(({ retryInMs }) => retryInMs),
      [1_000, 2_000, 4_000],
    )
    watch.close()
  })

  it('ends no read, neither the first nor one that blocks', async () => {
    const { watch, clock, reads, answer } = await start()
    watch.hurry()
    await answer({ index: 7 })
    watch.hurry()
    await clock.advance(0)
    assert.equal(reads.length, 2)
    assert.equal(reads[1]!.query.signal?.aborted, false)
    assert.equal(reads[1]!.query.index, 7)
    watch.close()
  })

  it('ends no read that comes after a pause that has ended by itself', async () => {
    const started = await start()
    await started.fail()
    await untilNextRead(started)
    started.watch.hurry()
    await started.clock.advance(0)
    assert.equal(started.reads.length, 2)
    assert.equal(started.last().signal?.aborted, false)
    started.watch.close()
  })

  it('ends no pause between two polls', async () => {
    const { watch, clock, reads, answer } = await start()
    await answer({})
    watch.hurry()
    await clock.advance(4_999)
    assert.equal(reads.length, 1)
    await clock.advance(1)
    assert.equal(reads.length, 2)
    watch.close()
  })

  it('many of them cost what the agent can bear', async () => {
    const { watch, clock, reads } = await start()
    for (let ms = 0; ms < 10_000; ms += 10) {
      reads.at(-1)!.reject(AWAY)
      await clock.advance(0)
      watch.hurry()
      await clock.advance(10)
    }
    assert.ok(reads.length <= 20 + 10 * 10 + 1, `${reads.length} reads in 10 s`)
    watch.close()
  })
})

describe('Watch: onRead', () => {
  it('is told of every read that goes well, after its value, and of no other', async () => {
    const told: string[] = []
    const started = await start({
      onValue: (value) => {
        told.push(`value ${String(value)}`)
      },
      onRead: () => {
        told.push('read')
      },
      onError: () => {
        told.push('error')
      },
    })
    await started.answer({ value: 1, index: 1 })
    await started.answer({ value: 1, index: 2 })
    await started.fail()
    await untilNextRead(started)
    await started.answer({ value: 2, index: 3 })
    assert.deepEqual(told, ['value 1', 'read', 'read', 'error', 'value 2', 'read'])
    started.watch.close()
  })

  it('finds the last error gone', async () => {
    const seen: unknown[] = []
    const started: Started = await start({
      onRead: () => {
        seen.push(started.watch.lastError)
      },
    })
    await started.fail()
    assert.equal(started.watch.lastError, AWAY)
    await untilNextRead(started)
    await started.answer({ index: 1 })
    assert.deepEqual(seen, [undefined])
    started.watch.close()
  })

  it('is not told of a value that was refused, nor of one that comes after the close', async () => {
    let told = 0
    const { watch, reads, clock, answer } = await start({
      onValue: () => {
        throw new Error('refused')
      },
      onRead: () => {
        told += 1
      },
    })
    await answer({ index: 1 })
    assert.equal(told, 0)
    await clock.advance(50)
    watch.close()
    reads.at(-1)!.resolve({ value: 'late', index: 2, hash: undefined })
    await clock.advance(0)
    assert.equal(told, 0)
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

describe('Watch: places for reads that block', () => {
  const none = (): void => undefined

  it('are counted', () => {
    const slots = BlockingSlots.create(2)
    assert.equal(slots.isFull, false)
    const give = [slots.take(none), slots.take(none), slots.take(none)]
    assert.equal(slots.isFull, true)
    give[0]!()
    assert.equal(slots.isFull, true)
    // Giving back twice frees one slot.
    give[0]!()
    assert.equal(slots.isFull, true)
    give[1]!()
    assert.equal(slots.isFull, false)
  })

  it('leave a share to the service itself', () => {
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

  it('become fewer when the agent accepts no more connections, and more again after a minute', () => {
    let now = 0
    const evicted: string[] = []
    const slots = BlockingSlots.create(8, () => now)
    const upstreams = slots.forUpstreams(0.75)
    slots.take(() => evicted.push('roots'))
    const give = ['a', 'b', 'c', 'd', 'e'].map((name) => upstreams.take(() => evicted.push(name)))
    slots.shrink()
    // Six were open: three may be, and the service's own query is none of those that end.
    assert.deepEqual(evicted, ['a', 'b', 'c'])
    for (const each of give.slice(0, 3)) each()
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
    it(`a read that blocks by ${Object.keys(by)[0]!} has one, and no other read has`, async () => {
      const slots = BlockingSlots.create(1)
      const started = await start({ slots })
      assert.equal(slots.isFull, false)
      await started.answer(by)
      assert.equal(slots.isFull, true)
      // It keeps it from one such read to the next.
      await started.answer(by)
      assert.equal(slots.isFull, true)
      assert.equal(started.reads.length, 3)
      await started.fail()
      assert.equal(slots.isFull, false)
      await untilNextRead(started)
      assert.equal(slots.isFull, false)
      started.watch.close()
    })
  }

  it('is given back on close, and on a restart', async () => {
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

  it('who finds none polls every 5 to 10 seconds, and blocks again when there is one', async () => {
    const slots = BlockingSlots.create(1)
    const give = slots.take(none)
    const { watch, clock, reads, last, answer } = await start({ slots })
    await answer({ value: 1, index: 7 })
    assert.equal(reads.length, 1)
    await clock.advance(4_999)
    assert.equal(reads.length, 1)
    await clock.advance(1)
    assert.equal(reads.length, 2)
    // A poll does not block, and has no place.
    assert.deepEqual([last().index, last().hash, last().timeoutMs], [undefined, undefined, undefined])
    await answer({ value: 2, index: 8 })
    assert.equal(reads.length, 2)
    give()
    await clock.advance(5_000)
    assert.equal(reads.length, 3)
    assert.equal(last().index, undefined)
    await answer({ value: 2, index: 8 })
    // Now it blocks.
    assert.equal(reads.length, 4)
    assert.equal(last().index, 8)
    assert.equal(slots.isFull, true)
    watch.close()
  })

  it('a poll that finds something new tells it', async () => {
    const slots = BlockingSlots.create(1)
    slots.take(none)
    const started = await start({ slots })
    await started.answer({ value: 1, index: 7 })
    await untilNextRead(started)
    await started.answer({ value: 2, index: 8 })
    await untilNextRead(started)
    // An index that went back means nothing to a poll.
    await started.answer({ value: 3, index: 1 })
    assert.deepEqual(started.values, [1, 2, 3])
    assert.equal(started.failures.length, 0)
    started.watch.close()
  })

  it('of several watches no more block than there are places', async () => {
    const slots = BlockingSlots.create(2)
    const watches = await Promise.all([1, 2, 3, 4].map(() => start({ slots })))
    for (const each of watches) await each.answer({ index: 1 })
    assert.deepEqual(
      watches.map(({ reads }) => reads.length),
      [2, 2, 1, 1],
    )
    // Whoever ends makes room for the next who looks.
    watches[0]!.watch.close()
    watches[0]!.reads.at(-1)!.reject(new Error('aborted'))
    await watches[2]!.clock.advance(5_000)
    await watches[2]!.answer({ index: 1 })
    assert.equal(watches[2]!.last().index, 1)
    await watches[3]!.clock.advance(5_000)
    await watches[3]!.answer({ index: 1 })
    assert.equal(watches[3]!.reads.length, 2)
    for (const { watch } of watches) watch.close()
  })

  it('polls as often as the watch asks for', async () => {
    const slots = BlockingSlots.create(1)
    slots.take(none)
    const started = await start({ slots, pollMs: () => 60_000 })
    await started.answer({ index: 7 })
    assert.equal(await untilNextRead(started), 30_000)
    started.watch.close()
  })

  it('reads plainly at once when its blocking read is ended for want of connections', async () => {
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
    started.watch.close()
  })

  it('without a bound every read may block', async () => {
    const { watch, last, answer } = await start()
    await answer({ index: 7 })
    assert.equal(last().index, 7)
    watch.close()
  })
})

describe('Watch: close', () => {
  const states: [state: string, reach: (started: Started) => Promise<unknown>][] = [
    ['before the first read', () => Promise.resolve()],
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
    it(`${state}: ends at once, and calls nothing afterwards`, async () => {
      const started = await start()
      await reach(started)
      const { watch, clock, reads, values, failures } = started
      const before = [reads.length, values.length, failures.length]
      watch.close()
      await clock.advance(0)
      assert.equal(clock.pending, 0)
      // A read that is over belongs to an earlier turn.
      if (state !== 'waiting for the token bucket') assert.equal(reads.at(-1)!.query.signal?.aborted, true)
      // What comes late, a value or an error, is nobody's.
      reads.at(-1)!.resolve({ value: 'late', index: 1000, hash: undefined })
      reads.at(-1)!.reject(new Error('late'))
      watch.restart()
      watch.close()
      await clock.advance(600_000)
      assert.deepEqual([reads.length, values.length, failures.length], before)
    })
  }

  it('an abort that its own close has caused is no failure', async () => {
    const { watch, failures, reads, clock } = await start()
    watch.close()
    reads[0]!.reject(new Error('aborted'))
    await clock.advance(600_000)
    assert.equal(failures.length, 0)
    assert.equal(clock.pending, 0)
  })

  it('in its own onValue and onError', async () => {
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

describe('Watch: bounds', () => {
  it("the first read has the client's own bound; a blocking one the wait, a sixteenth, and a margin", async () => {
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

  it("a poll has the client's own bound", async () => {
    const started = await start()
    await started.answer({})
    await untilNextRead(started)
    assert.equal(started.last().timeoutMs, undefined)
    started.watch.close()
  })

  /** How many reads an agent gets that answers each at once. */
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
    it(`${rule} costs 20 reads, and then 10 a second`, async () => {
      const started = await start()
      assert.equal(await readsOf(started, 10_000, answer), 120)
      started.watch.close()
    })
  }

  it('an endpoint that cannot block costs a read in 5 seconds at most', async () => {
    const started = await start()
    // At 0, 5, … and 60 seconds.
    assert.equal(await readsOf(started, 60_000, () => ({})), 13)
    started.watch.close()
  })

  it('quiet times save up a burst and no more', async () => {
    const started = await start()
    await started.clock.advance(3_600_000)
    const inOneSecond = await readsOf(started, 1000, (read) => ({ index: read }))
    // The burst, and what a second brings; the read that is under way was paid for.
    assert.equal(inOneSecond, 1 + 20 + 10)
    started.watch.close()
  })

  it('a clock that is set back makes neither a burst nor a standstill', async () => {
    const started = await start()
    await readsOf(started, 5000, (read) => ({ index: read }))
    started.clock.set(started.clock.now() - 3_600_000)
    const count = await readsOf(started, 1000, (read) => ({ index: read }))
    assert.ok(count >= 9 && count <= 11, `${count} reads`)
    started.watch.close()
  })
})

describe('blocking: the parameters of a read', () => {
  const { signal } = new AbortController()
  const cases: [rule: string, given: BlockingQuery, query: object][] = [
    [
      'from the start it does not wait',
      { waitMs: 1000 },
      { index: undefined, hash: undefined, wait: undefined },
    ],
    ['after an index', { index: 5, waitMs: 1000 }, { index: 5, hash: undefined, wait: '1000ms' }],
    ['after a hash', { hash: 'a', waitMs: 1000 }, { index: undefined, hash: 'a', wait: '1000ms' }],
    ['with the wait of the agent', { index: 5 }, { index: 5, hash: undefined, wait: undefined }],
  ]
  for (const [rule, given, query] of cases) {
    it(rule, () => {
      assert.deepEqual(blocking({ ...given, signal, timeoutMs: 7 }), { query, signal, timeoutMs: 7 })
    })
  }
})

describe('Watch: what agents and proxies before them do to a blocking read', () => {
  const gatewayTimeout = (status: number): AgentError =>
    new AgentError('ERR_CONNECT_AGENT_FAILED', `${status}`, { address: 'a', request: 'GET /', status })

  for (const status of [408, 504, 524]) {
    it(`a ${status} after a while is no failure, and the next wait is shorter`, async () => {
      const { watch, clock, last, answer, fail, failures, reads } = await start()
      await answer({ index: 7 })
      await clock.advance(30_000)
      await fail(gatewayTimeout(status))
      assert.deepEqual(failures, [])
      assert.equal(reads.length, 3)
      assert.deepEqual([last().index, last().waitMs], [7, 24_000])
      await clock.advance(24_000)
      await answer({ index: 7 })
      assert.deepEqual([last().index, last().waitMs], [7, 24_000])
      watch.close()
    })
  }

  it('an agent that closes every connection after 30 s is no failure, and its bound is learned', async () => {
    const { watch, clock, last, answer, fail, failures } = await start()
    await answer({ index: 7 })
    for (const waitMs of [300_000, 24_000]) {
      await clock.advance(30_000)
      await fail(AWAY)
      assert.deepEqual([failures.length, last().index, last().waitMs], [0, 7, waitMs])
    }
    watch.close()
  })

  const failing: [rule: string, lastedMs: number, error: AgentError][] = [
    ['a 504 at once', 999, gatewayTimeout(504)],
    ['a 500 after a while', 30_000, gatewayTimeout(500)],
    ['a 504 after the agent should have answered', 300_000, gatewayTimeout(504)],
    ['a timeout of our own', 30_000, agentError('ERR_CONNECT_AGENT_TIMEOUT')],
    ['a connection that ends at once', 10, AWAY],
  ]
  for (const [rule, lastedMs, error] of failing) {
    it(`${rule} is a failure`, async () => {
      const { watch, clock, answer, fail, failures } = await start()
      await answer({ index: 7 })
      await clock.advance(lastedMs)
      await fail(error)
      assert.equal(failures.length, 1)
      watch.close()
    })
  }

  it('a plain read that hangs is tried again with the lowest index, and then plainly', async () => {
    const started = await start()
    const hung = agentError('ERR_CONNECT_AGENT_TIMEOUT')
    await started.fail(hung)
    await untilNextRead(started)
    const { index, waitMs, timeoutMs } = started.last()
    assert.deepEqual([index, waitMs, timeoutMs], [1, 1_000, undefined])
    await started.fail(hung)
    await untilNextRead(started)
    assert.equal(started.last().index, undefined)
    started.watch.close()
  })

  it('confirms a doubtful answer of a blocking read by a plain one', async () => {
    const isDoubtful = (value: unknown): boolean => value === 'none'
    const { watch, last, answer, values, failures, fail } = await start({ isDoubtful })
    // A plain read is believed.
    await answer({ value: 'none', index: 3 })
    await answer({ value: 'some', index: 7 })
    await answer({ value: 'none', index: 8 })
    assert.equal(last().index, undefined)
    await answer({ value: 'other', index: 9 })
    assert.deepEqual(values, ['none', 'some', 'other'])
    await answer({ value: 'none', index: 10 })
    await fail(agentError('ERR_CONNECT_AGENT_FORBIDDEN'))
    assert.deepEqual([values, failures.length], [['none', 'some', 'other'], 1])
    watch.close()
  })
})
