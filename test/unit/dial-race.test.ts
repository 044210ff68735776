import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { TimeoutError } from '../../src/base/errors.js'
import type { Choice } from '../../src/resolve/balancing/balancer.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { MeshSocket } from '../../src/transport/mesh-socket.js'
import { DialRace } from '../../src/transport/outbound/dial-race.js'
import { settle } from '../fixtures/fake-clock.js'
import { stopTime } from '../fixtures/stopped-time.js'
import { ATTEMPT_ERRORS } from '../fixtures/errors.js'

interface ManualAttempt {
  readonly endpoint: Endpoint
  readonly signal: AbortSignal
  readonly succeed: (socket?: MeshSocket) => Promise<MeshSocket>
  readonly fail: (error: Error) => Promise<void>
}

function newSocket(): MeshSocket {
  const socket = new Duplex({
    read: () => undefined,
    write: (_chunk, _encoding, callback) => {
      callback()
    },
  })
  return Object.assign(socket, { peer: { spiffeId: 'spiffe://a' } }) as unknown as MeshSocket
}

/** A race whose attempts are completed by the test, under stopped time. */
function openRace(t: TestContext) {
  const time = stopTime(t)
  const attempts: ManualAttempt[] = []
  const outcomes: string[] = []
  const race = new DialRace()
  const connect = (endpoint: Endpoint, signal: AbortSignal): Promise<MeshSocket> =>
    new Promise((resolve, reject) => {
      attempts.push({
        endpoint,
        signal,
        succeed: async (socket = newSocket()) => {
          resolve(socket)
          await settle()
          return socket
        },
        fail: async (error) => {
          reject(error)
          await settle()
        },
      })
    })
  return {
    race,
    attempts,
    outcomes,
    advance: time.advance,
    delays: () => time.delays,
    /** Starts an attempt at `host`, and records its outcome. */
    start: (host: string, port = 80, timeoutMs?: number): ManualAttempt => {
      const record = (outcome: string): void => {
        outcomes.push(`${host} ${outcome}`)
      }
      const choice: Choice = {
        endpoint: { host, port, identity: { service: 'web' } },
        connected: () => {
          record('connected')
          return () => {
            record('ended')
          }
        },
        failed: () => {
          record('failed')
        },
        abandoned: () => {
          record('abandoned')
        },
      }
      race.start(choice, (signal) => connect(choice.endpoint, signal), timeoutMs)
      return attempts.at(-1)!
    },
  }
}

function deferred<T>() {
  let resolve: (value: T) => void = () => undefined
  let reject: (error: Error) => void = () => undefined
  const promise = new Promise<T>((onValue, onError) => {
    resolve = onValue
    reject = onError
  })
  return { promise, resolve, reject }
}

/** Whether a promise has settled by now. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol('pending')
  await settle()
  return (await Promise.race([promise, Promise.resolve(pending)])) !== pending
}

describe('DialRace: a successful attempt', () => {
  it('wins, and its load ends with its socket', async (t) => {
    const { race, outcomes, start } = openRace(t)
    const attempt = start('a')
    const { endpoint, signal } = attempt
    assert.deepEqual([endpoint.host, signal.aborted, race.pending, race.winner], ['a', false, 1, undefined])
    const socket = await attempt.succeed()
    assert.equal(race.winner?.socket, socket)
    assert.equal(race.winner.endpoint, endpoint)
    assert.equal(race.pending, 0)
    assert.deepEqual([outcomes, race.failures], [['a connected'], []])
    assert.equal(socket.destroyed, false)
    const closed = once(socket, 'close')
    socket.destroy()
    await closed
    assert.deepEqual(outcomes, ['a connected', 'a ended'])
  })

  it('ends its load also after removeAllListeners()', async (t) => {
    const { outcomes, start } = openRace(t)
    const socket = await start('a').succeed()
    socket.removeAllListeners()
    socket.destroy()
    await settle()
    assert.deepEqual(outcomes, ['a connected', 'a ended'])
  })

  it('ends its load if its socket is already destroyed', async (t) => {
    const { outcomes, start } = openRace(t)
    const socket = newSocket()
    socket.destroy()
    await start('a').succeed(socket)
    assert.deepEqual(outcomes, ['a connected', 'a ended'])
  })

  it('aborts all other attempts, and counts an earlier attempt as failed after 500 ms', async (t) => {
    const { race, outcomes, attempts, start, advance } = openRace(t)
    start('slow')
    await advance(300)
    start('less slow')
    await advance(200)
    const winner = start('winner')
    start('concurrent')
    await advance(299)
    start('later')
    await advance(0)
    await winner.succeed()
    // After 799, 499, 299, 299, and 0 ms.
    assert.deepEqual(outcomes.sort(), [
      'concurrent abandoned',
      'later abandoned',
      'less slow abandoned',
      'slow failed',
      'winner connected',
    ])
    assert.deepEqual(
      attempts.map(({ signal }) => signal.aborted),
      [true, true, false, true, true],
    )
    assert.deepEqual([race.pending, race.failures], [0, []])
  })

  for (const [ms, outcome] of [
    [499, 'abandoned'],
    [500, 'failed'],
  ] as const) {
    it(`counts an earlier attempt that took ${ms} ms as ${outcome}`, async (t) => {
      const { outcomes, start, advance } = openRace(t)
      start('slow')
      await advance(1)
      const winner = start('winner')
      await advance(ms - 1)
      await winner.succeed()
      assert.ok(outcomes.includes(`slow ${outcome}`), outcomes.join(', '))
    })
  }

  it('never counts a later attempt as failed', async (t) => {
    const { outcomes, start, advance } = openRace(t)
    const winner = start('winner')
    await advance(1)
    start('later')
    await advance(5_000)
    await winner.succeed()
    assert.deepEqual(outcomes, ['winner connected', 'later abandoned'])
  })

  it('closes the socket of a second attempt that succeeds in the same turn', async (t) => {
    const { race, outcomes, start } = openRace(t)
    const [a, b] = [start('a'), start('b')]
    const [socket, late] = await Promise.all([a.succeed(), b.succeed()])
    assert.equal(race.winner?.socket, socket)
    assert.deepEqual([socket.destroyed, late.destroyed], [false, true])
    assert.deepEqual(outcomes, ['a connected', 'b abandoned'])
  })
})

describe('DialRace: a failed attempt', () => {
  it('is recorded with its address, target, and duration, in the order of the failures', async (t) => {
    const scope = { subset: undefined, namespace: undefined, partition: undefined, datacenter: undefined }
    const target = { service: 'web', ...scope }
    const { race, start, advance } = openRace(t)
    const [a, b] = [start('10.0.0.1', 1), start('::1', 2)]
    await advance(12.4)
    const [first, second] = [new Error('first'), new Error('second')]
    await b.fail(first)
    await advance(10.2)
    await a.fail(second)
    assert.deepEqual(race.failures, [
      { address: '[::1]:2', target, error: first, durationMs: 12 },
      { address: '10.0.0.1:1', target, error: second, durationMs: 23 },
    ])
    assert.deepEqual([race.pending, race.winner], [0, undefined])
  })

  it('does not affect other attempts', async (t) => {
    const { race, outcomes, start } = openRace(t)
    const [a, b] = [start('a'), start('b')]
    await a.fail(new Error('refused'))
    assert.deepEqual([b.signal.aborted, race.pending], [false, 1])
    const socket = await b.succeed()
    assert.equal(race.winner?.socket, socket)
    assert.deepEqual(outcomes, ['a failed', 'b connected'])
  })

  it('is not recorded after another attempt has won', async (t) => {
    const { race, outcomes, start } = openRace(t)
    const [a, b] = [start('a'), start('b')]
    await a.succeed()
    await b.fail(new Error('reset'))
    assert.deepEqual([outcomes, race.failures], [['a connected', 'b abandoned'], []])
  })

  for (const [outcome, error] of ATTEMPT_ERRORS) {
    const text = error instanceof Error ? `${error.name} ${error.message}` : String(error)
    it(`counts as ${outcome} on ${text}`, async (t) => {
      const { outcomes, race, start } = openRace(t)
      await start('a').fail(error as Error)
      assert.deepEqual(outcomes, [`a ${outcome}`])
      assert.equal(race.failures.length, 1)
      assert.ok(race.failures[0]!.error instanceof Error)
    })
  }
})

describe('DialRace: the connect timeout of an attempt', () => {
  it('aborts the attempt, which counts as a failure of the instance', async (t) => {
    const { race, outcomes, start, advance } = openRace(t)
    const [attempt, other] = [start('a', 80, 200), start('b')]
    await advance(199)
    assert.equal(attempt.signal.aborted, false)
    await advance(1)
    assert.equal(attempt.signal.aborted, true)
    await attempt.fail(attempt.signal.reason as Error)
    assert.deepEqual([outcomes, other.signal.aborted], [['a failed'], false])
    const [failure] = race.failures
    assert.equal(
      failure?.error.message,
      'connecting to a:80 took longer than the connect timeout of the service (200 ms)',
    )
  })

  it('ends with the attempt', async (t) => {
    const { race, start, delays } = openRace(t)
    await start('a', 80, 200).fail(new Error('refused'))
    assert.deepEqual(delays(), [])
    const winner = start('b', 80, 200)
    start('c', 80, 300)
    await winner.succeed()
    assert.deepEqual(delays(), [])
    start('d', 80, 200)
    race.finish('aborted')
    assert.deepEqual(delays(), [])
  })
})

describe('DialRace.finish', () => {
  it('at the deadline, records all pending attempts, and counts those after 500 ms as failed', async (t) => {
    const { race, outcomes, attempts, start, advance } = openRace(t)
    start('a', 1)
    await advance(0.6)
    start('b', 2)
    await advance(499.9)
    race.finish('late')
    assert.deepEqual(outcomes, ['a failed', 'b abandoned'])
    assert.deepEqual(
      race.failures.map(({ address, durationMs }) => [address, durationMs]),
      [
        ['a:1', 501],
        ['b:2', 500],
      ],
    )
    for (const [i, { error, durationMs, address }] of race.failures.entries()) {
      assert.ok(error instanceof TimeoutError)
      assert.equal(error.message, `connecting to ${address}: timed out after ${durationMs} ms`)
      assert.equal(attempts[i]!.signal.reason, error)
    }
    assert.equal(race.pending, 0)
  })

  it('on abort, records and blames no attempt', async (t) => {
    const { race, outcomes, attempts, start, advance } = openRace(t)
    start('a')
    await advance(9_000)
    start('b')
    race.finish('aborted')
    assert.deepEqual(outcomes, ['a abandoned', 'b abandoned'])
    assert.deepEqual([race.failures, race.pending], [[], 0])
    assert.ok(attempts.every(({ signal }) => signal.aborted))
  })

  it('closes sockets and ignores errors that arrive later', async (t) => {
    for (const reason of ['late', 'aborted'] as const) {
      const { race, outcomes, start } = openRace(t)
      const [a, b] = [start('a'), start('b')]
      race.finish(reason)
      const before = [...race.failures]
      const socket = await a.succeed()
      await b.fail(new Error('reset'))
      assert.equal(socket.destroyed, true)
      assert.deepEqual([race.winner, race.failures], [undefined, before])
      assert.deepEqual(outcomes, ['a abandoned', 'b abandoned'])
      t.mock.restoreAll()
    }
  })

  it('has no effect the second time', (t) => {
    const { race, outcomes, start } = openRace(t)
    start('a')
    race.finish('late')
    race.finish('aborted')
    race.finish('late')
    assert.deepEqual([outcomes, race.failures.length], [['a abandoned'], 1])
  })

  it('abandons an attempt whose connect function throws', (t) => {
    stopTime(t)
    const broken = new Error('no certificate')
    const outcomes: string[] = []
    const race = new DialRace()
    const record = (outcome: string) => () => {
      outcomes.push(outcome)
    }
    const choice: Choice = {
      endpoint: { host: 'a', port: 80, identity: { service: 'web' } },
      connected: () => () => undefined,
      failed: record('failed'),
      abandoned: record('abandoned'),
    }
    assert.throws(() => {
      race.start(choice, () => {
        throw broken
      })
    }, broken)
    race.finish('aborted')
    assert.deepEqual([outcomes, race.pending], [['abandoned'], 0])
  })
})

describe('DialRace.untilFinished', () => {
  it('returns the result of the promise, although attempts fail meanwhile', async (t) => {
    const { race, start } = openRace(t)
    const attempt = start('a')
    const failure = new Error('failed')
    await assert.rejects(race.untilFinished(Promise.reject(failure)), (error) => error === failure)
    const { promise, resolve } = deferred<number>()
    const waiting = race.untilFinished(promise)
    await attempt.fail(new Error('refused'))
    assert.equal(await isSettled(waiting), false)
    resolve(5)
    assert.equal(await waiting, 5)
  })

  it('returns nothing when the race is finished, and handles a later rejection', async (t) => {
    const { race, start } = openRace(t)
    const attempt = start('a')
    const { promise, reject } = deferred<number>()
    const waiting = race.untilFinished(promise)
    await attempt.succeed()
    assert.equal(await waiting, undefined)
    assert.equal(await race.untilFinished(promise), undefined)
    // An unhandled rejection fails the test.
    reject(new Error('late'))
    await settle()
  })
})

describe('DialRace.nextChange', () => {
  it('resolves after the timeout', async (t) => {
    const { race, start, advance, delays } = openRace(t)
    start('a')
    const change = race.nextChange(1_000)
    assert.deepEqual(delays(), [1_000])
    await advance(999)
    assert.equal(await isSettled(change), false)
    await advance(1)
    assert.equal(await isSettled(change), true)
    assert.equal(race.pending, 1)
  })

  const causes: [rule: string, cause: (attempt: ManualAttempt, race: DialRace) => unknown][] = [
    ['an attempt fails', (attempt) => attempt.fail(new Error('refused'))],
    ['an attempt succeeds', (attempt) => attempt.succeed()],
    [
      'the deadline passes',
      (_attempt, race) => {
        race.finish('late')
      },
    ],
    [
      'the caller aborts the dial',
      (_attempt, race) => {
        race.finish('aborted')
      },
    ],
  ]
  for (const [rule, cause] of causes) {
    it(`resolves when ${rule}, and cancels the timer`, async (t) => {
      for (const ms of [1_000, undefined]) {
        const { race, start, delays } = openRace(t)
        const attempt = start('a')
        const change = race.nextChange(ms)
        assert.equal(await isSettled(change), false)
        await cause(attempt, race)
        assert.equal(await isSettled(change), true)
        assert.deepEqual(delays(), [])
        t.mock.restoreAll()
      }
    })
  }

  it('does not resolve by time without a timeout', async (t) => {
    const { race, start, advance, delays } = openRace(t)
    start('a')
    const change = race.nextChange(undefined)
    assert.deepEqual(delays(), [])
    await advance(3_600_000)
    assert.equal(await isSettled(change), false)
    race.finish('aborted')
    await change
  })
})
