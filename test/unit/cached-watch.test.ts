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

/** A watched value whose reads are answered by hand. */
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

describe('Watched: the first value', () => {
  it('comes to all who wait for it, and later at once, without a read', async () => {
    const { watched, reads, first } = start()
    assert.equal(watched.value, undefined)
    const waiting = [first(), first(), first()]
    assert.equal(reads.length, 1)
    await reads[0]!.answer('one')
    assert.deepEqual(await Promise.all(waiting), ['one', 'one', 'one'])
    assert.equal(watched.value, 'one')
    assert.equal(await first(), 'one')
    // The second read blocks: nobody caused it.
    assert.equal(reads.length, 2)
    assert.equal(reads[1]!.query.index, 1)
    watched.close()
  })

  it('is waited for while the agent is away', async () => {
    const { watched, clock, first, last, reads } = start()
    const got = first()
    await last().fail(AWAY)
    await clock.advance(20_000)
    assert.equal(await isPending(got), true)
    assert.equal(watched.lastError, AWAY)
    await last().fail(AWAY)
    await clock.advance(20_000)
    assert.ok(reads.length >= 3)
    await last().answer('one')
    assert.equal(await got, 'one')
    assert.equal(watched.lastError, undefined)
    watched.close()
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
    it(`is not waited for where somebody has to do something: ${code}`, async () => {
      const { watched, first, last } = start()
      const error = agentError(code)
      const waiting = [first(), first()].map((each) => assert.rejects(each, (thrown) => thrown === error))
      await last().fail(error)
      await Promise.all(waiting)
      watched.close()
    })
  }

  it('is asked for at once by whoever comes after a second of a pause', async () => {
    const { watched, clock, first, last, reads } = start()
    await settle()
    await last().fail(FORBIDDEN)
    await clock.advance(1_000)
    await last().fail(FORBIDDEN)
    assert.equal(reads.length, 2)
    // The pause is of two seconds now. Who comes early is told what the last read was told.
    await assert.rejects(first(), (error) => error === FORBIDDEN)
    await clock.advance(1_000)
    assert.equal(reads.length, 2)
    const got = first()
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('one')
    assert.equal(await got, 'one')
    watched.close()
  })

  for (const [kind, error] of [
    ['is away', AWAY],
    ['limits its rate', agentError('ERR_CONNECT_AGENT_RATE_LIMITED')],
  ] as const) {
    it(`those who wait do not make the pauses shorter while the agent ${kind}`, async () => {
      const { watched, clock, first, reads } = start()
      const mine = new AbortController()
      const waiting = [first(mine.signal), first(mine.signal)].map((each) => assert.rejects(each))
      const until = clock.now() + 10_000
      let failed = 0
      while (clock.now() < until) {
        if (failed < reads.length) await reads[failed++]!.fail(error)
        else await clock.advance(Math.min(clock.delays[0] ?? 1, until - clock.now()))
      }
      mine.abort()
      await Promise.all(waiting)
      watched.close()
      // At 0, 50, 150, 350, 750, 1550, 3150 and 6350 ms, or fewer.
      assert.ok(reads.length <= 9, `${reads.length} reads in 10 s`)
    })
  }

  it('undefined is a value too', async () => {
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
    watched.close()
  })
})

describe('Watched: the value later on', () => {
  it('is the last good one while reads fail, whatever they fail with', async () => {
    const { watched, clock, first, last } = start()
    await last().answer('one')
    for (const error of [AWAY, FORBIDDEN]) {
      await last().fail(error)
      assert.equal(watched.lastError, error)
      assert.equal(await first(), 'one')
      await clock.advance(60_000)
    }
    watched.close()
  })

  it('tells of each that differs', async () => {
    const { watched, clock, last } = start()
    const told: string[] = []
    watched.on('value', () => told.push(`value ${watched.value ?? ''}`))
    await last().answer('one')
    await last().answer('one')
    await last().answer('two')
    await last().fail(AWAY)
    await clock.advance(60_000)
    await last().answer('two')
    assert.deepEqual(told, ['value one', 'value two'])
    watched.close()
  })
})

describe('Watched: refreshed', () => {
  it('is what there is when it was read within a second', async () => {
    const { watched, clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 999)
    assert.equal(await refreshed(), 'one')
    assert.equal(reads.length, 2)
    assert.equal(reads[1]!.query.signal?.aborted, false)
    watched.close()
  })

  it('else it is read anew, without an index, and the read that blocks is given up', async () => {
    const { watched, clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 1_000)
    const got = refreshed()
    await settle()
    assert.equal(reads.length, 3)
    assert.equal(reads[1]!.query.signal?.aborted, true)
    assert.equal(reads[2]!.query.index, undefined)
    await last().answer('two')
    assert.equal(await got, 'two')
    watched.close()
  })

  it('is what there was when nothing new is read', async () => {
    const { watched, clock, last, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 1_000)
    const got = refreshed()
    await settle()
    await last().answer('one')
    assert.equal(await got, 'one')
    watched.close()
  })

  it('counts the time from the last read, whether or not it brought something new', async () => {
    const { watched, clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 60_000)
    await last().answer('one')
    assert.equal(await refreshed(), 'one')
    assert.equal(reads.length, 3)
    watched.close()
  })

  it('those who come while it is read share the read', async () => {
    const { watched, clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() + 5_000)
    const waiting = [refreshed(), refreshed()]
    await settle()
    waiting.push(refreshed())
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('two')
    assert.deepEqual(await Promise.all(waiting), ['two', 'two', 'two'])
    watched.close()
  })

  it('is the last good one when the agent cannot be asked', async () => {
    for (const error of [AWAY, FORBIDDEN]) {
      const { watched, clock, last, refreshed } = start()
      await last().answer('one')
      clock.set(clock.now() + 5_000)
      const got = refreshed()
      await settle()
      await last().fail(error)
      assert.equal(await got, 'one')
      watched.close()
    }
  })

  it('ends a pause after a failure', async () => {
    const { watched, clock, last, reads, refreshed } = start()
    await last().answer('one')
    await last().fail(FORBIDDEN)
    clock.set(clock.now() + 999)
    assert.equal(await refreshed(), 'one')
    assert.equal(reads.length, 2)
    clock.set(clock.now() + 1)
    const got = refreshed()
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('two')
    assert.equal(await got, 'two')
    watched.close()
  })

  it('before the first value is the first value, by one read', async () => {
    const { watched, reads, refreshed, last } = start()
    const got = refreshed()
    await settle()
    assert.equal(reads.length, 1)
    await last().answer('one')
    assert.equal(await got, 'one')
    assert.equal(reads.length, 2)
    watched.close()
  })

  it('before the first value fails as the first value does', async () => {
    const { watched, refreshed, last } = start()
    const rejected = assert.rejects(refreshed(), (error) => error === FORBIDDEN)
    await settle()
    await last().fail(FORBIDDEN)
    await rejected
    watched.close()
  })

  it('a clock that was set back makes the last read one of the future: it is read again', async () => {
    const { watched, clock, last, reads, refreshed } = start()
    await last().answer('one')
    clock.set(clock.now() - 1)
    const got = refreshed()
    await settle()
    assert.equal(reads.length, 3)
    await last().answer('two')
    assert.equal(await got, 'two')
    watched.close()
  })
})

describe("Watched: the caller's signal", () => {
  const reason = new Error('enough')

  for (const method of ['first', 'refreshed'] as const) {
    it(`${method}: ends the wait of its caller, with its reason, and nobody else’s`, async () => {
      const started = start()
      const { watched, clock, reads, last } = started
      if (method === 'refreshed') {
        await last().answer('zero')
        clock.set(clock.now() + 5_000)
      }
      const mine = new AbortController()
      const impatient = assert.rejects(started[method](mine.signal), (error) => error === reason)
      const patient = started[method]()
      await settle()
      mine.abort(reason)
      await impatient
      assert.equal(last().query.signal?.aborted, false)
      const count = reads.length
      await last().answer('one')
      assert.equal(await patient, 'one')
      assert.equal(reads.length, count + 1)
      watched.close()
    })
  }

  it('that is aborted beforehand', async () => {
    const { watched, first } = start()
    await assert.rejects(first(AbortSignal.abort(reason)), (error) => error === reason)
    await assert.rejects(first(AbortSignal.abort('enough')), { message: /enough/ })
    watched.close()
  })

  it('keeps no listener, and neither does the value', async () => {
    const { watched, clock, first, refreshed, last } = start()
    const { signal } = new AbortController()
    const got = first(signal)
    await last().fail(AWAY)
    await clock.advance(10_000)
    await last().answer('one')
    await got
    clock.set(clock.now() + 5_000)
    const again = refreshed(signal)
    await settle()
    await last().fail(AWAY)
    await again
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    assert.deepEqual(watched.eventNames(), [])
    watched.close()
  })
})

describe('Watched: close', () => {
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

  it('ends the wait of whoever still waits, and of whoever comes', async () => {
    const { watched, first } = start()
    const got = assert.rejects(first(), ClosedError)
    watched.close()
    await got
    await assert.rejects(first(), ClosedError)
  })
})
