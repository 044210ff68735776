import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { describe, it } from 'node:test'
import type { AgentResponse } from '../../src/agent/client.js'
import type { BlockingQuery } from '../../src/agent/watch.js'
import { CachedWatch } from '../../src/agent/cached-watch.js'
import { ClosedError, type ErrorCode } from '../../src/base/errors.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { AWAY, FORBIDDEN, agentError } from '../fixtures/errors.js'

interface Read {
  readonly query: BlockingQuery
  readonly answer: (value: string, index?: number) => Promise<void>
  readonly fail: (error?: Error) => Promise<void>
}

/** Starts a watch whose reads the test answers. */
function start() {
  const clock = new FakeClock()
  const reads: Read[] = []
  const watched: CachedWatch<string> = new CachedWatch<string>({
    name: 'test',
    clock,
    random: () => 0,
    fetch: (query) =>
      new Promise<AgentResponse<string>>((resolve, reject) => {
        reads.push({
          query,
          answer: async (value, index = reads.length) => {
            resolve({ value, index, hash: undefined })
            await settle()
          },
          fail: async (error = AWAY) => {
            reject(error)
            await settle()
          },
        })
        query.signal?.addEventListener('abort', () => {
          reject(new Error('aborted'))
        })
      }),
  })
  return {
    clock,
    reads,
    watched,
    last: () => reads.at(-1)!,
    first: (signal = new AbortController().signal) => watched.first(signal),
    refreshed: (signal = new AbortController().signal) => watched.refreshed(signal),
  }
}

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  await settle()
  const pending = Symbol('pending')
  return (await Promise.race([promise.catch(() => undefined), Promise.resolve(pending)])) === pending
}

describe('CachedWatch: the first value', () => {
  it('reaches all waiting callers, and later callers without another read', async () => {
    const { watched, reads, first } = start()
    assert.equal(watched.value, undefined)
    const waiting = [first(), first(), first()]
    assert.equal(reads.length, 1)
    await reads[0]!.answer('one')
    assert.deepEqual(await Promise.all(waiting), ['one', 'one', 'one'])
    assert.equal(watched.value, 'one')
    assert.equal(await first(), 'one')
    // The second read is the blocking read of the watch.
    assert.equal(reads.length, 2)
    assert.equal(reads[1]!.query.index, 1)
  })

  it('is awaited while the agent is unreachable', async () => {
    const { watched, clock, first, last, reads } = start()
    const value = first()
    await last().fail(AWAY)
    await clock.advance(20_000)
    assert.equal(await isPending(value), true)
    assert.equal(watched.lastError, AWAY)
    await last().fail(AWAY)
    await clock.advance(20_000)
    assert.ok(reads.length >= 3)
    await last().answer('one')
    assert.equal(await value, 'one')
    assert.equal(watched.lastError, undefined)
  })

  const permanent: ErrorCode[] = [
    'ERR_CONNECT_AGENT_FORBIDDEN',
    'ERR_CONNECT_AGENT_NOT_FOUND',
    'ERR_CONNECT_AGENT_DATACENTER',
    'ERR_CONNECT_AGENT_REFUSED',
    'ERR_CONNECT_AGENT_SHAPE',
    'ERR_CONNECT_AGENT_NOT_JSON',
    'ERR_CONNECT_DISABLED',
  ]
  for (const code of permanent) {
    it(`rejects after ${code}, which a retry does not fix`, async () => {
      const { first, last } = start()
      const error = agentError(code)
      const waiting = [first(), first()].map((each) => assert.rejects(each, (thrown) => thrown === error))
      await last().fail(error)
      await Promise.all(waiting)
    })
  }

  it('is requested at once by a call after the first second of a pause', async () => {
    const { clock, first, last, reads } = start()
    await settle()
    await last().fail(FORBIDDEN)
    await clock.advance(1_000)
    await last().fail(FORBIDDEN)
    assert.equal(reads.length, 2)
    // The pause is now 2 s. A call within its first second gets the error of the last read.
    await assert.rejects(first(), (error) => error === FORBIDDEN)
    await clock.advance(1_000)
    assert.equal(reads.length, 2)
    const value = first()
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('one')
    assert.equal(await value, 'one')
  })

  for (const [kind, error] of [
    ['is unreachable', AWAY],
    ['limits its rate', agentError('ERR_CONNECT_AGENT_RATE_LIMITED')],
  ] as const) {
    it(`does not shorten the pauses for more callers while the agent ${kind}`, async () => {
      const { watched, clock, first, reads } = start()
      const controller = new AbortController()
      const waiting = [first(controller.signal), first(controller.signal)].map((each) => assert.rejects(each))
      const until = clock.now() + 10_000
      let failed = 0
      while (clock.now() < until) {
        if (failed < reads.length) await reads[failed++]!.fail(error)
        else await clock.advance(Math.min(clock.delays[0] ?? 1, until - clock.now()))
      }
      controller.abort()
      await Promise.all(waiting)
      watched.close()
      // At 0, 50, 150, 350, 750, 1,550, 3,150, and 6,350 ms, or fewer.
      assert.ok(reads.length <= 9, `${reads.length} reads in 10 s`)
    })
  }

  it('may be undefined', async () => {
    const clock = new FakeClock()
    let reads = 0
    const watched = new CachedWatch<undefined>({
      name: 'test',
      clock,
      random: () => 0,
      fetch: () => {
        reads += 1
        return reads === 1
          ? Promise.resolve({ value: undefined, index: 1, hash: undefined })
          : new Promise(() => undefined)
      },
    })
    const { signal } = new AbortController()
    await watched.first(signal)
    await watched.first(signal)
    assert.equal(reads, 2)
  })
})

describe('CachedWatch: later values', () => {
  it('keeps the last good value while reads fail', async () => {
    const { watched, clock, first, last } = start()
    await last().answer('one')
    for (const error of [AWAY, FORBIDDEN]) {
      await last().fail(error)
      assert.equal(watched.lastError, error)
      assert.equal(await first(), 'one')
      await clock.advance(60_000)
    }
  })

  it('emits each value that differs from the last', async () => {
    const { watched, clock, last } = start()
    const values: unknown[] = []
    watched.on('value', () => values.push(watched.value))
    await last().answer('one')
    await last().answer('one')
    await last().answer('two')
    await last().fail(AWAY)
    await clock.advance(60_000)
    await last().answer('two')
    assert.deepEqual(values, ['one', 'two'])
  })
})

describe('CachedWatch: refreshed', () => {
  it('returns the cached value when its last read is less than a second old', async () => {
    const { clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 999)
    assert.equal(await refreshed(), 'one')
    assert.equal(reads.length, 2)
    assert.equal(reads[1]!.query.signal?.aborted, false)
  })

  for (const answered of ['one', 'two']) {
    it(`reads again without an index after a second, and aborts the blocking read: answer ${answered}`, async () => {
      const { clock, last, reads, refreshed } = start()
      await last().answer('one')
      clock.set(clock.now() + 1_000)
      const value = refreshed()
      await settle()
      assert.equal(reads.length, 3)
      assert.equal(reads[1]!.query.signal?.aborted, true)
      assert.equal(reads[2]!.query.index, undefined)
      await last().answer(answered)
      assert.equal(await value, answered)
    })
  }

  it('counts the time from the last read, with or without a new value', async () => {
    const { clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 60_000)
    await last().answer('one')
    assert.equal(await refreshed(), 'one')
    assert.equal(reads.length, 3)
  })

  it('shares one read among concurrent callers', async () => {
    const { clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 5_000)
    const waiting = [refreshed(), refreshed()]
    await settle()
    waiting.push(refreshed())
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('two')
    assert.deepEqual(await Promise.all(waiting), ['two', 'two', 'two'])
  })

  it('returns the last good value when the read fails', async () => {
    for (const error of [AWAY, FORBIDDEN]) {
      const { watched, clock, last, refreshed } = start()
      await last().answer('one')
      clock.set(clock.now() + 5_000)
      const value = refreshed()
      await settle()
      await last().fail(error)
      assert.equal(await value, 'one')
      watched.close()
    }
  })

  it('ends a pause after a failure', async () => {
    const { clock, last, reads, refreshed } = start()
    await last().answer('one')
    await last().fail(FORBIDDEN)
    clock.set(clock.now() + 999)
    assert.equal(await refreshed(), 'one')
    assert.equal(reads.length, 2)
    clock.set(clock.now() + 1)
    const value = refreshed()
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('two')
    assert.equal(await value, 'two')
  })

  it('waits for the first value by one read', async () => {
    const { reads, refreshed, last } = start()
    const value = refreshed()
    await settle()
    assert.equal(reads.length, 1)
    await last().answer('one')
    assert.equal(await value, 'one')
    assert.equal(reads.length, 2)
  })

  it('rejects before the first value when first() would', async () => {
    const { refreshed, last } = start()
    const rejected = assert.rejects(refreshed(), (error) => error === FORBIDDEN)
    await settle()
    await last().fail(FORBIDDEN)
    await rejected
  })

  it('reads again after the clock was set back', async () => {
    const { clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() - 1)
    const value = refreshed()
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('two')
    assert.equal(await value, 'two')
  })
})

describe("CachedWatch: the caller's signal", () => {
  const reason = new Error('enough')

  for (const method of ['first', 'refreshed'] as const) {
    it(`rejects ${method}() of its caller with its reason, and no other call`, async () => {
      const started = start()
      const { clock, reads, last } = started
      if (method === 'refreshed') {
        await last().answer('zero')
        clock.set(clock.now() + 5_000)
      }
      const controller = new AbortController()
      const aborted = assert.rejects(started[method](controller.signal), (error) => error === reason)
      const value = started[method]()
      await settle()
      controller.abort(reason)
      await aborted
      assert.equal(last().query.signal?.aborted, false)
      const count = reads.length
      await last().answer('one')
      assert.equal(await value, 'one')
      assert.equal(reads.length, count + 1)
    })
  }

  it('rejects at once when it is aborted already', async () => {
    const { first } = start()
    await assert.rejects(first(AbortSignal.abort(reason)), (error) => error === reason)
    await assert.rejects(first(AbortSignal.abort('enough')), { message: /enough/ })
  })

  it('has no listener left afterwards, and neither has the watch', async () => {
    const { watched, clock, first, refreshed, last } = start()
    const { signal } = new AbortController()
    const value = first(signal)
    await last().fail(AWAY)
    await clock.advance(10_000)
    await last().answer('one')
    await value
    clock.set(clock.now() + 5_000)
    const again = refreshed(signal)
    await settle()
    await last().fail(AWAY)
    await again
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    assert.deepEqual(watched.eventNames(), [])
  })
})

describe('CachedWatch: close', () => {
  it('ends the watch, and keeps the last good value', async () => {
    const { watched, clock, last, reads, first } = start()
    await last().answer('one')
    watched.close()
    watched.close()
    await clock.advance(600_000)
    assert.equal(reads.length, 2)
    assert.equal(reads[1]!.query.signal?.aborted, true)
    assert.equal(clock.pending, 0)
    assert.deepEqual([watched.value, await first()], ['one', 'one'])
  })

  it('rejects waiting and later calls before the first value', async () => {
    const { watched, first } = start()
    const rejected = assert.rejects(first(), ClosedError)
    watched.close()
    await rejected
    await assert.rejects(first(), ClosedError)
  })
})
