import assert from 'node:assert/strict'
import { getEventListeners, setMaxListeners } from 'node:events'
import { describe, it } from 'node:test'
import { ClosedError, DnsError } from '../../src/base/errors.js'
import { TtlCache, type Timed } from '../../src/resolve/ttl-cache.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { AWAY, FORBIDDEN, agentError } from '../fixtures/errors.js'

// Many wait on one signal here.
setMaxListeners(0)

interface Asking {
  readonly signal: AbortSignal
  readonly answer: (value: string, ttlMs?: number) => Promise<void>
  readonly fail: (error: Error) => Promise<void>
}

/** A look-up whose askings are answered by hand. */
function start() {
  const clock = new FakeClock()
  const askings: Asking[] = []
  const lookup = new TtlCache<string>(
    'test',
    clock,
    (signal) =>
      new Promise<Timed<string>>((resolve, reject) => {
        askings.push({
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
        // As whoever asks with bounds does.
        const stop = (): void => {
          reject(signal.reason as Error)
        }
        if (signal.aborted) stop()
        else signal.addEventListener('abort', stop)
      }),
  )
  const get = (refresh = false, signal = new AbortController().signal): Promise<string> =>
    lookup.get(signal, refresh)
  return {
    clock,
    askings,
    lookup,
    get,
    last: () => askings.at(-1)!,
    /** Gets a value, by an asking where there must be one. */
    learn: async (value: string, ttlMs?: number) => {
      const before = askings.length
      const got = get()
      assert.equal(askings.length, before + 1)
      await askings.at(-1)!.answer(value, ttlMs)
      assert.equal(await got, value)
    },
  }
}

describe('Lookup: memory', () => {
  it('the answer serves for as long as it says, and not a millisecond longer', async () => {
    const { clock, askings, get, learn, last } = start()
    await learn('one', 5_000)
    assert.equal(await get(), 'one')
    clock.set(clock.now() + 4_999)
    assert.equal(await get(), 'one')
    assert.equal(askings.length, 1)
    clock.set(clock.now() + 1)
    const later = get()
    assert.equal(askings.length, 2)
    await last().answer('two')
    assert.equal(await later, 'two')
  })

  it('the time runs from the answer, not from the question', async () => {
    const { clock, askings, get } = start()
    const first = get()
    clock.set(clock.now() + 60_000)
    await askings[0]!.answer('one', 5_000)
    assert.equal(await first, 'one')
    clock.set(clock.now() + 4_999)
    assert.equal(await get(), 'one')
    assert.equal(askings.length, 1)
  })

  it('all who wait share one asking', async () => {
    const { askings, get } = start()
    const waiting = [get(), get(true), get(), get(true)]
    assert.equal(askings.length, 1)
    await askings[0]!.answer('one')
    assert.deepEqual(await Promise.all(waiting), ['one', 'one', 'one', 'one'])
    assert.equal(askings.length, 1)
  })

  it('an answer for 0 ms is for those who wait for it, and nobody else', async () => {
    const { askings, get, last } = start()
    const waiting = [get(), get()]
    await last().answer('one', 0)
    assert.deepEqual(await Promise.all(waiting), ['one', 'one'])
    // In the same millisecond.
    const later = get()
    assert.equal(askings.length, 2)
    await last().answer('two', 0)
    assert.equal(await later, 'two')
  })

  it('an answer may be undefined', async () => {
    const clock = new FakeClock()
    let asked = 0
    const lookup = new TtlCache<undefined>('test', clock, () => {
      asked += 1
      return Promise.resolve({ value: undefined, ttlMs: 1_000 })
    })
    const { signal } = new AbortController()
    for (let i = 0; i < 3; i += 1) await lookup.get(signal, false)
    assert.equal(asked, 1)
  })

  it('a clock that was set back makes the answer one of the future: it is asked again', async () => {
    const { clock, askings, get, learn } = start()
    await learn('one')
    clock.set(clock.now() - 1)
    void get()
    assert.equal(askings.length, 2)
    await askings[1]!.answer('two')
    assert.equal(await get(), 'two')
  })
})

describe('Lookup: refresh', () => {
  it('asks again though the answer still holds, but not within a second', async () => {
    const { clock, askings, get, learn, last } = start()
    await learn('one', 60_000)
    clock.set(clock.now() + 999)
    assert.equal(await get(true), 'one')
    assert.equal(askings.length, 1)
    clock.set(clock.now() + 1)
    const refreshed = get(true)
    assert.equal(askings.length, 2)
    await last().answer('two', 60_000)
    assert.equal(await refreshed, 'two')
    assert.equal(await get(), 'two')
    assert.equal(await get(true), 'two')
    assert.equal(askings.length, 2)
  })

  it('within a second of an answer that holds for less', async () => {
    const { clock, askings, get, learn } = start()
    await learn('one', 0)
    clock.set(clock.now() + 999)
    assert.equal(await get(true), 'one')
    assert.equal(askings.length, 1)
    void get(false)
    assert.equal(askings.length, 2)
    await askings[1]!.answer('two')
  })

  it('those who do not want it meanwhile get what there is', async () => {
    const { clock, askings, get, learn, last } = start()
    await learn('one', 60_000)
    clock.set(clock.now() + 5_000)
    const refreshed = get(true)
    assert.equal(await get(), 'one')
    assert.equal(askings.length, 2)
    await last().answer('two')
    assert.equal(await refreshed, 'two')
  })
})

describe('Lookup: failure', () => {
  for (const [kind, error] of [
    ['away', AWAY],
    ['mute', new DnsError('127.0.0.1:8600', 'SRV web', 'no answer')],
  ] as const) {
    it(`whoever is asked is ${kind}: the last good answer serves on, and it is asked again after longer and longer pauses`, async () => {
      const { clock, askings, get, learn, lookup, last } = start()
      await learn('one', 1_000)
      clock.set(clock.now() + 1_000)
      for (const [i, pause] of [100, 200, 400, 800, 1600, 2000, 2000].entries()) {
        const stale = get()
        assert.equal(askings.length, i + 2)
        await last().fail(error)
        assert.equal(await stale, 'one')
        assert.equal(lookup.lastError, error)
        for (const refresh of [false, true]) assert.equal(await get(refresh), 'one')
        clock.set(clock.now() + pause - 1)
        for (const refresh of [false, true]) assert.equal(await get(refresh), 'one')
        assert.equal(askings.length, i + 2)
        clock.set(clock.now() + 1)
      }
      assert.equal(clock.pending, 0)
      await learn('two', 1_000)
      assert.equal(lookup.lastError, undefined)
      // With that the pauses are short again.
      clock.set(clock.now() + 1_000)
      const stale = get()
      await last().fail(error)
      assert.equal(await stale, 'two')
      clock.set(clock.now() + 100)
      await learn('three')
    })
  }

  it('a clock that was set back holds nobody up', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 1_000)
    const stale = get()
    await last().fail(AWAY)
    await stale
    clock.set(clock.now() - 3_600_000)
    await learn('two')
  })

  it('a refresh that fails gives the last good answer too', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 60_000)
    clock.set(clock.now() + 5_000)
    const refreshed = get(true)
    await last().fail(AWAY)
    assert.equal(await refreshed, 'one')
  })

  it('a refusal is an answer: the last good one does not serve on', async () => {
    const { askings, clock, get, learn, last } = start()
    await learn('one', 1_000)
    for (let i = 2; i < 5; i += 1) {
      clock.set(clock.now() + 1_000)
      const refused = assert.rejects(get(), (error) => error === FORBIDDEN)
      assert.equal(askings.length, i)
      await last().fail(FORBIDDEN)
      await refused
    }
  })

  for (const [kind, error] of [
    ['a refusal', FORBIDDEN],
    ['a server that is mute', new DnsError('127.0.0.1:8600', 'SRV web', 'no answer')],
  ] as const) {
    it(`${kind} is told to everybody who asks, with no pause, and repeated for nobody`, async () => {
      const { askings, get, last, learn } = start()
      for (let i = 1; i < 5; i += 1) {
        const refused = assert.rejects(get(), (thrown) => thrown === error)
        await settle()
        assert.equal(askings.length, i)
        await last().fail(error)
        await refused
      }
      await learn('one')
    })
  }

  it('after a refusal the last good answer does not serve either, and it is asked again at once', async () => {
    const { askings, clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 1_000)
    for (let i = 2; i < 5; i += 1) {
      const refused = assert.rejects(get(), (error) => error === FORBIDDEN)
      assert.equal(askings.length, i)
      await last().fail(FORBIDDEN)
      await refused
    }
  })

  it('a pause begins with the failure, however long the asking took', async () => {
    const { askings, clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 1_000)
    const stale = get()
    await clock.advance(10_000)
    assert.equal(await stale, 'one')
    await last().fail(AWAY)
    clock.set(clock.now() + 99)
    assert.equal(await get(), 'one')
    assert.equal(askings.length, 2)
    clock.set(clock.now() + 1)
    await learn('two')
  })

  it('the last good answer serves for a day at most', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 1_000)
    clock.set(clock.now() + 24 * 3_600_000 - 1)
    const stale = get()
    await last().fail(AWAY)
    assert.equal(await stale, 'one')
    // To the millisecond; the pause is not over yet.
    clock.set(clock.now() + 1)
    let got: unknown
    const late = new AbortController()
    const none = get(false, late.signal).then(
      (value) => {
        got = value
      },
      () => undefined,
    )
    await settle()
    assert.equal(got, undefined)
    late.abort()
    await none
    clock.set(clock.now() + 60_000)
    const mine = new AbortController()
    const waiting = assert.rejects(get(false, mine.signal))
    await last().fail(AWAY)
    mine.abort()
    await waiting
  })

  it('an asking that hangs keeps the last good answer back for half a second, and nobody who comes later', async () => {
    const { clock, askings, get, learn, last } = start()
    await learn('one', 1_000)
    clock.set(clock.now() + 1_000)
    const got: string[] = []
    for (let i = 0; i < 2; i += 1) void get().then((value) => got.push(value))
    await clock.advance(499)
    assert.deepEqual(got, [])
    await clock.advance(1)
    assert.deepEqual(got, ['one', 'one'])
    assert.equal(await get(), 'one')
    assert.equal(clock.pending, 0)
    assert.equal(askings.length, 2)
    assert.equal(askings[1]!.signal.aborted, false)
    // What comes late serves all the same.
    await last().answer('two')
    assert.equal(await get(), 'two')
    assert.deepEqual([askings.length, clock.pending], [2, 0])
  })
  it('an asking that hangs and fails is no unhandled rejection', async () => {
    const { clock, get, learn, last, lookup } = start()
    await learn('one', 1_000)
    clock.set(clock.now() + 1_000)
    const stale = get()
    await clock.advance(1_000)
    assert.equal(await stale, 'one')
    await last().fail(AWAY)
    assert.equal(lookup.lastError, AWAY)
  })

  it('the first answer is waited for, however long it takes', async () => {
    const { clock, get, last } = start()
    let got: string | undefined
    const waiting = get().then((value) => {
      got = value
    })
    await clock.advance(600_000)
    assert.equal(got, undefined)
    await last().answer('one')
    await waiting
    assert.equal(got, 'one')
  })

  it('the first asking is repeated while that may help, with longer and longer pauses', async () => {
    const { clock, askings, get, lookup, last } = start()
    const got = get()
    const pauses = [100, 200, 400, 800, 1600, 2000, 2000, 2000]
    for (const [i, pause] of pauses.entries()) {
      await last().fail(AWAY)
      assert.equal(lookup.lastError, AWAY)
      await clock.advance(pause - 1)
      assert.equal(askings.length, i + 1)
      await clock.advance(1)
      assert.equal(askings.length, i + 2)
    }
    await last().answer('one')
    assert.equal(await got, 'one')
    assert.equal(lookup.lastError, undefined)
    assert.equal(clock.pending, 0)
  })

  it('all who wait out a pause share the asking after it', async () => {
    const { clock, askings, get, last } = start()
    const first = get()
    await last().fail(AWAY)
    await clock.advance(50)
    const second = get()
    assert.equal(askings.length, 1)
    await clock.advance(50)
    assert.equal(askings.length, 2)
    await last().answer('one')
    assert.deepEqual(await Promise.all([first, second]), ['one', 'one'])
  })

  it('however many wait, it is asked hardly more often than for one', async () => {
    const { clock, askings, get } = start()
    const mine = new AbortController()
    const waiting: Promise<unknown>[] = []
    let failed = 0
    for (let ms = 0; ms < 10_000; ms += 10) {
      if (waiting.length < 100) waiting.push(assert.rejects(get(false, mine.signal)))
      while (failed < askings.length) await askings[failed++]!.fail(AWAY)
      await clock.advance(10)
    }
    mine.abort()
    await Promise.all(waiting)
    // As often as for one alone.
    assert.equal(askings.length, 9)
  })

  const permanent: Error[] = [
    FORBIDDEN,
    agentError('ERR_CONNECT_AGENT_NOT_FOUND'),
    agentError('ERR_CONNECT_AGENT_SHAPE'),
    new Error('no'),
  ]
  for (const error of permanent) {
    it(`the first asking is not repeated where somebody has to do something: ${String(error)}`, async () => {
      const { clock, askings, get, lookup, learn } = start()
      const waiting = [get(), get()].map((each) => assert.rejects(each, (thrown) => thrown === error))
      await askings[0]!.fail(error)
      await Promise.all(waiting)
      assert.deepEqual([askings.length, clock.pending], [1, 0])
      assert.equal(lookup.lastError, error)
      // The next who wants to know asks again.
      await learn('one')
    })
  }

  it('what was thrown and is no error is told as one', async () => {
    const { get, last, lookup } = start()
    const got = get()
    const rejected = assert.rejects(got)
    await last().fail('nonsense' as unknown as Error)
    await rejected
    assert.match(lookup.lastError!.message, /nonsense/)
  })

  it('an asking that throws at once is a failure like any other', async () => {
    let asked = 0
    const lookup = new TtlCache<string>('test', new FakeClock(), () => {
      asked += 1
      if (asked === 1) throw FORBIDDEN
      return Promise.resolve({ value: 'one', ttlMs: 0 })
    })
    const { signal } = new AbortController()
    await assert.rejects(lookup.get(signal, false), (error) => error === FORBIDDEN)
    assert.equal(await lookup.get(signal, false), 'one')
  })
})

describe("Lookup: the caller's signal", () => {
  it('ends the wait of its caller, with its reason, and nobody else’s', async () => {
    const { askings, get } = start()
    const [mine, reason] = [new AbortController(), new Error('enough')]
    const [impatient, patient] = [get(false, mine.signal), get()]
    const rejected = assert.rejects(impatient, (error) => error === reason)
    mine.abort(reason)
    await rejected
    assert.equal(askings[0]!.signal.aborted, false)
    await askings[0]!.answer('one')
    assert.equal(await patient, 'one')
    assert.equal(await get(), 'one')
    assert.equal(askings.length, 1)
  })

  it('of all who wait does not end the asking: the next one has its answer', async () => {
    const { askings, get } = start()
    const mine = new AbortController()
    const rejected = assert.rejects(get(false, mine.signal))
    mine.abort()
    await rejected
    const next = get()
    assert.equal(askings.length, 1)
    await askings[0]!.answer('one')
    assert.equal(await next, 'one')
  })

  it('an asking that fails when nobody waits any more is no unhandled rejection', async () => {
    const { askings, get } = start()
    const mine = new AbortController()
    const rejected = assert.rejects(get(false, mine.signal))
    mine.abort()
    await rejected
    await askings[0]!.fail(FORBIDDEN)
  })

  it('that is aborted beforehand ends it at once', async () => {
    const reason = new Error('enough')
    const { askings, get } = start()
    await assert.rejects(get(false, AbortSignal.abort(reason)), (error) => error === reason)
    assert.equal(askings.length, 0)
  })

  it('with a reason that is no error rejects with one', async () => {
    const { get } = start()
    await assert.rejects(get(false, AbortSignal.abort('enough')), { message: /enough/ })
  })

  it('in the middle with a reason that is no error rejects with one', async () => {
    const { get, last } = start()
    const mine = new AbortController()
    const rejected = assert.rejects(get(false, mine.signal), { message: /enough/ })
    mine.abort('enough')
    await rejected
    await last().answer('one')
  })

  it('with a reason that looks like a failure is no failure', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 1_000)
    const mine = new AbortController()
    const rejected = assert.rejects(get(false, mine.signal), (error) => error === AWAY)
    mine.abort(AWAY)
    await rejected
    await last().answer('two')
  })

  it('counts for more than the last good answer, and leaves no timer', async () => {
    const { clock, get, learn, last } = start()
    await learn('one', 0)
    clock.set(clock.now() + 5_000)
    const mine = new AbortController()
    const reason = new Error('enough')
    const rejected = assert.rejects(get(false, mine.signal), (error) => error === reason)
    mine.abort(reason)
    await rejected
    assert.equal(clock.pending, 0)
    assert.equal(getEventListeners(mine.signal, 'abort').length, 0)
    await last().answer('two')
  })

  it('is let go when the last good answer serves', async () => {
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

  it('ends a pause between two askings, and leaves no timer', async () => {
    const { clock, askings, get, last } = start()
    const [mine, reason] = [new AbortController(), new Error('enough')]
    const rejected = assert.rejects(get(false, mine.signal), (error) => error === reason)
    await last().fail(AWAY)
    assert.equal(clock.pending, 1)
    mine.abort(reason)
    await rejected
    assert.deepEqual([askings.length, clock.pending], [1, 0])
  })

  it('keeps no listener, whatever came', async () => {
    const { clock, get, last } = start()
    const { signal } = new AbortController()
    const got = get(false, signal)
    assert.equal(getEventListeners(signal, 'abort').length, 1)
    await last().fail(AWAY)
    await clock.advance(100)
    await last().answer('one', 0)
    await got
    const failed = get(false, signal)
    await last().fail(AWAY)
    await failed
    await settle()
    assert.equal(getEventListeners(signal, 'abort').length, 0)
  })
})

describe('Lookup: close', () => {
  it('ends the asking under way, for all who wait', async () => {
    const { askings, get, lookup, clock } = start()
    const waiting = [get(), get()].map((each) =>
      assert.rejects(each, (error) => error instanceof ClosedError && error.message.startsWith('test')),
    )
    lookup.close()
    await Promise.all(waiting)
    assert.equal(askings[0]!.signal.aborted, true)
    assert.equal(clock.pending, 0)
  })

  it('is not covered up by the last good answer', async () => {
    const { clock, get, learn, lookup } = start()
    await learn('one', 0)
    clock.set(clock.now() + 5_000)
    const rejected = assert.rejects(get(), ClosedError)
    lookup.close()
    await rejected
  })

  it('is not covered up by another try, whatever the asking failed with', async () => {
    const { askings, get, lookup, clock } = start()
    const rejected = assert.rejects(get(), (error) => error === AWAY)
    const failed = askings[0]!.fail(AWAY)
    lookup.close()
    await failed
    await rejected
    assert.equal(clock.pending, 0)
  })

  it('whoever asks afterwards is told', async () => {
    const { get, lookup } = start()
    lookup.close()
    lookup.close()
    await assert.rejects(get(), ClosedError)
  })

  it('is not covered up by an answer that still holds', async () => {
    const { get, learn, lookup, askings } = start()
    await learn('one', 60_000)
    lookup.close()
    for (const refresh of [false, true]) await assert.rejects(get(refresh), ClosedError)
    assert.equal(askings.length, 1)
  })

  it('in a pause between two askings is told at the end of it, at the latest', async () => {
    const { clock, get, last, lookup } = start()
    const rejected = assert.rejects(get(), ClosedError)
    await last().fail(AWAY)
    lookup.close()
    await clock.advance(100)
    await rejected
    assert.equal(clock.pending, 0)
  })
})
