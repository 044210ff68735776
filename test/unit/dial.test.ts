import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import {
  AbortError,
  DialError,
  IdentityError,
  TimeoutError,
  VerificationError,
} from '../../src/base/errors.js'
import type { Generation, IdentityStore } from '../../src/identity/identity-store.js'
import { Balancer, type Choice } from '../../src/resolve/balancing/balancer.js'
import {
  type Endpoint,
  type ResolveRequest,
  type Resolver,
  endpointList,
} from '../../src/resolve/resolver.js'
import { TestCa } from '../../src/testing/index.js'
import { type DialBounds, dial } from '../../src/transport/outbound/dial.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { stopTime } from '../fixtures/stopped-time.js'

const ca = TestCa.create()
const { chainPem, privateKeyPem } = ca.issue()
/** The part of a generation that the TLS client reads. No handshake in this file is completed. */
const generation = {
  leaf: { chainPem, id: { service: 'web', namespace: 'default', partition: 'default', datacenter: 'dc7' } },
  privateKeyPem,
  roots: { pems: [ca.rootPem], trustDomain: ca.trustDomain },
} as unknown as Generation

/** A generation with which each attempt fails immediately with `error`. */
function failing(error: unknown): Generation {
  return {
    get leaf(): never {
      throw error
    },
  } as unknown as Generation
}

function identityOf(current: Generation | (() => Generation), more: object = {}): IdentityStore {
  return {
    ready: () => Promise.resolve({ leaf: { id: { datacenter: 'dc7' } } }),
    require: () => (typeof current === 'function' ? current() : current),
    lastError: undefined,
    ...more,
  } as unknown as IdentityStore
}

/** An identity with which attempts fail with these errors, in order. The last error repeats. */
function failingIdentity(...errors: unknown[]): IdentityStore {
  let attempts = 0
  return identityOf(() => failing(errors[Math.min(attempts++, errors.length - 1)]))
}

/** A balancer that records the outcomes of its choices. */
class RecordingBalancer extends Balancer {
  readonly outcomes: string[] = []

  constructor() {
    super({ clock: new FakeClock(), random: () => 0 })
  }

  override choose(...args: Parameters<Balancer['choose']>): Choice | undefined {
    const choice = super.choose(...args)
    if (choice === undefined) return undefined
    const record = (outcome: string): void => {
      this.outcomes.push(`${choice.endpoint.identity.datacenter ?? ''} ${outcome}`.trim())
    }
    return {
      endpoint: choice.endpoint,
      connected: () => {
        record('connected')
        return choice.connected()
      },
      failed: () => {
        record('failed')
        choice.failed()
      },
      abandoned: () => {
        record('abandoned')
        choice.abandoned()
      },
    }
  }
}

const UNREACHABLE: Endpoint = { host: '127.0.0.1', port: 1, identity: { service: 'web' } }

/** A sorted resolver: returns one list per call, and then the last one again. */
function resolverOf(...lists: (readonly Endpoint[] | Error)[]): Resolver & { requests: ResolveRequest[] } {
  const requests: ResolveRequest[] = []
  return {
    name: 'web',
    isSorted: true,
    requests,
    resolve: (request) => {
      requests.push(request)
      const list = lists[Math.min(requests.length, lists.length) - 1]!
      if (list instanceof Error) throw list
      return list
    },
  }
}

/** Dials, and returns the error and the outcomes of the attempts. */
async function failDial(
  resolver: Resolver,
  identity: IdentityStore,
  bounds: Partial<DialBounds> = {},
): Promise<{ error: Error; outcomes: string[] }> {
  const balancer = new RecordingBalancer()
  const error = await dial(
    identity,
    { resolver, balancer },
    {
      timeoutMs: 10_000,
      socketSettings: { allowHalfOpen: false, expectsAnswer: true },
      sessions: undefined,
      report: () => undefined,
      ...bounds,
    },
  ).then(
    () => {
      throw new Error('expected a rejection')
    },
    (thrown: unknown) => thrown as Error,
  )
  return { error, outcomes: balancer.outcomes }
}

function asDialError(error: Error): DialError {
  assert.ok(error instanceof DialError, String(error))
  return error
}

/** Instances that accept connections and never respond. The datacenter of each is its index. */
async function silentInstances(t: TestContext, count: number): Promise<Endpoint[]> {
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.on('error', () => undefined)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of open) socket.destroy()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return Array.from({ length: count }, (_, i) => ({
    host: '127.0.0.1',
    port,
    identity: { service: 'web', datacenter: `${i}` },
  }))
}

describe('dial: unresponsive instances', () => {
  for (const [ms, outcome] of [
    [499.9, 'abandoned'],
    [500, 'failed'],
  ] as const) {
    it(`counts an attempt as ${outcome} when the deadline passes after ${ms} ms`, async (t) => {
      const endpoints = await silentInstances(t, 1)
      const { advance } = stopTime(t)
      const dialing = failDial(resolverOf(endpoints), identityOf(generation), { timeoutMs: ms })
      await advance(ms)
      const { error, outcomes } = await dialing
      assert.deepEqual(outcomes, [`0 ${outcome}`])
      assert.ok(error instanceof TimeoutError)
      const [attempt] = error.attempts
      assert.ok(attempt?.error instanceof TimeoutError)
      assert.equal(attempt.durationMs, Math.round(ms))
      assert.equal(error.cause, attempt.error)
    })
  }

  it('reports all pending attempts at the deadline', async (t) => {
    const endpoints = await silentInstances(t, 3)
    const { advance } = stopTime(t)
    const dialing = failDial(resolverOf(endpoints), identityOf(generation), { timeoutMs: 2_400 })
    await advance(2_400)
    const { error, outcomes } = await dialing
    assert.deepEqual(outcomes, ['0 failed', '1 failed', '2 failed'])
    assert.ok(error instanceof TimeoutError)
    // The second attempt starts after 1000 ms, and the third one after 700 more.
    assert.deepEqual(
      error.attempts.map(({ durationMs }) => durationMs),
      [2_400, 1_400, 700],
    )
  })

  it('blames no instance when the caller aborts the dial', async (t) => {
    const endpoints = await silentInstances(t, 1)
    const { advance } = stopTime(t)
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const dialing = failDial(resolverOf(endpoints), identityOf(generation), { signal: controller.signal })
    await advance(9_000)
    controller.abort(reason)
    const { outcomes, error } = await dialing
    assert.deepEqual(outcomes, ['0 abandoned'])
    assert.ok(error instanceof AbortError && error.cause === reason)
  })
})

describe('dial: instances that hang', () => {
  const DEADLINE_MS = 10_000

  it('fail after the connect timeout of the service', async (t) => {
    const endpoints = endpointList(await silentInstances(t, 1), { connectTimeoutMs: 200 })
    const { advance } = stopTime(t)
    const dialing = failDial(resolverOf(endpoints), identityOf(generation))
    await advance(200)
    const { error, outcomes } = await dialing
    assert.deepEqual(outcomes, ['0 failed'])
    assert.equal(asDialError(error).code, 'ERR_CONNECT_DIAL_FAILED')
    assert.match(error.message, /took longer than the connect timeout of the service \(200 ms\)$/)
  })

  it('make the dial resolve again once, after their head starts, and try new instances', async (t) => {
    const [a, b, c] = await silentInstances(t, 3)
    const { advance } = stopTime(t)
    const resolver = resolverOf([a!, b!], [a!, b!, c!])
    let attempts = 0
    // The second instance refuses the connection; the head start of the first one begins again.
    const identity = identityOf(() => ((attempts += 1) === 2 ? failing(new Error('refused')) : generation))
    const dialing = failDial(resolver, identity, { timeoutMs: DEADLINE_MS })
    await advance(1_999)
    assert.equal(resolver.requests.length, 1)
    await advance(1)
    assert.deepEqual(
      resolver.requests.map(({ refresh }) => refresh),
      [false, true],
    )
    await advance(DEADLINE_MS)
    const { error, outcomes } = await dialing
    assert.deepEqual(outcomes, ['1 failed', '0 failed', '2 failed'])
    assert.ok(error instanceof TimeoutError)
    assert.equal(error.attempts[2]?.durationMs, DEADLINE_MS - 2_000)
    assert.equal(resolver.requests.length, 2)
  })

  it('are awaited until the deadline although the second resolution fails', async (t) => {
    const endpoints = await silentInstances(t, 1)
    const { advance } = stopTime(t)
    const resolver = resolverOf(endpoints, new DialError('ERR_CONNECT_GATEWAY', 'web', 'none'))
    const dialing = failDial(resolver, identityOf(generation), { timeoutMs: DEADLINE_MS })
    await advance(DEADLINE_MS)
    const { error } = await dialing
    assert.ok(error instanceof TimeoutError)
    assert.deepEqual([error.attempts.length, resolver.requests.length], [1, 2])
  })
})

describe('dial: the head start of each attempt', () => {
  const cases: [count: number, timeoutMs: number, headStarts: number[]][] = [
    // At most 1 s, and half of the remaining time.
    [12, 10_000, [1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 500, 250]],
    // At least 100 ms.
    [6, 1_000, [500, 250, 125, 100]],
    [2, 100, []],
  ]
  for (const [count, timeoutMs, headStarts] of cases) {
    it(`is ${headStarts.join(', ')} ms with ${count} instances and a timeout of ${timeoutMs} ms`, async (t) => {
      const endpoints = await silentInstances(t, count)
      const { advance } = stopTime(t)
      const startTimes: number[] = []
      const identity = identityOf(() => {
        startTimes.push(performance.now())
        return generation
      })
      const dialing = failDial(resolverOf(endpoints), identity, { timeoutMs })
      await advance(timeoutMs)
      await dialing
      const pauses = startTimes.slice(1).map((at, i) => at - startTimes[i]!)
      assert.deepEqual(pauses.slice(0, headStarts.length), headStarts)
      // The identity is also read after the last instance, before and after the upstream is resolved again.
      assert.ok(pauses.length <= headStarts.length + 2)
    })
  }

  it('is computed from the time that the resolver leaves', async (t) => {
    const endpoints = await silentInstances(t, 2)
    const time = stopTime(t)
    const { advance, jump } = time
    const resolver: Resolver = {
      name: 'slow',
      isSorted: true,
      resolve: () => {
        jump(9_000)
        return endpoints
      },
    }
    const dialing = failDial(resolver, identityOf(generation))
    await settle()
    assert.ok(time.delays.includes(500), String(time.delays))
    await advance(10_000)
    await dialing
  })

  it('ends when the attempt fails', async (t) => {
    const [silent] = await silentInstances(t, 1)
    const { advance } = stopTime(t)
    let attempts = 0
    const identity = identityOf(() => ((attempts += 1) === 1 ? failing(new Error('refused')) : generation))
    const dialing = failDial(resolverOf([UNREACHABLE, silent!]), identity, { timeoutMs: 9_000 })
    await settle()
    assert.equal(attempts, 2)
    await advance(9_000)
    assert.deepEqual((await dialing).outcomes, ['failed', '0 failed'])
  })
})

describe('dial', () => {
  it('resolves again, with refresh, after all instances have failed', async () => {
    const resolver = resolverOf([UNREACHABLE])
    const { error, outcomes } = await failDial(resolver, failingIdentity(new Error('refused')))
    assert.deepEqual(
      resolver.requests.map(({ datacenter, refresh }) => [datacenter, refresh]),
      [
        ['dc7', false],
        ['dc7', true],
      ],
    )
    assert.deepEqual(outcomes, ['failed'])
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
    assert.match(
      error.message,
      /^dial web: no instance could be reached: 127\.0\.0\.1:1 \(\d+ ms\): refused$/,
    )
    assert.equal((error.cause as Error).message, 'refused')
  })

  it('tries each instance once, and new instances after the second resolution', async () => {
    const added = { ...UNREACHABLE, host: '::1', port: 2 }
    const resolver = resolverOf([UNREACHABLE], [UNREACHABLE, added])
    const { error } = await failDial(resolver, failingIdentity(new Error('refused')))
    assert.deepEqual(
      asDialError(error).attempts.map(({ address }) => address),
      ['127.0.0.1:1', '[::1]:2'],
    )
    assert.equal(resolver.requests.length, 2)
  })

  it('tries a sorted list in order, and an unsorted list by weight', async () => {
    const list = [1, 2, 3].map((port) => ({ ...UNREACHABLE, port, weight: port === 3 ? 1 : 0 }))
    const ports = async (isSorted: boolean | undefined): Promise<string[]> => {
      const resolver: Resolver = {
        name: 'web',
        resolve: () => list,
        ...(isSorted !== undefined && { isSorted }),
      }
      const { error } = await failDial(resolver, failingIdentity(new IdentityError('ERR_CONNECT_ROOTS', 'm')))
      return asDialError(error).attempts.map(({ address }) => address.replace(/.*:/, ''))
    }
    assert.deepEqual(await ports(true), ['1', '2', '3'])
    assert.equal((await ports(false))[0], '3')
    assert.equal((await ports(undefined))[0], '3')
  })

  it('uses the current generation for each attempt', async () => {
    const errors = [new Error('first'), new Error('second')]
    const resolver = resolverOf([UNREACHABLE, { ...UNREACHABLE, port: 2 }])
    const { error } = await failDial(resolver, failingIdentity(...errors))
    assert.deepEqual(
      asDialError(error).attempts.map((attempt) => attempt.error),
      errors,
    )
  })

  it('rejects when our certificate has expired', async () => {
    const expired = new IdentityError('ERR_CONNECT_LEAF_EXPIRED', 'expired')
    const identity = identityOf(() => {
      throw expired
    })
    const { error, outcomes } = await failDial(resolverOf([UNREACHABLE]), identity)
    assert.equal(error, expired)
    assert.deepEqual(outcomes, [])
  })

  it('reports a wrong identity rather than an unreachable instance', async () => {
    const impostor = new VerificationError('ERR_CONNECT_PEER_IDENTITY', 'web', 'db')
    const errors = [new Error('first'), impostor, new Error('last')]
    const list = [1, 2, 3].map((port) => ({ ...UNREACHABLE, port }))
    const { error } = await failDial(resolverOf(list), failingIdentity(...errors))
    assert.deepEqual([asDialError(error).code, error.cause], ['ERR_CONNECT_PEER_IDENTITY', impostor])
  })

  it('reports ERR_CONNECT_NO_INSTANCES, with the attempts, when the second resolution finds no instances', async () => {
    const none = new DialError('ERR_CONNECT_NO_INSTANCES', 'web', 'gone', { reason: 'not-passing' })
    const { error } = await failDial(resolverOf([UNREACHABLE], none), failingIdentity(new Error('refused')))
    assert.ok(error instanceof DialError)
    assert.deepEqual(
      [error.code, error.reason, error.cause],
      ['ERR_CONNECT_NO_INSTANCES', 'not-passing', none],
    )
    assert.equal(error.attempts.length, 1)
    assert.match(error.message, /^dial web: no instance could be reached, and none is left: .*refused$/)
    const { error: empty } = await failDial(
      resolverOf([UNREACHABLE], []),
      failingIdentity(new Error('refused')),
    )
    assert.deepEqual(
      [asDialError(empty).code, asDialError(empty).reason, asDialError(empty).attempts.length],
      ['ERR_CONNECT_NO_INSTANCES', 'empty', 1],
    )
  })

  it('reports the failed attempts when the second resolution fails', async () => {
    const refused = new Error('refused')
    const { error } = await failDial(resolverOf([UNREACHABLE], new Error('no DNS')), failingIdentity(refused))
    assert.ok(error instanceof DialError)
    assert.deepEqual(
      [error.code, error.cause, error.attempts.length],
      ['ERR_CONNECT_DIAL_FAILED', refused, 1],
    )
  })

  it('rejects with the error of the first resolution', async () => {
    const none = new DialError('ERR_CONNECT_NO_INSTANCES', 'web', 'none', { reason: 'unknown' })
    const { error } = await failDial(resolverOf(none), identityOf(generation))
    assert.equal(error, none)
  })

  describe('at the deadline, reports as the cause', () => {
    const lastError = new Error('the last error')
    const never = (): Promise<never> => new Promise(() => undefined)

    it('the last error of the resolver', async (t) => {
      const { advance } = stopTime(t)
      const resolver: Resolver = { name: 'web', lastError, resolve: never }
      const dialing = failDial(resolver, identityOf(generation, { lastError: new Error('another') }))
      await advance(10_000)
      const { error } = await dialing
      assert.ok(error instanceof TimeoutError)
      assert.deepEqual([error.cause, error.timeoutMs, error.attempts], [lastError, 10_000, []])
      assert.equal(error.message, 'dial web: timed out after 10000 ms: the last error')
    })

    it('the last error of the identity', async (t) => {
      const { advance } = stopTime(t)
      const dialing = failDial(resolverOf([UNREACHABLE]), identityOf(generation, { ready: never, lastError }))
      await advance(10_000)
      assert.equal((await dialing).error.cause, lastError)
    })

    it('the error of the last attempt, rather than that of the resolver', async (t) => {
      const { advance } = stopTime(t)
      const refused = new Error('refused')
      const resolver: Resolver = {
        name: 'web',
        lastError,
        resolve: ({ refresh }) => (refresh ? never() : [UNREACHABLE]),
      }
      const dialing = failDial(resolver, failingIdentity(refused))
      await advance(10_000)
      const { error } = await dialing
      assert.ok(error instanceof TimeoutError)
      assert.deepEqual([error.cause, error.attempts.length], [refused, 1])
    })
  })
})
