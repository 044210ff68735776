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
import { Balancer, type Choice } from '../../src/resolve/balancer.js'
import type { Endpoint, ResolveRequest, Resolver } from '../../src/resolve/resolver.js'
import { TestCa } from '../../src/testing/index.js'
import { type DialBounds, dial } from '../../src/transport/dial.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { stopTime } from '../fixtures/stopped-time.js'
import { ATTEMPT_ERRORS } from '../fixtures/errors.js'

const ca = TestCa.create()
const { chainPem, privateKeyPem } = ca.issue()
/** What TLS needs of a generation. Nobody here gets as far as to be asked for an identity. */
const generation = {
  leaf: { chainPem },
  privateKeyPem,
  roots: { pems: [ca.rootPem] },
} as unknown as Generation

/** A generation that TLS cannot use: each try fails with `error` at once. */
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

/** A balancer that writes down what is said of its choices. */
class RecordingBalancer extends Balancer {
  readonly told: string[] = []

  constructor() {
    super({ clock: new FakeClock(), random: () => 0 })
  }

  override choose(...given: Parameters<Balancer['choose']>): Choice | undefined {
    const choice = super.choose(...given)
    if (choice === undefined) return undefined
    const tell = (what: string): void => {
      this.told.push(`${choice.endpoint.identity.datacenter ?? ''} ${what}`.trim())
    }
    return {
      endpoint: choice.endpoint,
      connected: () => {
        tell('connected')
        return choice.connected()
      },
      failed: () => {
        tell('failed')
        choice.failed()
      },
      abandoned: () => {
        tell('abandoned')
        choice.abandoned()
      },
    }
  }
}

const nowhere: Endpoint = { host: '127.0.0.1', port: 1, identity: { service: 'web' } }

function sorted(...lists: (readonly Endpoint[] | Error)[]): Resolver & { requests: ResolveRequest[] } {
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

async function start(
  resolver: Resolver,
  identity: IdentityStore,
  bounds: Partial<DialBounds> = {},
): Promise<{ error: Error; told: string[] }> {
  const balancer = new RecordingBalancer()
  const error = await dial(
    identity,
    { resolver, balancer },
    { timeoutMs: 10_000, socketSettings: { allowHalfOpen: false, expectsAnswer: true }, ...bounds },
  ).then(
    () => {
      throw new Error('expected a rejection')
    },
    (thrown: unknown) => thrown as Error,
  )
  return { error, told: balancer.told }
}

function asDialError(error: Error): DialError {
  assert.ok(error instanceof DialError, String(error))
  return error
}

function asTimeout(error: Error): TimeoutError {
  assert.ok(error instanceof TimeoutError, String(error))
  return error
}

/** A server that takes connections and never says a word; so many instances of it, each of a datacenter of its own. */
async function silence(t: TestContext, count: number): Promise<Endpoint[]> {
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

describe('dial: whose fault a failed try is', () => {
  for (const [told, error] of ATTEMPT_ERRORS) {
    it(`${told}: ${error instanceof Error ? `${error.name} ${error.message}` : String(error)}`, async () => {
      const found = await start(sorted([nowhere]), identityOf(failing(error)))
      assert.deepEqual(found.told, [told])
      assert.ok(found.error instanceof DialError)
      assert.equal(found.error.attempts.length, 1)
    })
  }

  for (const [ms, told] of [
    [499, 'abandoned'],
    [499.9, 'abandoned'],
    [500, 'failed'],
    [10_000, 'failed'],
  ] as const) {
    it(`silence of ${ms} ms, until the deadline: ${told}`, async (t) => {
      const endpoints = await silence(t, 1)
      const { advance } = stopTime(t)
      const finding = start(sorted(endpoints), identityOf(generation), { timeoutMs: ms })
      await advance(ms)
      const found = await finding
      assert.deepEqual(found.told, [`0 ${told}`])
      assert.ok(found.error instanceof TimeoutError)
      const [attempt] = found.error.attempts
      assert.ok(attempt?.error instanceof TimeoutError)
      assert.equal(attempt.durationMs, Math.round(ms))
      assert.equal(found.error.cause, attempt.error)
    })
  }

  it('silence of all of them, until the deadline: of the last it was too short', async (t) => {
    const endpoints = await silence(t, 3)
    const { advance } = stopTime(t)
    const finding = start(sorted(endpoints), identityOf(generation), { timeoutMs: 2_400 })
    await advance(2_400)
    // The second is begun after 1000 ms, and the third after 700 more.
    const { told, error } = await finding
    assert.deepEqual(told, ['0 failed', '1 failed', '2 failed'])
    assert.deepEqual(
      asTimeout(error).attempts.map(({ durationMs }) => durationMs),
      [2_400, 1_400, 700],
    )
    const hasty = start(sorted(endpoints), identityOf(generation), { timeoutMs: 900 })
    await advance(900)
    assert.deepEqual((await hasty).told, ['0 failed', '1 abandoned', '2 abandoned'])
  })

  it('a caller who gives up, however late', async (t) => {
    const endpoints = await silence(t, 1)
    const { advance } = stopTime(t)
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const finding = start(sorted(endpoints), identityOf(generation), { signal: controller.signal })
    await advance(9_000)
    controller.abort(reason)
    const { told, error } = await finding
    assert.deepEqual(told, ['0 abandoned'])
    assert.ok(error instanceof AbortError && error.cause === reason)
  })
})

describe('dial: the head start that each instance has', () => {
  const cases: [count: number, timeoutMs: number, starts: number[]][] = [
    [1, 10_000, []],
    // A second, while there are two.
    [5, 10_000, [1_000, 1_000, 1_000, 1_000]],
    [12, 10_000, [1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 500, 250]],
    // And half of what is left, when that is less; but never so little that nobody could answer.
    [4, 1_000, [500, 250, 125]],
    [6, 1_000, [500, 250, 125, 100]],
    [2, 100, []],
  ]
  for (const [count, timeoutMs, starts] of cases) {
    it(`${count} instances and ${timeoutMs} ms: ${starts.join(', ')}`, async (t) => {
      const endpoints = await silence(t, count)
      const { advance } = stopTime(t)
      const begun: number[] = []
      const identity = identityOf(() => {
        begun.push(performance.now())
        return generation
      })
      const finding = start(sorted(endpoints), identity, { timeoutMs })
      await advance(timeoutMs)
      await finding
      const pauses = begun.slice(1).map((at, i) => at - begun[i]!)
      assert.deepEqual(pauses.slice(0, starts.length), starts)
      // Whoever asks in vain whether there is another does so once.
      assert.ok(pauses.length <= starts.length + 1)
    })
  }

  it('is reckoned from what is left, whoever has used it', async (t) => {
    const endpoints = await silence(t, 2)
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
    const finding = start(resolver, identityOf(generation))
    await settle()
    assert.ok(time.delays.includes(500), String(time.delays))
    await advance(10_000)
    await finding
  })

  it('is over when an instance fails', async (t) => {
    const [silent] = await silence(t, 1)
    const { advance } = stopTime(t)
    let tries = 0
    const identity = identityOf(() => ((tries += 1) === 1 ? failing(new Error('refused')) : generation))
    const finding = start(sorted([nowhere, silent!]), identity, { timeoutMs: 9_000 })
    await settle()
    assert.equal(tries, 2)
    await advance(9_000)
    assert.deepEqual((await finding).told, ['failed', '0 failed'])
  })
})

describe('dial: the way through', () => {
  it('asks the resolver, and once more when all have failed: to look again', async () => {
    const resolver = sorted([nowhere])
    const { error, told } = await start(resolver, identityOf(failing(new Error('refused'))))
    assert.deepEqual(
      resolver.requests.map(({ datacenter, refresh }) => [datacenter, refresh]),
      [
        ['dc7', false],
        ['dc7', true],
      ],
    )
    assert.deepEqual(told, ['failed'])
    assert.ok(error instanceof DialError)
    assert.equal(error.code, 'ERR_CONNECT_DIAL_FAILED')
    assert.match(
      error.message,
      /^dial web: no instance could be reached: 127\.0\.0\.1:1 \(\d+ ms\): refused$/,
    )
    assert.equal((error.cause as Error).message, 'refused')
  })

  it('tries whoever is new then, and none twice', async () => {
    const other = { ...nowhere, host: '::1', port: 2 }
    const resolver = sorted([nowhere], [nowhere, other])
    const { error } = await start(resolver, identityOf(failing(new Error('refused'))))
    assert.deepEqual(
      asDialError(error).attempts.map(({ address }) => address),
      ['127.0.0.1:1', '[::1]:2'],
    )
    assert.equal(resolver.requests.length, 2)
  })

  it('goes in the order of a sorted list, and by weight and load of another', async () => {
    const list = [1, 2, 3].map((port) => ({ ...nowhere, port, weight: port === 3 ? 1 : 0 }))
    const ports = async (isSorted: boolean | undefined): Promise<string[]> => {
      const resolver: Resolver = {
        name: 'web',
        resolve: () => list,
        ...(isSorted !== undefined && { isSorted }),
      }
      const { error } = await start(
        resolver,
        identityOf(failing(new IdentityError('ERR_CONNECT_ROOTS', 'm'))),
      )
      return asDialError(error).attempts.map(({ address }) => address.replace(/.*:/, ''))
    }
    assert.deepEqual(await ports(true), ['1', '2', '3'])
    assert.equal((await ports(false))[0], '3')
    assert.equal((await ports(undefined))[0], '3')
  })

  it('takes the generation of the moment for each try', async () => {
    const errors = [new Error('first'), new Error('second')]
    let tries = 0
    const identity = identityOf(() => failing(errors[tries++]))
    const { error } = await start(sorted([nowhere, { ...nowhere, port: 2 }]), identity)
    assert.deepEqual(
      asDialError(error).attempts.map((attempt) => attempt.error),
      errors,
    )
  })

  it('ends when there is no generation any more', async () => {
    const expired = new IdentityError('ERR_CONNECT_LEAF_EXPIRED', 'expired')
    const identity = identityOf(() => {
      throw expired
    })
    const { error, told } = await start(sorted([nowhere]), identity)
    assert.equal(error, expired)
    assert.deepEqual(told, [])
  })

  it('somebody who proved to be another is worse news than somebody who is away', async () => {
    const impostor = new VerificationError('ERR_CONNECT_PEER_IDENTITY', 'web', 'db')
    const errors = [new Error('first'), impostor, new Error('last')]
    let tries = 0
    const identity = identityOf(() => failing(errors[tries++]))
    const list = [1, 2, 3].map((port) => ({ ...nowhere, port }))
    const { error } = await start(sorted(list), identity)
    assert.deepEqual([asDialError(error).code, error.cause], ['ERR_CONNECT_PEER_IDENTITY', impostor])
  })

  it('nobody is left when it looks again: that is what is told, with the tries', async () => {
    const none = new DialError('ERR_CONNECT_NO_INSTANCES', 'web', 'gone', { reason: 'not-passing' })
    const { error } = await start(sorted([nowhere], none), identityOf(failing(new Error('refused'))))
    assert.ok(error instanceof DialError)
    assert.deepEqual(
      [error.code, error.reason, error.cause],
      ['ERR_CONNECT_NO_INSTANCES', 'not-passing', none],
    )
    assert.equal(error.attempts.length, 1)
    assert.match(error.message, /^dial web: no instance could be reached, and none is left: .*refused$/)
    const { error: empty } = await start(sorted([nowhere], []), identityOf(failing(new Error('refused'))))
    assert.deepEqual(
      [asDialError(empty).code, asDialError(empty).reason, asDialError(empty).attempts.length],
      ['ERR_CONNECT_NO_INSTANCES', 'empty', 1],
    )
  })

  it('looking again fails: the tries are what is told', async () => {
    const refused = new Error('refused')
    const { error } = await start(sorted([nowhere], new Error('no DNS')), identityOf(failing(refused)))
    assert.ok(error instanceof DialError)
    assert.deepEqual(
      [error.code, error.cause, error.attempts.length],
      ['ERR_CONNECT_DIAL_FAILED', refused, 1],
    )
  })

  it('the first look fails: that is what is told', async () => {
    const none = new DialError('ERR_CONNECT_NO_INSTANCES', 'web', 'none', { reason: 'unknown' })
    const { error } = await start(sorted(none), identityOf(generation))
    assert.equal(error, none)
  })

  describe('at the deadline the cause is the last word', () => {
    const word = new Error('the last word')
    const never = (): Promise<never> => new Promise(() => undefined)

    it('of the resolver', async (t) => {
      const { advance } = stopTime(t)
      const resolver: Resolver = { name: 'web', lastError: word, resolve: never }
      const finding = start(resolver, identityOf(generation, { lastError: new Error('another') }))
      await advance(10_000)
      const { error } = await finding
      assert.ok(error instanceof TimeoutError)
      assert.deepEqual([error.cause, error.timeoutMs, error.attempts], [word, 10_000, []])
      assert.equal(error.message, 'dial web: timed out after 10000 ms: the last word')
    })

    it('of our own certificate', async (t) => {
      const { advance } = stopTime(t)
      const finding = start(sorted([nowhere]), identityOf(generation, { ready: never, lastError: word }))
      await advance(10_000)
      assert.equal((await finding).error.cause, word)
    })

    it('of the resolver that looks again, after that of the last try', async (t) => {
      const { advance } = stopTime(t)
      const refused = new Error('refused')
      const resolver: Resolver = {
        name: 'web',
        lastError: word,
        resolve: ({ refresh }) => (refresh ? never() : [nowhere]),
      }
      const finding = start(resolver, identityOf(failing(refused)))
      await advance(10_000)
      const { error } = await finding
      assert.ok(error instanceof TimeoutError)
      assert.deepEqual([error.cause, error.attempts.length], [refused, 1])
    })
  })
})
