import assert from 'node:assert/strict'
import { EventEmitter, getEventListeners } from 'node:events'
import { describe, it } from 'node:test'
import { type Bounds, withDeadline, isAborted } from '../../src/base/deadline.js'
import { AbortError, ClosedError, ConnectError, TimeoutError } from '../../src/base/errors.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

/** Starts work that the test ends. */
function start() {
  const [clock, outer, closed] = [new FakeClock(), new AbortController(), new AbortController()]
  let inner: AbortSignal | undefined
  let resolve!: (value: string) => void
  let reject!: (error: unknown) => void
  const bounds = { signal: outer.signal, closed: closed.signal, timeoutMs: 1000, clock }
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
    /** Counts the timers and listeners. */
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
  throw new Error('the promise did not reject')
}

describe('withDeadline', () => {
  it('holds one timer, and one listener on each signal, while the work is pending', () => {
    const { left, clock } = start()
    assert.deepEqual(left(), { timers: 1, outer: 1, closed: 1 })
    assert.deepEqual(clock.delays, [1000])
  })

  it('returns the value, and leaves nothing behind', async () => {
    const { promise, resolve, left, inner } = start()
    resolve('done')
    assert.equal(await promise, 'done')
    assert.deepEqual(left(), NOTHING)
    assert.equal(inner().aborted, false)
  })

  it('rejects with the error of the work, and leaves nothing behind', async () => {
    const { promise, reject, left } = start()
    const failure = new Error('no')
    reject(failure)
    await assert.rejects(promise, (error) => error === failure)
    assert.deepEqual(left(), NOTHING)
  })

  it('rejects with a synchronous exception of the work', async () => {
    const [clock, outer] = [new FakeClock(), new AbortController()]
    const failure = new Error('at once')
    const promise = withDeadline('the work', { signal: outer.signal, timeoutMs: 1000, clock }, () => {
      throw failure
    })
    await assert.rejects(promise, (error) => error === failure)
    assert.deepEqual([clock.pending, getEventListeners(outer.signal, 'abort').length], [0, 0])
  })

  const reason = new Error('enough')
  const bounds: [rule: string, end: (started: Started) => unknown, error: object][] = [
    [
      'the timeout',
      ({ clock }) => clock.advance(1000),
      {
        name: 'TimeoutError',
        code: 'ERR_CONNECT_TIMEOUT',
        timeoutMs: 1000,
        message: 'the work: timed out after 1000 ms',
      },
    ],
    [
      'the signal of the caller',
      ({ outer }) => {
        outer.abort(reason)
      },
      { name: 'AbortError', code: 'ERR_CONNECT_ABORTED', cause: reason },
    ],
    [
      'the closed signal',
      ({ closed }) => {
        closed.abort()
      },
      { name: 'ClosedError', code: 'ERR_CONNECT_CLOSED' },
    ],
  ]
  for (const [rule, end, expected] of bounds) {
    it(`rejects by ${rule} while the work goes on, aborts the work with the error, and leaves nothing behind`, async () => {
      const started = start()
      const rejected = Promise.all([assert.rejects(started.promise, expected), rejection(started.promise)])
      assert.equal(started.inner().aborted, false)
      await end(started)
      assert.deepEqual(started.left(), NOTHING)
      assert.equal(started.inner().reason, (await rejected)[1])
    })

    it(`ignores a late value, a late failure, and other bounds after it rejected by ${rule}`, async () => {
      for (const late of ['resolve', 'reject'] as const) {
        const started = start()
        const rejected = rejection(started.promise)
        await end(started)
        started[late]('late')
        started.outer.abort(new Error('late'))
        started.closed.abort()
        await started.clock.advance(10_000)
        const error = await rejected
        assert.equal(error.code, (expected as ConnectError).code)
        assert.equal(started.inner().reason, error)
        // An unhandled rejection would end the process here.
        await settle()
      }
    })
  }

  it('times out at the last millisecond, not before', async () => {
    const { promise, clock, left } = start()
    const rejected = assert.rejects(promise, TimeoutError)
    await clock.advance(999)
    assert.equal(left().timers, 1)
    await clock.advance(1)
    await rejected
  })

  it('ignores the bounds after the work has ended', async () => {
    const { promise, resolve, outer, closed, clock, inner } = start()
    resolve('done')
    await promise
    outer.abort()
    closed.abort()
    await clock.advance(10_000)
    assert.equal(await promise, 'done')
    assert.equal(inner().aborted, false)
  })

  it('does not start the work when a signal is aborted, and prefers ClosedError', async () => {
    const [aborted, clock] = [AbortSignal.abort(reason), new FakeClock()]
    const cases: [bounds: Partial<Bounds>, kind: abstract new (...args: never) => ConnectError][] = [
      [{ signal: aborted }, AbortError],
      [{ closed: aborted }, ClosedError],
      [{ signal: aborted, closed: aborted }, ClosedError],
    ]
    for (const [bounds, kind] of cases) {
      let isStarted = false
      const promise = withDeadline('the work', { timeoutMs: 1000, clock, ...bounds }, () => {
        isStarted = true
        return Promise.resolve()
      })
      assert.ok((await rejection(promise)) instanceof kind)
      assert.equal(isStarted, false)
      assert.equal(clock.pending, 0)
    }
  })

  it('rejects when the work aborts the closed signal itself', async () => {
    const [clock, closed] = [new FakeClock(), new AbortController()]
    const promise = withDeadline('the work', { closed: closed.signal, timeoutMs: 5, clock }, () => {
      closed.abort()
      return Promise.resolve('late')
    })
    await assert.rejects(promise, ClosedError)
    assert.equal(clock.pending, 0)
  })

  it('leaks no listener and causes no warning with a thousand pieces of work on one signal', async (t) => {
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
  it('is false without a signal, and true for an aborted signal', () => {
    assert.deepEqual([undefined, new AbortController().signal, AbortSignal.abort()].map(isAborted), [
      false,
      false,
      true,
    ])
  })
})
