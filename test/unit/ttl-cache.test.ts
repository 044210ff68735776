import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { describe, it } from 'node:test'
import { ClosedError, DnsError } from '../../src/base/errors.js'
import { TtlCache, type Timed } from '../../src/resolve/ttl-cache.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { AWAY, FORBIDDEN, agentError } from '../fixtures/errors.js'

interface PendingRequest {
  readonly signal: AbortSignal
  readonly answer: (value: string, ttlMs?: number) => Promise<void>
  readonly fail: (error: Error) => Promise<void>
}

/** Creates a cache whose requests the test answers. */
function start() {
  const clock = new FakeClock()
  const requests: PendingRequest[] = []
  const cache = new TtlCache<string>(
    'test',
    clock,
    (signal) =>
      new Promise<Timed<string>>((resolve, reject) => {
        requests.push({
          signal,
          answer: async (value, ttlMs = 10_000) => {
            resolve({ value, ttlMs })
            await settle()
          },
          fail: async (error) => {
            reject(error)
            await settle()
          },
        })
        const stop = (): void => {
          reject(signal.reason as Error)
        }
        if (signal.aborted) stop()
        else signal.addEventListener('abort', stop)
      }),
  )
  const get = (refresh = false, signal = new AbortController().signal): Promise<string> =>
    cache.get(signal, refresh)
  return {
    clock,
    requests,
    cache,
    get,
    last: () => requests.at(-1)!,
    /** Gets a value by a new request. */
    learn: async (value: string, ttlMs?: number) => {
      const before = requests.length
      const pending = get()
      assert.equal(requests.length, before + 1)
      await requests.at(-1)!.answer(value, ttlMs)
      assert.equal(await pending, value)
    },
  }
}

describe('TtlCache: cached answers', () => {
  it('returns an answer for its TTL, and not a millisecond longer', async () => {
    const { clock, requests, get, learn, last } = start()
    await learn('one', 5_000)
    assert.equal(await get(), 'one')
    clock.set(clock.now() + 4_999)
    assert.equal(await get(), 'one')
    assert.equal(requests.length, 1)
    clock.set(clock.now() + 1)
    const later = get()
    assert.equal(requests.length, 2)
    await last().answer('two')
    assert.equal(await later, 'two')
  })

  it('counts the TTL from the answer, not from the request', async () => {
    const { clock, requests, get } = start()
    const first = get()
    clock.set(clock.now() + 60_000)
    await requests[0]!.answer('one', 5_000)
    assert.equal(await first, 'one')
    clock.set(clock.now() + 4_999)
    assert.equal(await get(), 'one')
    assert.equal(requests.length, 1)
  })

  it('shares one request among concurrent calls', async () => {
    const { requests, get } = start()
    const waiting = [get(), get(true), get(), get(true)]
    assert.equal(requests.length, 1)
    await requests[0]!.answer('one')
    assert.deepEqual(await Promise.all(waiting), ['one', 'one', 'one', 'one'])
    assert.equal(requests.length, 1)
  })

  it('returns an answer with a TTL of 0 to the waiting calls only', async () => {
    const { requests, get, last } = start()
    const waiting = [get(), get()]
    await last().answer('one', 0)
    assert.deepEqual(await Promise.all(waiting), ['one', 'one'])
    // In the same millisecond.
    const later = get()
    assert.equal(requests.length, 2)
    await last().answer('two', 0)
    assert.equal(await later, 'two')
  })

  it('caches undefined', async () => {
    const clock = new FakeClock()
    let asked = 0
    const cache = new TtlCache<undefined>('test', clock, () => {
      asked += 1
      return Promise.resolve({ value: undefined, ttlMs: 1_000 })
    })
    const { signal } = new AbortController()
    for (let i = 0; i < 3; i += 1) await cache.get(signal, false)
    assert.equal(asked, 1)
  })

  it('requests the value again after the clock was set back', async () => {
    const { clock, requests, get, learn } = start()
    await learn('one')
    clock.set(clock.now() - 1)
    const value = get()
    assert.equal(requests.length, 2)
    await requests[1]!.answer('two')
    assert.equal(await value, 'two')
  })
})

describe('TtlCache: refresh', () => {
  it('requests the value again within the TTL, but not within a second', async () => {
    const { clock, requests, get, learn, last } = start()
    await learn('one', 60_000)
    clock.set(clock.now() + 999)
    assert.equal(await get(true), 'one')
    assert.equal(requests.length, 1)
    clock.set(clock.now() + 1)
    const refreshed = get(true)
    assert.equal(requests.length, 2)
    await last().answer('two', 60_000)
    assert.equal(await refreshed, 'two')
    assert.equal(await get(), 'two')
    assert.equal(await get(true), 'two')
    assert.equal(requests.length, 2)
  })

  it('returns an answer less than a second old, even when its TTL has passed', async () => {
    const { clock, requests, get, learn } = start()
    await learn('one', 0)
    clock.set(clock.now() + 999)
    assert.equal(await get(true), 'one')
    assert.equal(requests.length, 1)
    void get(false)
    assert.equal(requests.length, 2)
    await requests[1]!.answer('two')
  })

  it('does not delay calls without refresh', async () => {
    const { clock, requests, get, learn, last } = start()
    await learn('one', 60_000)
    clock.set(clock.now() + 5_000)
    const refreshed = get(true)
    assert.equal(await get(), 'one')
    assert.equal(requests.length, 2)
    await last().answer('two')
    assert.equal(await refreshed, 'two')
  })
})

describe('TtlCache: failure', () => {
  for (const [kind, error] of [
    ['is unreachable', AWAY],
    ['does not answer', new DnsError('127.0.0.1:8600', 'SRV web', 'no answer')],
  ] as const) {
    it(`returns the last good answer while the server ${kind}, and requests it again after growing pauses`, async () => {
      const { clock, requests, get, learn, cache, last } = start()
      await learn('one', 1_000)
      clock.set(clock.now() + 1_000)
      for (const [i, pause] of [100, 200, 400, 800, 1600, 2000, 2000].entries()) {
        const stale = get()
        assert.equal(requests.length, i + 2)
        await last().fail(error)
        assert.equal(await stale, 'one')
        assert.equal(cache.lastError, error)
        for (const refresh of [false, true]) assert.equal(await get(refresh), 'one')
        clock.set(clock.now() + pause - 1)
        for (const refresh of [false, true]) assert.equal(await get(refresh), 'one')
        assert.equal(requests.length, i + 2)
        clock.set(clock.now() + 1)
      }
      assert.equal(clock.pending, 0)
      await learn('two', 1_000)
      assert.equal(cache.lastError, undefined)
      // A success resets the pauses.
      clock.set(clock.now() + 1_000)
      const stale = get()
      await last().fail(error)
      assert.equal(await stale, 'two')
      clock.set(clock.now() + 100)
      await learn('three')
    })
  }

  it('does not prolong a pause after the clock was set back', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 1_000)
    const stale = get()
    await last().fail(AWAY)
    await stale
    clock.set(clock.now() - 3_600_000)
    await learn('two')
  })

  it('returns the last good answer after a failed refresh', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 60_000)
    clock.set(clock.now() + 5_000)
    const refreshed = get(true)
    await last().fail(AWAY)
    assert.equal(await refreshed, 'one')
  })

  it('rejects after a refusal instead of returning the last good answer', async () => {
    const { requests, clock, get, learn, last } = start()
    await learn('one', 1_000)
    for (let i = 2; i < 5; i += 1) {
      clock.set(clock.now() + 1_000)
      const refused = assert.rejects(get(), (error) => error === FORBIDDEN)
      assert.equal(requests.length, i)
      await last().fail(FORBIDDEN)
      await refused
    }
  })

  it('starts the pause at the failure', async () => {
    const { requests, clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 1_000)
    const stale = get()
    await clock.advance(10_000)
    assert.equal(await stale, 'one')
    await last().fail(AWAY)
    clock.set(clock.now() + 99)
    assert.equal(await get(), 'one')
    assert.equal(requests.length, 2)
    clock.set(clock.now() + 1)
    await learn('two')
  })

  it('returns the last good answer for a day at most', async () => {
    const { clock, get, learn, last, cache } = start()
    await learn('one', 1_000)
    clock.set(clock.now() + 24 * 3_600_000 - 1)
    const stale = get()
    await last().fail(AWAY)
    assert.equal(await stale, 'one')
    clock.set(clock.now() + 1)
    const expired = assert.rejects(get(), ClosedError)
    await settle()
    cache.close()
    await clock.advance(2_000)
    await expired
  })

  it('waits half a second for a request that hangs, and then returns the last good answer at once', async () => {
    const { clock, requests, get, learn, last } = start()
    await learn('one', 1_000)
    clock.set(clock.now() + 1_000)
    const values: string[] = []
    for (let i = 0; i < 2; i += 1) void get().then((value) => values.push(value))
    await clock.advance(499)
    assert.deepEqual(values, [])
    await clock.advance(1)
    assert.deepEqual(values, ['one', 'one'])
    assert.equal(await get(), 'one')
    assert.equal(clock.pending, 0)
    assert.equal(requests.length, 2)
    assert.equal(requests[1]!.signal.aborted, false)
    // The late answer is stored.
    await last().answer('two')
    assert.equal(await get(), 'two')
    assert.deepEqual([requests.length, clock.pending], [2, 0])
  })

  it('handles the rejection of a request that no call awaits', async () => {
    const { clock, get, learn, last, cache } = start()
    await learn('one', 1_000)
    clock.set(clock.now() + 1_000)
    const stale = get()
    await clock.advance(1_000)
    assert.equal(await stale, 'one')
    await last().fail(AWAY)
    assert.equal(cache.lastError, AWAY)
  })

  it('waits for the first answer without a limit', async () => {
    const { clock, get, last } = start()
    let isDone = false
    const value = get().finally(() => {
      isDone = true
    })
    await clock.advance(600_000)
    assert.equal(isDone, false)
    await last().answer('one')
    assert.equal(await value, 'one')
  })

  it('repeats the first request after transient errors, with growing pauses', async () => {
    const { clock, requests, get, cache, last } = start()
    const value = get()
    const pauses = [100, 200, 400, 800, 1600, 2000, 2000, 2000]
    for (const [i, pause] of pauses.entries()) {
      await last().fail(AWAY)
      assert.equal(cache.lastError, AWAY)
      await clock.advance(pause - 1)
      assert.equal(requests.length, i + 1)
      await clock.advance(1)
      assert.equal(requests.length, i + 2)
    }
    await last().answer('one')
    assert.equal(await value, 'one')
    assert.equal(cache.lastError, undefined)
    assert.equal(clock.pending, 0)
  })

  it('repeats the first request no faster for 100 callers, and answers them all', async () => {
    const { clock, requests, get } = start()
    const waiting: Promise<string>[] = []
    let failed = 0
    for (let ms = 0; ms < 10_000; ms += 10) {
      if (waiting.length < 100) waiting.push(get())
      while (failed < requests.length) await requests[failed++]!.fail(AWAY)
      await clock.advance(10)
    }
    // At the rate of the pauses of a single caller.
    assert.equal(requests.length, 9)
    await clock.advance(2_000)
    await requests.at(-1)!.answer('one')
    assert.deepEqual(await Promise.all(waiting), Array<string>(100).fill('one'))
  })

  const permanent: Error[] = [
    FORBIDDEN,
    new DnsError('127.0.0.1:8600', 'SRV web', 'no answer'),
    agentError('ERR_CONNECT_AGENT_NOT_FOUND'),
    agentError('ERR_CONNECT_AGENT_SHAPE'),
    new Error('no'),
  ]
  for (const error of permanent) {
    it(`rejects all callers of the first request, and requests the value again after a pause: ${String(error)}`, async () => {
      const { clock, requests, get, cache, learn } = start()
      for (const count of [1, 2, 3]) {
        const waiting = [get(), get()].map((each) => assert.rejects(each, (thrown) => thrown === error))
        await requests.at(-1)!.fail(error)
        await Promise.all(waiting)
        await assert.rejects(get(), (thrown) => thrown === error)
        assert.deepEqual([requests.length, clock.pending, cache.lastError], [count, 0, error])
        clock.set(clock.now() + 2_000)
      }
      await learn('one')
    })
  }

  it('wraps a thrown value that is not an Error', async () => {
    const { get, last, cache } = start()
    const value = get()
    const rejected = assert.rejects(value)
    await last().fail('nonsense' as unknown as Error)
    await rejected
    assert.match(cache.lastError!.message, /nonsense/)
  })

  it('rejects when the request throws synchronously', async () => {
    let asked = 0
    const clock = new FakeClock()
    const cache = new TtlCache<string>('test', clock, () => {
      asked += 1
      if (asked === 1) throw FORBIDDEN
      return Promise.resolve({ value: 'one', ttlMs: 0 })
    })
    const { signal } = new AbortController()
    await assert.rejects(cache.get(signal, false), (error) => error === FORBIDDEN)
    clock.set(clock.now() + 100)
    assert.equal(await cache.get(signal, false), 'one')
  })
})

describe("TtlCache: the caller's signal", () => {
  it('rejects the call with its reason, and no other call', async () => {
    const { requests, get } = start()
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const [aborted, value] = [get(false, controller.signal), get()]
    const rejected = assert.rejects(aborted, (error) => error === reason)
    controller.abort(reason)
    await rejected
    assert.equal(requests[0]!.signal.aborted, false)
    await requests[0]!.answer('one')
    assert.equal(await value, 'one')
    assert.equal(await get(), 'one')
    assert.equal(requests.length, 1)
  })

  it('does not abort the request when all callers have aborted', async () => {
    const { requests, get } = start()
    const controller = new AbortController()
    const rejected = assert.rejects(get(false, controller.signal))
    controller.abort()
    await rejected
    const next = get()
    assert.equal(requests.length, 1)
    await requests[0]!.answer('one')
    assert.equal(await next, 'one')
  })

  it('handles the rejection of a request when all callers have aborted', async () => {
    const { requests, get } = start()
    const controller = new AbortController()
    const rejected = assert.rejects(get(false, controller.signal))
    controller.abort()
    await rejected
    await requests[0]!.fail(FORBIDDEN)
  })

  it('rejects at once when it is aborted already, with an error', async () => {
    const reason = new Error('enough')
    const { requests, get } = start()
    await assert.rejects(get(false, AbortSignal.abort(reason)), (error) => error === reason)
    await assert.rejects(get(false, AbortSignal.abort('enough')), { message: /enough/ })
    assert.equal(requests.length, 0)
  })

  it('rejects with an error when its reason is not an Error', async () => {
    const { get, last } = start()
    const controller = new AbortController()
    const rejected = assert.rejects(get(false, controller.signal), { message: /enough/ })
    controller.abort('enough')
    await rejected
    await last().answer('one')
  })

  it('rejects with a reason that equals a transient error', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 1_000)
    const controller = new AbortController()
    const rejected = assert.rejects(get(false, controller.signal), (error) => error === AWAY)
    controller.abort(AWAY)
    await rejected
    await last().answer('two')
  })

  it('rejects despite a last good answer, and leaves no timer and no listener', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 5_000)
    const controller = new AbortController()
    const reason = new Error('enough')
    const rejected = assert.rejects(get(false, controller.signal), (error) => error === reason)
    controller.abort(reason)
    await rejected
    assert.equal(clock.pending, 0)
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
    await last().answer('two')
  })

  it('has no listener left when the last good answer is returned', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 5_000)
    const { signal } = new AbortController()
    const stale = get(false, signal)
    await clock.advance(1_000)
    await stale
    await settle()
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    await last().answer('two')
  })

  it('ends a pause between two requests, and leaves no timer', async () => {
    const { clock, requests, get, last } = start()
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const rejected = assert.rejects(get(false, controller.signal), (error) => error === reason)
    await last().fail(AWAY)
    assert.equal(clock.pending, 1)
    controller.abort(reason)
    await rejected
    assert.deepEqual([requests.length, clock.pending], [1, 0])
  })

  it('has no listener left after success and failure', async () => {
    const { clock, get, last } = start()
    const { signal } = new AbortController()
    const value = get(false, signal)
    assert.equal(getEventListeners(signal, 'abort').length, 1)
    await last().fail(AWAY)
    await clock.advance(100)
    await last().answer('one', 0)
    await value
    const failed = get(false, signal)
    await last().fail(AWAY)
    await failed
    await settle()
    assert.equal(getEventListeners(signal, 'abort').length, 0)
  })
})

describe('TtlCache: expire', () => {
  it('makes the next call request a value that is less than a second old', async () => {
    for (const refresh of [false, true]) {
      const { cache, get, last, learn } = start()
      cache.expire()
      await learn('a')
      cache.expire()
      const pending = get(refresh)
      await last().answer('b')
      assert.equal(await pending, 'b')
      assert.equal(await get(), 'b')
    }
  })

  it('keeps the last value in use while no answer comes', async () => {
    const { clock, cache, requests, get, last, learn } = start()
    await learn('a')
    cache.expire()
    const failing = get()
    await last().fail(AWAY)
    assert.equal(await failing, 'a')
    clock.set(clock.now() + 100)
    const slow = get()
    await clock.advance(500)
    assert.equal(await slow, 'a')
    await last().answer('b')
    assert.equal(await get(), 'b')
    assert.equal(requests.length, 3)
  })

  it('does not cache the answer to a pending request, which may be from before the change', async () => {
    const { cache, requests, get } = start()
    const before = get()
    cache.expire()
    const after = get()
    assert.equal(requests.length, 2)
    await requests[1]!.answer('new')
    await requests[0]!.answer('old')
    assert.deepEqual(await Promise.all([before, after]), ['old', 'new'])
    assert.equal(await get(), 'new')
  })
})

describe('TtlCache: close', () => {
  it('aborts the request, and rejects all calls', async () => {
    const { requests, get, cache, clock } = start()
    const waiting = [get(), get()].map((each) =>
      assert.rejects(each, (error) => error instanceof ClosedError && error.message.startsWith('test')),
    )
    cache.close()
    await Promise.all(waiting)
    assert.equal(requests[0]!.signal.aborted, true)
    assert.equal(clock.pending, 0)
  })

  it('rejects despite a last good answer', async () => {
    const { clock, get, learn, cache } = start()
    await learn('one', 0)
    clock.set(clock.now() + 5_000)
    const rejected = assert.rejects(get(), ClosedError)
    cache.close()
    await rejected
  })

  it('does not repeat a failed request', async () => {
    const { requests, get, cache, clock } = start()
    const rejected = assert.rejects(get(), (error) => error === AWAY)
    const failed = requests[0]!.fail(AWAY)
    cache.close()
    await failed
    await rejected
    assert.equal(clock.pending, 0)
  })

  it('rejects later calls', async () => {
    const { get, cache } = start()
    cache.close()
    cache.close()
    await assert.rejects(get(), ClosedError)
  })

  it('rejects despite a cached answer', async () => {
    const { get, learn, cache, requests } = start()
    await learn('one', 60_000)
    cache.close()
    for (const refresh of [false, true]) await assert.rejects(get(refresh), ClosedError)
    assert.equal(requests.length, 1)
  })

  it('rejects a call in a pause by the end of the pause', async () => {
    const { clock, get, last, cache } = start()
    const rejected = assert.rejects(get(), ClosedError)
    await last().fail(AWAY)
    cache.close()
    await clock.advance(100)
    await rejected
    assert.equal(clock.pending, 0)
  })
})
