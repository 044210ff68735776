import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { TimeoutError } from '../../src/base/errors.js'
import type { Choice } from '../../src/resolve/balancer.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { MeshSocket } from '../../src/transport/mesh-socket.js'
import { DialRace } from '../../src/transport/dial-race.js'
import { settle } from '../fixtures/fake-clock.js'
import { stopTime } from '../fixtures/stopped-time.js'
import { ATTEMPT_ERRORS } from '../fixtures/errors.js'

interface Opening {
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

/** Tries whose connections are made by hand, under a time that stands still. */
function start(t: TestContext) {
  const time = stopTime(t)
  const openings: Opening[] = []
  const told: string[] = []
  const tries = new DialRace()
  const open = (endpoint: Endpoint, signal: AbortSignal): Promise<MeshSocket> =>
    new Promise((resolve, reject) => {
      openings.push({
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
    tries,
    openings,
    told,
    advance: time.advance,
    delays: () => time.delays,
    /** Begins a try at `host`; what is said of it is written down. */
    begin: (host: string, port = 80): Opening => {
      const tell = (what: string): void => {
        told.push(`${host} ${what}`)
      }
      const choice: Choice = {
        endpoint: { host, port, identity: { service: 'web' } },
        connected: () => {
          tell('connected')
          return () => {
            tell('ended')
          }
        },
        failed: () => {
          tell('failed')
        },
        abandoned: () => {
          tell('abandoned')
        },
      }
      tries.start(choice, (signal) => open(choice.endpoint, signal))
      return openings.at(-1)!
    },
  }
}

/** Whether a promise has settled by now. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol('pending')
  await settle()
  return (await Promise.race([promise, Promise.resolve(pending)])) !== pending
}

describe('Tries: one that goes well', () => {
  it('wins, and its load ends with its socket', async (t) => {
    const { tries, told, begin } = start(t)
    const one = begin('a')
    assert.deepEqual([one.endpoint.host, one.signal.aborted, tries.pending], ['a', false, 1])
    assert.equal(tries.winner, undefined)
    const socket = await one.succeed()
    assert.equal(tries.winner, socket)
    assert.equal(tries.pending, 0)
    assert.deepEqual([told, tries.failures], [['a connected'], []])
    assert.equal(socket.destroyed, false)
    const closed = once(socket, 'close')
    socket.destroy()
    await closed
    assert.deepEqual(told, ['a connected', 'a ended'])
  })

  it('its load ends though somebody took all listeners away', async (t) => {
    const { told, begin } = start(t)
    const socket = await begin('a').succeed()
    socket.removeAllListeners()
    socket.destroy()
    await settle()
    assert.deepEqual(told, ['a connected', 'a ended'])
  })

  it('its load ends though its socket was destroyed before anybody had it', async (t) => {
    const { told, begin } = start(t)
    const socket = newSocket()
    socket.destroy()
    await begin('a').succeed(socket)
    assert.deepEqual(told, ['a connected', 'a ended'])
  })

  it('ends the others: those that were overtaken count as silent, if they were so for long', async (t) => {
    const { tries, told, openings, begin, advance } = start(t)
    begin('overtaken')
    await advance(300)
    begin('hasty')
    await advance(200)
    const winner = begin('winner')
    begin('as old')
    await advance(299)
    begin('later')
    await advance(0)
    await winner.succeed()
    // 799, 499, 299, 299 and 0 ms.
    assert.deepEqual(told.sort(), [
      'as old abandoned',
      'hasty abandoned',
      'later abandoned',
      'overtaken failed',
      'winner connected',
    ])
    assert.deepEqual(
      openings.map(({ signal }) => signal.aborted),
      [true, true, false, true, true],
    )
    assert.deepEqual([tries.pending, tries.failures], [0, []])
  })

  for (const [ms, outcome] of [
    [499, 'abandoned'],
    [500, 'failed'],
  ] as const) {
    it(`one that was overtaken after ${ms} ms is ${outcome}`, async (t) => {
      const { told, begin, advance } = start(t)
      begin('slow')
      await advance(1)
      const winner = begin('winner')
      await advance(ms - 1)
      await winner.succeed()
      assert.ok(told.includes(`slow ${outcome}`), told.join(', '))
    })
  }

  it('one that is younger than the winner has lost nothing, however long it took', async (t) => {
    const { told, begin, advance } = start(t)
    const winner = begin('winner')
    await advance(1)
    begin('younger')
    await advance(5_000)
    await winner.succeed()
    assert.deepEqual(told, ['winner connected', 'younger abandoned'])
  })

  it('the second that goes well has come too late, and leaves nothing open', async (t) => {
    const { tries, told, begin } = start(t)
    const [one, other] = [begin('a'), begin('b')]
    const socket = await one.succeed()
    const late = await other.succeed()
    assert.equal(tries.winner, socket)
    assert.deepEqual([socket.destroyed, late.destroyed], [false, true])
    assert.deepEqual(told, ['a connected', 'b abandoned'])
  })

  it('two in the same turn: one wins', async (t) => {
    const { tries, told, begin } = start(t)
    const [one, other] = [begin('a'), begin('b')]
    const [socket, late] = await Promise.all([one.succeed(), other.succeed()])
    assert.equal(tries.winner, socket)
    assert.equal(late.destroyed, true)
    assert.deepEqual(told, ['a connected', 'b abandoned'])
  })
})

describe('Tries: one that fails', () => {
  it('is an attempt, with its address and how long it took, in the order of the failures', async (t) => {
    const { tries, begin, advance } = start(t)
    const [one, other] = [begin('10.0.0.1', 1), begin('::1', 2)]
    await advance(12.4)
    const [first, second] = [new Error('first'), new Error('second')]
    await other.fail(first)
    await advance(10.2)
    await one.fail(second)
    assert.deepEqual(tries.failures, [
      { address: '[::1]:2', error: first, durationMs: 12 },
      { address: '10.0.0.1:1', error: second, durationMs: 23 },
    ])
    assert.deepEqual([tries.pending, tries.winner], [0, undefined])
  })

  it('leaves the others alone', async (t) => {
    const { tries, told, begin } = start(t)
    const [one, other] = [begin('a'), begin('b')]
    await one.fail(new Error('refused'))
    assert.deepEqual([other.signal.aborted, tries.pending], [false, 1])
    const socket = await other.succeed()
    assert.equal(tries.winner, socket)
    assert.deepEqual(told, ['a failed', 'b connected'])
  })

  it('after another has won has nothing to say', async (t) => {
    const { tries, told, begin } = start(t)
    const [one, other] = [begin('a'), begin('b')]
    await one.succeed()
    await other.fail(new Error('reset'))
    assert.deepEqual([told, tries.failures], [['a connected', 'b abandoned'], []])
  })

  for (const [outcome, error] of ATTEMPT_ERRORS) {
    const what = error instanceof Error ? `${error.name} ${error.message}` : String(error)
    it(`whose fault it is: ${what} is ${outcome}`, async (t) => {
      const { told, tries, begin } = start(t)
      await begin('a').fail(error as Error)
      assert.deepEqual(told, [`a ${outcome}`])
      assert.equal(tries.failures.length, 1)
      assert.ok(tries.failures[0]!.error instanceof Error)
    })
  }
})

describe('Tries: the end', () => {
  it('of the time: those that were silent for long have failed, and all are attempts', async (t) => {
    const { tries, told, openings, begin, advance } = start(t)
    begin('a', 1)
    await advance(0.6)
    begin('b', 2)
    await advance(499.9)
    tries.finish('late')
    assert.deepEqual(told, ['a failed', 'b abandoned'])
    assert.deepEqual(
      tries.failures.map(({ address, durationMs }) => [address, durationMs]),
      [
        ['a:1', 501],
        ['b:2', 500],
      ],
    )
    for (const [i, { error, durationMs, address }] of tries.failures.entries()) {
      assert.ok(error instanceof TimeoutError)
      assert.equal(error.message, `connecting to ${address}: timed out after ${durationMs} ms`)
      assert.equal(openings[i]!.signal.reason, error)
    }
    assert.equal(tries.pending, 0)
  })

  it('by the caller: nothing was learnt of anybody', async (t) => {
    const { tries, told, openings, begin, advance } = start(t)
    begin('a')
    await advance(9_000)
    begin('b')
    tries.finish('aborted')
    assert.deepEqual(told, ['a abandoned', 'b abandoned'])
    assert.deepEqual([tries.failures, tries.pending], [[], 0])
    assert.ok(openings.every(({ signal }) => signal.aborted))
  })

  it('what comes after it is nobody’s: a socket is closed, an error is not told', async (t) => {
    for (const why of ['late', 'aborted'] as const) {
      const { tries, told, begin } = start(t)
      const [one, other] = [begin('a'), begin('b')]
      tries.finish(why)
      const before = [...tries.failures]
      const socket = await one.succeed()
      await other.fail(new Error('reset'))
      assert.equal(socket.destroyed, true)
      assert.deepEqual([tries.winner, tries.failures], [undefined, before])
      assert.deepEqual(told, ['a abandoned', 'b abandoned'])
      t.mock.restoreAll()
    }
  })

  it('twice is once', (t) => {
    const { tries, told, begin } = start(t)
    begin('a')
    tries.finish('late')
    tries.finish('aborted')
    tries.finish('late')
    assert.deepEqual([told, tries.failures.length], [['a abandoned'], 1])
  })

  it('one that cannot even begin is not left behind', (t) => {
    stopTime(t)
    const broken = new Error('no certificate')
    const told: string[] = []
    const tries = new DialRace()
    const tell = (what: string) => () => {
      told.push(what)
    }
    const choice: Choice = {
      endpoint: { host: 'a', port: 80, identity: { service: 'web' } },
      connected: () => () => undefined,
      failed: tell('failed'),
      abandoned: tell('abandoned'),
    }
    try {
      tries.start(choice, () => {
        throw broken
      })
    } catch (error) {
      assert.equal(error, broken)
    }
    tries.finish('aborted')
    assert.deepEqual([told, tries.pending], [['abandoned'], 0])
  })
})

describe('Tries: news', () => {
  it('come after the time that is given, and not before', async (t) => {
    const { tries, begin, advance, delays } = start(t)
    begin('a')
    const news = tries.nextChange(1_000)
    assert.deepEqual(delays(), [1_000])
    await advance(999)
    assert.equal(await isSettled(news), false)
    await advance(1)
    assert.equal(await isSettled(news), true)
    assert.equal(tries.pending, 1)
  })

  const causes: [rule: string, cause: (opening: Opening, tries: DialRace) => unknown][] = [
    ['one fails', (opening) => opening.fail(new Error('refused'))],
    ['one goes well', (opening) => opening.succeed()],
    [
      'the time is over',
      (_opening, tries) => {
        tries.finish('late')
      },
    ],
    [
      'the caller gives up',
      (_opening, tries) => {
        tries.finish('aborted')
      },
    ],
  ]
  for (const [rule, cause] of causes) {
    it(`come when ${rule}, and leave no timer`, async (t) => {
      for (const ms of [1_000, undefined]) {
        const { tries, begin, delays } = start(t)
        const opening = begin('a')
        const news = tries.nextChange(ms)
        assert.equal(await isSettled(news), false)
        await cause(opening, tries)
        assert.equal(await isSettled(news), true)
        assert.deepEqual(delays(), [])
        t.mock.restoreAll()
      }
    })
  }

  it('without a time come only with an outcome', async (t) => {
    const { tries, begin, advance, delays } = start(t)
    begin('a')
    const news = tries.nextChange(undefined)
    assert.deepEqual(delays(), [])
    await advance(3_600_000)
    assert.equal(await isSettled(news), false)
    tries.finish('aborted')
    await news
  })
})
