import assert from 'node:assert/strict'
import { EventEmitter, getEventListeners } from 'node:events'
import { describe, it } from 'node:test'
import { type Bounds, withDeadline, isAborted } from '../../src/base/deadline.js'
import { AbortError, ClosedError, ConnectError, TimeoutError } from '../../src/base/errors.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

/** Work that ends when the test says so, and what it was given. */
function start(given: Partial<Bounds> = {}) {
  const [clock, outer, closed] = [new FakeClock(), new AbortController(), new AbortController()]
  let inner: AbortSignal | undefined
  let resolve!: (value: string) => void
  let reject!: (error: unknown) => void
  const bounds = { signal: outer.signal, closed: closed.signal, timeoutMs: 1000, clock, ...given }
  const promise = withDeadline('the work', bounds, (signal) => {
    inner = signal
    return new Promise<string>((onValue, onError) => {
      resolve = onValue
      reject = onError
    })
  })
  return {
    clock,
    outer,
    closed,
    promise,
    resolve,
    reject,
    inner: () => inner!,
    /** What is still there that could keep something alive. */
    left: () => ({
      timers: clock.pending,
      outer: getEventListeners(outer.signal, 'abort').length,
      closed: getEventListeners(closed.signal, 'abort').length,
    }),
  }
}

const NOTHING = { timers: 0, outer: 0, closed: 0 }
type Started = ReturnType<typeof start>

async function rejection(promise: Promise<unknown>): Promise<ConnectError> {
  try {
    await promise
  } catch (error) {
    assert.ok(error instanceof ConnectError, `rejected with ${String(error)}`)
    return error
  }
  throw new Error('it did not reject')
}

describe('bounded', () => {
  it('while it works, it holds one timer and one listener on each signal', () => {
    const { left, clock } = start()
    assert.deepEqual(left(), { timers: 1, outer: 1, closed: 1 })
    assert.deepEqual(clock.delays, [1000])
  })

  it('gives the value, and leaves nothing behind', async () => {
    const { promise, resolve, left, inner } = start()
    resolve('done')
    assert.equal(await promise, 'done')
    assert.deepEqual(left(), NOTHING)
    assert.equal(inner().aborted, false)
  })

  it('gives the failure as it is, and leaves nothing behind', async () => {
    const { promise, reject, left } = start()
    const failure = new Error('no')
    reject(failure)
    await assert.rejects(promise, (error) => error === failure)
    assert.deepEqual(left(), NOTHING)
  })

  it('work that throws before it returns a promise fails in the same way', async () => {
    const [clock, outer] = [new FakeClock(), new AbortController()]
    const failure = new Error('at once')
    const promise = withDeadline('the work', { signal: outer.signal, timeoutMs: 1000, clock }, () => {
      throw failure
    })
    await assert.rejects(promise, (error) => error === failure)
    assert.deepEqual([clock.pending, getEventListeners(outer.signal, 'abort').length], [0, 0])
  })

  const reason = new Error('enough')
  const bounds: [rule: string, meet: (started: Started) => unknown, error: object][] = [
    [
      'the time',
      ({ clock }) => clock.advance(1000),
      {
        name: 'TimeoutError',
        code: 'ERR_CONNECT_TIMEOUT',
        timeoutMs: 1000,
        message: 'the work: timed out after 1000 ms',
      },
    ],
    [
      "the caller's signal",
      ({ outer }) => {
        outer.abort(reason)
      },
      { name: 'AbortError', code: 'ERR_CONNECT_ABORTED', cause: reason },
    ],
    [
      'the end of what the work belongs to',
      ({ closed }) => {
        closed.abort()
      },
      { name: 'ClosedError', code: 'ERR_CONNECT_CLOSED' },
    ],
  ]
  for (const [rule, meet, expected] of bounds) {
    describe(`bounded by ${rule}`, () => {
      it('rejects at once, though the work goes on', async () => {
        const started = start()
        const rejected = assert.rejects(started.promise, expected)
        await meet(started)
        await rejected
      })

      it('aborts the work with the very error', async () => {
        const started = start()
        const rejected = rejection(started.promise)
        assert.equal(started.inner().aborted, false)
        await meet(started)
        assert.equal(started.inner().reason, await rejected)
      })

      it('leaves nothing behind', async () => {
        const started = start()
        const rejected = rejection(started.promise)
        await meet(started)
        assert.deepEqual(started.left(), NOTHING)
        await rejected
      })

      it('ignores what comes late: a value, a failure, another bound', async () => {
        for (const late of ['resolve', 'reject'] as const) {
          const started = start()
          const rejected = rejection(started.promise)
          await meet(started)
          started[late]('late')
          started.outer.abort(new Error('late'))
          started.closed.abort()
          await started.clock.advance(10_000)
          const error = await rejected
          assert.deepEqual(
            { name: error.name, code: error.code },
            { name: error.name, code: (expected as ConnectError).code },
          )
          assert.equal(started.inner().reason, error)
          // A rejection that nobody takes would end the process here.
          await settle()
        }
      })
    })
  }

  it('the time is up at its last millisecond, not before', async () => {
    const { promise, clock, left } = start()
    const rejected = assert.rejects(promise, TimeoutError)
    await clock.advance(999)
    assert.equal(left().timers, 1)
    await clock.advance(1)
    await rejected
  })

  it('a bound that is met after the end changes nothing', async () => {
    const { promise, resolve, outer, closed, clock, inner } = start()
    resolve('done')
    await promise
    outer.abort()
    closed.abort()
    await clock.advance(10_000)
    assert.equal(await promise, 'done')
    assert.equal(inner().aborted, false)
  })

  it('work does not begin within bounds that are met already', async () => {
    const [met, clock] = [AbortSignal.abort(reason), new FakeClock()]
    const cases: [bounds: Partial<Bounds>, kind: abstract new (...args: never) => ConnectError][] = [
      [{ signal: met }, AbortError],
      [{ closed: met }, ClosedError],
      // Whose end it is matters more than who asked.
      [{ signal: met, closed: met }, ClosedError],
    ]
    for (const [bounds, kind] of cases) {
      let begun = false
      const promise = withDeadline('the work', { timeoutMs: 1000, clock, ...bounds }, () => {
        begun = true
        return Promise.resolve()
      })
      assert.ok((await rejection(promise)) instanceof kind)
      assert.equal(begun, false)
      assert.equal(clock.pending, 0)
    }
  })

  it('work within no signal at all has its time', async () => {
    const clock = new FakeClock()
    const promise = withDeadline('the work', { timeoutMs: 5, clock }, () => new Promise(() => undefined))
    const rejected = assert.rejects(promise, TimeoutError)
    await clock.advance(5)
    await rejected
  })

  it('the work may abort what it belongs to', async () => {
    const [clock, closed] = [new FakeClock(), new AbortController()]
    const promise = withDeadline('the work', { closed: closed.signal, timeoutMs: 5, clock }, () => {
      closed.abort()
      return Promise.resolve('late')
    })
    await assert.rejects(promise, ClosedError)
    assert.equal(clock.pending, 0)
  })

  it('a thousand pieces of work on one signal are no leak and no warning', async (t) => {
    const warnings: unknown[] = []
    const onWarning = (warning: Error): void => {
      warnings.push(warning)
    }
    process.on('warning', onWarning)
    t.after(() => process.off('warning', onWarning))
    const [outer, clock] = [new AbortController(), new FakeClock()]
    const limit = EventEmitter.defaultMaxListeners
    const works = Array.from({ length: limit * 100 }, () =>
      withDeadline(
        'the work',
        { signal: outer.signal, timeoutMs: 1000, clock },
        () => new Promise(() => undefined),
      ),
    )
    const rejected = Promise.allSettled(works)
    outer.abort()
    await rejected
    await settle()
    assert.equal(getEventListeners(outer.signal, 'abort').length, 0)
    assert.deepEqual(warnings, [])
  })
})

describe('isAborted', () => {
  it('is false for no signal', () => {
    assert.deepEqual([undefined, new AbortController().signal, AbortSignal.abort()].map(isAborted), [
      false,
      false,
      true,
    ])
  })
})
