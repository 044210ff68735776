import assert from 'node:assert/strict'
import { PassThrough, Readable } from 'node:stream'
import { describe, it } from 'node:test'
import { type Dispatcher, errors } from 'undici'
import { systemTime } from '../../src/base/clock.js'
import { ClosedError, DialError } from '../../src/base/errors.js'
import type { ClassicHandler } from '../../src/http/routes/classic-handler.js'
import { RequestLeg } from '../../src/http/routes/request-leg.js'
import { type RetryPolicy, retryPolicy } from '../../src/http/routes/retry.js'
import type { Decision, RequestRules } from '../../src/http/routes/route-table.js'
import { type RequestContext, RoutedRequest, type Destination } from '../../src/http/routes/routed-request.js'
import { Balancer, type RequestChoice } from '../../src/resolve/balancing/balancer.js'
import { type Endpoint, endpointList } from '../../src/resolve/resolver.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

/** One attempt as the transport sees it, which the test completes. */
interface Attempt {
  readonly host: string
  readonly options: Dispatcher.DispatchOptions
  readonly handler: ClassicHandler
  /** The reasons for which it was aborted. As at undici, the handler gets them at once. */
  readonly aborts: (Error | undefined)[]
  readonly connect: () => void
  readonly head: (status: number, headers?: readonly string[]) => boolean
}

interface Setup {
  readonly options?: Record<string, unknown>
  readonly rules?: Partial<RequestRules>
  readonly decision?: Partial<Decision>
  readonly hosts?: readonly string[]
  readonly random?: () => number
  /** Decides again; the leg is the same one unless the test gives another. */
  readonly reroute?: () => Promise<Partial<Destination>> | undefined
  /** Replaces the choice of an instance. */
  readonly choose?: (tried: Set<object> | undefined) => RequestChoice | Promise<RequestChoice>
  readonly handler?: Partial<ClassicHandler>
  /** Begin and complete an attempt without the test. */
  readonly onSend?: (attempt: Attempt) => void
}

function raw(...lines: string[]): Buffer[] {
  return lines.map((line) => Buffer.from(line, 'latin1'))
}

function retry(on: readonly string[], most = 1): RetryPolicy {
  const policy = retryPolicy({ most, on, onConnectFailure: false, onStatusCodes: [] }, (problem) => {
    assert.fail(problem)
  })
  assert.ok(policy !== undefined)
  return policy
}

/** A request whose instances and transport are in the hands of the test. */
function start({ options, rules, decision, hosts = ['a', 'b', 'c'], ...setup }: Setup = {}) {
  const clock = new FakeClock(1_000)
  const time = { clock, random: setup.random ?? ((): number => 0) }
  const given = { origin: 'https://web', method: 'GET', path: '/', ...options } as Dispatcher.DispatchOptions
  const identity = { service: 'web' }
  const endpoints = endpointList(hosts.map((host): Endpoint => ({ host, port: 80, identity })))
  const resolver = { name: 'web', isSorted: true, resolve: () => endpoints, known: () => endpoints }
  const balancer = new Balancer(time)
  const leg = new RequestLeg(
    { resolver, balancer },
    { resolve: () => Promise.resolve(endpoints), newPool: () => assert.fail('a pool') },
  )
  /** For each choice, how many times it was ended. */
  const choices: { readonly host: string; ends: number }[] = []
  const choose = setup.choose ?? leg.choose.bind(leg)
  const counted = (choice: RequestChoice): RequestChoice => {
    const record = { host: choice.endpoint.host, ends: 0 }
    choices.push(record)
    const end = (): void => {
      record.ends += 1
      choice.end()
    }
    return { endpoint: choice.endpoint, end }
  }
  leg.choose = (tried, hash) => {
    const choice = choose(tried, hash)
    return choice instanceof Promise ? choice.then(counted) : counted(choice)
  }
  const calls: unknown[][] = []
  let abort: (reason?: Error) => void = () => assert.fail('not connected')
  const handler: ClassicHandler = {
    onConnect: (given) => {
      abort = given
      calls.push(['connect'])
    },
    onHeaders: (status, headers, _resume, statusText) => {
      calls.push(['head', status, ...headers.map(String), ...(statusText === '' ? [] : [statusText])])
      return true
    },
    onData: (chunk) => {
      calls.push(['data', String(chunk)])
      return true
    },
    onComplete: (trailers) => {
      calls.push(['complete', ...(trailers ?? []).map(String)])
    },
    onError: (error) => {
      calls.push(['error', error])
    },
    onUpgrade: (status, headers, socket) => {
      calls.push(['upgrade', status, ...headers.map(String), socket])
    },
    onBodySent: (chunk) => {
      calls.push(['sent', String(chunk)])
    },
    onRequestSent: () => {
      calls.push(['request sent'])
    },
    ...setup.handler,
  }
  const attempts: Attempt[] = []
  let ended = 0
  const destination: Destination = {
    decision: {
      legKey: 'leg',
      path: '/',
      headers: undefined,
      responseChanges: [],
      hash: undefined,
      cookies: [],
      rules: { requestTimeoutMs: Infinity, idleTimeoutMs: Infinity, retry: undefined, ...rules },
      ...decision,
    },
    leg,
    routes: undefined,
  }
  const context: RequestContext = {
    name: 'web',
    time,
    send: (_leg, endpoint, sent, undiciHandler) => {
      const attempt = newAttempt(endpoint.host, sent, undiciHandler as unknown as ClassicHandler)
      attempts.push(attempt)
      setup.onSend?.(attempt)
    },
    reroute: () => setup.reroute?.()?.then((other) => ({ ...destination, ...other })),
    onEnded: () => {
      ended += 1
    },
  }
  const request = new RoutedRequest(context, given, handler, destination)
  request.start()
  return {
    request,
    clock,
    leg,
    attempts,
    calls,
    choices,
    /** The attempt of this number, connected. */
    attempt: (i = attempts.length - 1): Attempt => {
      const attempt = attempts[i]
      assert.ok(attempt !== undefined, 'no attempt was made')
      return attempt
    },
    abort: (reason?: Error) => {
      abort(reason)
    },
    /** Requires that the request has ended, and has left nothing behind. */
    expectEnded: () => {
      assert.equal(request.isEnded, true)
      assert.equal(ended, 1)
      assert.deepEqual([leg.pending, leg.retrying], [0, 0])
      for (const { host, ends } of choices)
        assert.equal(ends, 1, `the choice of ${host} has ended ${ends} times`)
      assert.equal(clock.pending, 0)
    },
    names: () => calls.map(([name]) => name),
  }
}

function newAttempt(host: string, options: Dispatcher.DispatchOptions, handler: ClassicHandler): Attempt {
  const aborts: (Error | undefined)[] = []
  return {
    host,
    options,
    handler,
    aborts,
    connect: () => {
      handler.onConnect((reason) => {
        aborts.push(reason)
        if (aborts.length === 1) handler.onError(reason ?? new errors.RequestAbortedError())
      })
    },
    head: (status, headers = []) => handler.onHeaders(status, raw(...headers), () => undefined, ''),
  }
}

const RESET = Object.assign(new Error('other side closed'), { code: 'UND_ERR_SOCKET' })
const REFUSED = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })

/** Takes the whole body of an attempt. */
async function take({ options }: Attempt): Promise<string> {
  let whole = ''
  for await (const chunk of options.body as unknown as AsyncIterable<unknown>) whole += String(chunk)
  return whole
}

describe('RoutedRequest', () => {
  it('passes a response to its handler', () => {
    const { attempts, attempt, calls, leg, expectEnded } = start()
    assert.deepEqual([attempts.length, attempt().host, leg.pending], [1, 'a', 1])
    const { handler, connect } = attempt()
    connect()
    handler.onRequestSent?.()
    handler.onHeaders(200, raw('x-a', 'b'), () => undefined, 'Fine')
    handler.onData(Buffer.from('data'))
    handler.onComplete(raw('x-t', 'c'))
    assert.deepEqual(calls, [
      ['connect'],
      ['request sent'],
      ['head', 200, 'x-a', 'b', 'Fine'],
      ['data', 'data'],
      ['complete', 'x-t', 'c'],
    ])
    expectEnded()
  })

  it('passes pauses and their end', () => {
    let resumed = 0
    const { attempt } = start({
      handler: {
        onHeaders: (_status, _headers, resume) => {
          resume()
          return false
        },
        onData: () => false,
      },
    })
    attempt().connect()
    const resume = (): void => {
      resumed += 1
    }
    assert.equal(attempt().handler.onHeaders(200, [], resume, ''), false)
    assert.equal(resumed, 1)
    assert.equal(attempt().handler.onData(Buffer.from('x')), false)
  })

  it('sends the path and the headers of the decision, and the other options of the caller', () => {
    const changed = ['X-Kept', 'y', 'x-set', '1', 'x-add', '2']
    const { attempt } = start({
      options: { path: '/old', query: { a: 1 }, headers: { 'X-Gone': 'x', 'X-Kept': 'y' }, bodyTimeout: 7 },
      decision: { path: '/new?a=1', headers: changed },
    })
    const { path, headers, query, bodyTimeout, method } = attempt().options as unknown as Record<
      string,
      unknown
    >
    assert.deepEqual([method, path, query, bodyTimeout], ['GET', '/new?a=1', undefined, 7])
    assert.deepEqual(headers, changed)
  })

  it('keeps the headers of the caller in their form without changes', () => {
    const headers = { 'x-a': ['1', '2'] }
    assert.equal(start({ options: { headers } }).attempt().options.headers, headers)
  })

  it('waits for an instance', async () => {
    const choice = { endpoint: { host: 'late', port: 1, identity: { service: 'web' } }, end: () => undefined }
    const { attempts, attempt, leg, expectEnded } = start({ choose: () => Promise.resolve(choice) })
    assert.deepEqual([attempts.length, leg.pending], [0, 1])
    await settle()
    assert.equal(attempt().host, 'late')
    attempt().connect()
    attempt().head(200)
    attempt().handler.onComplete(null)
    expectEnded()
  })

  it('reports what its handler throws at the end, as undici does', () => {
    const problem = new Error('handler')
    const { attempt, calls, expectEnded } = start({
      handler: {
        onComplete: () => {
          throw problem
        },
      },
    })
    attempt().connect()
    attempt().head(200)
    const { handler } = attempt()
    assert.throws(() => {
      handler.onComplete(null)
    }, problem)
    handler.onError(problem)
    assert.deepEqual(calls.at(-1), ['error', problem])
    expectEnded()
  })
})

describe('RoutedRequest: response headers', () => {
  const responseChanges = [
    { remove: ['x-gone'], set: [['x-set', '1']] as const, add: [] },
    { remove: [], set: [], add: [['x-set', '2']] as const },
  ]

  it('are changed in order, and get the cookies last', () => {
    const { attempt, calls } = start({ decision: { responseChanges, cookies: ['a="1"; HttpOnly', 'b="2"'] } })
    attempt().connect()
    attempt().head(200, ['X-Gone', 'x', 'X-Kept', 'y'])
    assert.deepEqual(calls.at(-1), [
      ...['head', 200, 'X-Kept', 'y', 'x-set', '1', 'x-set', '2'],
      ...['set-cookie', 'a="1"; HttpOnly', 'set-cookie', 'b="2"'],
    ])
  })

  it('keep bytes over 0x7F', () => {
    let found: readonly Buffer[] = []
    const { attempt } = start({
      decision: { cookies: ['c'] },
      handler: {
        onHeaders: (_status, headers) => {
          found = headers
          return true
        },
      },
    })
    attempt().connect()
    attempt().head(200, ['x-a', 'caf\u00e9'])
    assert.deepEqual(found[1], Buffer.from('caf\u00e9', 'latin1'))
  })

  it('of 1xx responses are not changed', () => {
    const { attempt, calls } = start({ decision: { responseChanges, cookies: ['a="1"'] } })
    attempt().connect()
    attempt().head(103, ['x-gone', 'x'])
    assert.deepEqual(calls.at(-1), ['head', 103, 'x-gone', 'x'])
  })

  it('of an upgrade are changed', () => {
    const { attempt, calls, expectEnded } = start({
      options: { upgrade: 'echo' },
      decision: { responseChanges, cookies: ['a="1"'] },
    })
    attempt().connect()
    const socket = new PassThrough()
    attempt().handler.onUpgrade?.(101, raw('x-gone', 'x'), socket)
    assert.deepEqual(calls.at(-1), [
      ...['upgrade', 101, 'x-set', '1', 'x-set', '2', 'set-cookie', 'a="1"'],
      socket,
    ])
    expectEnded()
  })
})

describe('RoutedRequest: the request timeout', () => {
  it('ends the request with an error, before the connection and during the response', async () => {
    for (const state of ['connecting', 'sent', 'answered'] as const) {
      const { attempt, clock, calls, expectEnded, request } = start({ rules: { requestTimeoutMs: 1_000 } })
      if (state !== 'connecting') attempt().connect()
      if (state === 'answered') attempt().head(200)
      await clock.advance(999)
      assert.equal(request.isEnded, false)
      await clock.advance(1)
      const [name, error] = calls.at(-1)!
      assert.equal(name, 'error')
      assert.equal((error as NodeJS.ErrnoException).code, 'ERR_CONNECT_TIMEOUT')
      assert.match((error as Error).message, /request to web/)
      // The connection attempt goes on, and ends as soon as it is connected.
      if (state === 'connecting') attempt().connect()
      assert.equal(attempt().aborts.length, 1)
      expectEnded()
      assert.equal(calls.filter(([name]) => name === 'error').length, 1)
    }
  })

  it('does not fire after the response', async () => {
    const { attempt, clock, calls, expectEnded } = start({ rules: { requestTimeoutMs: 1_000 } })
    attempt().connect()
    attempt().head(200)
    await clock.advance(999)
    attempt().handler.onComplete(null)
    expectEnded()
    await clock.advance(60_000)
    assert.equal(calls.at(-1)?.[0], 'complete')
  })

  it('starts when the last byte of the body was taken', async () => {
    const source = new Readable({ read: () => undefined })
    const { attempt, clock, request } = start({
      options: { method: 'POST', body: source },
      rules: { requestTimeoutMs: 1_000 },
    })
    attempt().connect()
    const taken = take(attempt())
    source.push('part')
    await clock.advance(60_000)
    assert.equal(clock.pending, 0)
    source.push(null)
    assert.equal(await taken, 'part')
    assert.deepEqual(clock.delays, [1_000])
    await clock.advance(999)
    assert.equal(request.isEnded, false)
    await clock.advance(1)
    assert.equal(request.isEnded, true)
  })

  it('limits all attempts together', async () => {
    const { attempts, attempt, clock, calls, expectEnded } = start({
      rules: { requestTimeoutMs: 1_000, retry: retry(['5xx'], 5) },
      random: () => 0.5,
    })
    attempt().connect()
    await clock.advance(900)
    attempt().head(503)
    attempt().handler.onComplete(null)
    await clock.advance(50)
    assert.equal(attempts.length, 2)
    attempt().connect()
    await clock.advance(50)
    assert.equal((calls.at(-1)?.[1] as NodeJS.ErrnoException).code, 'ERR_CONNECT_TIMEOUT')
    expectEnded()
  })

  it('is none for Infinity, and for an upgrade', async () => {
    for (const { options, rules } of [
      { options: {}, rules: { requestTimeoutMs: Infinity } },
      { options: { upgrade: 'echo' }, rules: { requestTimeoutMs: 1_000 } },
    ]) {
      const { attempt, clock, request } = start({ options, rules })
      attempt().connect()
      assert.equal(clock.pending, 0)
      await clock.advance(10_000_000)
      assert.equal(request.isEnded, false)
    }
  })

  it('is not retried', async () => {
    const { attempt, attempts, clock, expectEnded } = start({
      rules: { requestTimeoutMs: 1_000, retry: retry(['5xx', 'reset'], 5) },
    })
    attempt().connect()
    await clock.advance(5_000)
    assert.equal(attempts.length, 1)
    expectEnded()
  })
})

describe('RoutedRequest: the idle timeout', () => {
  const rules = { idleTimeoutMs: 1_000 }

  it('ends the request after the time without a byte', async () => {
    const { attempt, clock, calls, expectEnded } = start({ rules })
    attempt().connect()
    await clock.advance(1_000)
    assert.match((calls.at(-1)?.[1] as Error).message, /^idle request to web: /)
    assert.equal((calls.at(-1)?.[1] as NodeJS.ErrnoException).code, 'ERR_CONNECT_TIMEOUT')
    expectEnded()
  })

  it('begins again with each byte, in whichever direction', async () => {
    const { attempt, clock, request, expectEnded } = start({ rules })
    const { handler, connect, head } = attempt()
    const steps = [
      connect,
      (): void => handler.onBodySent?.(Buffer.from('x')),
      (): unknown => head(103),
      (): unknown => head(200),
      (): unknown => handler.onData(Buffer.from('x')),
    ]
    for (const step of steps) {
      await clock.advance(999)
      assert.equal(request.isEnded, false)
      step()
    }
    await clock.advance(999)
    assert.equal(request.isEnded, false)
    await clock.advance(1)
    expectEnded()
  })

  it('ends a request that waits for an instance', async () => {
    let give: (choice: RequestChoice) => void = () => undefined
    const { clock, calls, choices, attempts, expectEnded } = start({
      rules,
      choose: () => new Promise<RequestChoice>((resolve) => (give = resolve)),
    })
    await clock.advance(1_000)
    assert.deepEqual(
      calls.map(([name]) => name),
      ['error'],
    )
    give({ endpoint: { host: 'late', port: 1, identity: { service: 'web' } }, end: () => undefined })
    await settle()
    assert.deepEqual([attempts.length, choices], [0, [{ host: 'late', ends: 1 }]])
    expectEnded()
  })

  it('is none for Infinity, and ends with an upgrade', async () => {
    assert.equal(start().clock.pending, 0)
    const { attempt, clock, calls, expectEnded } = start({ rules, options: { upgrade: 'echo' } })
    attempt().connect()
    attempt().handler.onUpgrade?.(101, [], new PassThrough())
    expectEnded()
    await clock.advance(60_000)
    assert.equal(calls.at(-1)?.[0], 'upgrade')
  })
})

describe('RoutedRequest: a retry', () => {
  it('for a status is sent to another instance after a pause, and its response passes', async () => {
    const { attempt, attempts, clock, calls, leg, names, expectEnded } = start({
      rules: { retry: retry(['5xx']) },
      random: () => 0.5,
    })
    attempt(0).connect()
    assert.equal(attempt(0).head(503), true)
    attempt(0).handler.onData(Buffer.from('gone'))
    attempt(0).handler.onComplete(null)
    assert.deepEqual([attempts.length, leg.pending, leg.retrying], [1, 1, 1])
    assert.deepEqual(clock.delays, [12.5])
    await clock.advance(12.5)
    assert.deepEqual(
      attempts.map(({ host }) => host),
      ['a', 'b'],
    )
    attempt(1).connect()
    attempt(1).head(200)
    attempt(1).handler.onData(Buffer.from('data'))
    attempt(1).handler.onComplete(null)
    assert.deepEqual(names(), ['connect', 'head', 'data', 'complete'])
    assert.deepEqual(calls[1], ['head', 200])
    expectEnded()
  })

  it('may begin before the first response has ended', async () => {
    const { attempt, clock, names, choices, expectEnded } = start({ rules: { retry: retry(['5xx']) } })
    attempt(0).connect()
    attempt(0).head(503)
    await clock.advance(0)
    attempt(1).connect()
    attempt(1).head(200)
    attempt(0).handler.onData(Buffer.from('late'))
    attempt(1).handler.onComplete(null)
    assert.deepEqual(names(), ['connect', 'head', 'complete'])
    assert.deepEqual(choices, [
      { host: 'a', ends: 0 },
      { host: 'b', ends: 1 },
    ])
    attempt(0).handler.onError(RESET)
    assert.deepEqual(names(), ['connect', 'head', 'complete'])
    expectEnded()
  })

  it('aborts the first response if it is longer than 64 KiB', async () => {
    const { attempt, clock, choices, request } = start({ rules: { retry: retry(['5xx']) } })
    attempt(0).connect()
    attempt(0).head(503)
    attempt(0).handler.onData(Buffer.alloc(65_536))
    assert.deepEqual(attempt(0).aborts, [])
    attempt(0).handler.onData(Buffer.alloc(1))
    assert.equal(attempt(0).aborts.length, 1)
    assert.deepEqual(choices, [{ host: 'a', ends: 1 }])
    await clock.advance(0)
    assert.deepEqual([request.isEnded, choices.length], [false, 2])
  })

  it('is made at most as often as the route says, and the last response passes', async () => {
    const { attempt, attempts, clock, calls, expectEnded } = start({
      rules: { retry: retry(['5xx'], 3) },
      random: () => 0.9,
      hosts: ['a', 'b'],
    })
    for (let i = 0; i < 4; i += 1) {
      await clock.advance(250)
      assert.equal(attempts.length, i + 1)
      attempt().connect()
      attempt().head(500 + i)
      attempt().handler.onComplete(null)
    }
    await clock.advance(10_000)
    assert.deepEqual(
      attempts.map(({ host }) => host),
      // After each instance was tried, the first one is taken again.
      ['a', 'b', 'a', 'a'],
    )
    assert.deepEqual(calls.slice(1), [['head', 503], ['complete']])
    expectEnded()
  })

  it('waits longer each time', async () => {
    const { attempt, clock } = start({ rules: { retry: retry(['5xx'], 6) }, random: () => 0.5 })
    const pauses: number[] = []
    for (let i = 0; i < 6; i += 1) {
      attempt().connect()
      attempt().head(503)
      pauses.push(...clock.delays)
      await clock.advance(250)
    }
    assert.deepEqual(pauses, [12.5, 25, 50, 100, 125, 125])
  })

  it('is not made for another status', () => {
    const { attempt, calls, clock, expectEnded } = start({ rules: { retry: retry(['gateway-error']) } })
    attempt().connect()
    attempt().head(500)
    attempt().handler.onComplete(null)
    assert.deepEqual(calls, [['connect'], ['head', 500], ['complete']])
    assert.equal(clock.pending, 0)
    expectEnded()
  })

  it('reads the headers of the response in any case', () => {
    const { attempt, attempts, clock } = start({ rules: { retry: retry(['unavailable']) } })
    attempt().connect()
    attempt().head(200, ['content-type', 'application/grpc', 'Grpc-Status', '14'])
    assert.equal(clock.pending, 1)
    assert.equal(attempts.length, 1)
    const limited = start({ rules: { retry: retry(['5xx']) } })
    limited.attempt().connect()
    limited.attempt().head(503, ['X-Envoy-RateLimited', 'true'])
    assert.equal(limited.calls.at(-1)?.[1], 503)
  })

  const h2Refused = new errors.InformationalError('HTTP/2: "stream error" received - code 7')
  const failures: [what: string, error: Error, isConnected: boolean, retried: string[]][] = [
    ['a connection that fails', REFUSED, false, ['5xx', 'gateway-error', 'reset', 'connect-failure']],
    ['a connection that breaks', RESET, true, ['5xx', 'gateway-error', 'reset']],
    ['a refused stream', h2Refused, true, ['5xx', 'gateway-error', 'reset', 'refused-stream']],
  ]
  const conditions = ['5xx', 'gateway-error', 'reset', 'connect-failure', 'refused-stream', 'retriable-4xx']
  for (const [what, error, isConnected, retried] of failures) {
    it(`follows ${what} under the conditions of Envoy`, async () => {
      for (const condition of conditions) {
        const { attempt, attempts, clock, calls, expectEnded } = start({
          rules: { retry: retry([condition]) },
        })
        if (isConnected) attempt().connect()
        attempt().handler.onError(error)
        await clock.advance(25)
        if (!retried.includes(condition)) {
          assert.deepEqual([attempts.length, calls.at(-1)], [1, ['error', error]], condition)
        } else {
          assert.deepEqual(
            attempts.map(({ host }) => host),
            ['a', 'b'],
            condition,
          )
          attempt().connect()
          attempt().head(200)
          attempt().handler.onComplete(null)
        }
        expectEnded()
      }
    })
  }

  it('follows a choice that fails', async () => {
    const problem = new DialError('ERR_CONNECT_NO_INSTANCES', 'web', 'none', { reason: 'empty' })
    const { clock, calls, choices, expectEnded } = start({
      rules: { retry: retry(['connect-failure'], 2) },
      choose: () => Promise.reject(problem),
    })
    for (let i = 0; i < 3; i += 1) await clock.advance(250)
    assert.deepEqual(calls, [['error', problem]])
    assert.deepEqual(choices, [])
    expectEnded()
  })

  it('is not made after the response has begun', () => {
    const { attempt, calls, clock, expectEnded } = start({ rules: { retry: retry(['5xx', 'reset']) } })
    attempt().connect()
    attempt().head(200)
    attempt().handler.onError(RESET)
    assert.deepEqual(calls.at(-1), ['error', RESET])
    assert.equal(clock.pending, 0)
    expectEnded()
  })

  it('is made after an interim response', () => {
    const { attempt, clock } = start({ rules: { retry: retry(['reset']) } })
    attempt().connect()
    attempt().head(103)
    attempt().handler.onError(RESET)
    assert.equal(clock.pending, 1)
  })

  const client: [what: string, error: Error][] = [
    ['a service that is closed', new ClosedError('request')],
    ['invalid arguments', new errors.InvalidArgumentError('no')],
    ['an option that is not supported', new errors.NotSupportedError('no')],
    ['a client that is closed', new errors.ClientClosedError()],
    ['a client that was destroyed', new errors.ClientDestroyedError()],
    ['a request that was aborted', new errors.RequestAbortedError()],
    ['a wrong content-length', new errors.RequestContentLengthMismatchError()],
  ]
  for (const [what, error] of client) {
    it(`is not made for ${what}`, () => {
      const { attempt, calls, clock, expectEnded } = start({
        rules: { retry: retry(['5xx', 'reset', 'connect-failure']) },
        // undici reports this within `dispatch`.
        onSend: ({ handler }) => {
          handler.onError(error)
        },
      })
      assert.equal(attempt().host, 'a')
      assert.deepEqual(calls, [['error', error]])
      assert.equal(clock.pending, 0)
      expectEnded()
    })
  }

  it('is not made for an error of the handler', () => {
    const problem = new Error('handler')
    const { attempt, calls, clock, expectEnded } = start({
      rules: { retry: retry(['5xx']) },
      handler: {
        onConnect: () => {
          throw problem
        },
      },
    })
    assert.throws(() => {
      attempt().connect()
    }, problem)
    attempt().handler.onError(problem)
    assert.deepEqual([calls, clock.pending], [[['error', problem]], 0])
    expectEnded()
  })

  it('is not made if too many requests of the leg are retried', () => {
    const { attempt, calls, leg } = start({ rules: { retry: retry(['5xx']) } })
    leg.pending += 9
    leg.retrying += 3
    attempt().connect()
    attempt().head(503)
    assert.deepEqual(calls.at(-1), ['head', 503])
    assert.equal(leg.retrying, 3)
  })

  it('of a request that is already retried does not depend on the others', async () => {
    const { attempt, attempts, leg, clock } = start({ rules: { retry: retry(['5xx'], 2) } })
    attempt().connect()
    attempt().head(503)
    await clock.advance(0)
    leg.retrying += 3
    attempt().connect()
    attempt().head(503)
    await clock.advance(0)
    assert.deepEqual([attempts.length, leg.retrying], [3, 4])
  })
})

describe('RoutedRequest: the body', () => {
  it('is sent again', async () => {
    const { attempt, clock } = start({
      options: { method: 'POST', body: Readable.from(['one ', 'two']) },
      rules: { retry: retry(['5xx']) },
    })
    attempt().connect()
    assert.equal(await take(attempt()), 'one two')
    attempt().head(503)
    await clock.advance(0)
    attempt().connect()
    assert.equal(await take(attempt()), 'one two')
  })

  it('goes no further in an attempt whose response was a reason for a retry', async () => {
    const source = new Readable({ read: () => undefined })
    const { attempt, clock } = start({
      options: { method: 'POST', body: source },
      rules: { retry: retry(['5xx']) },
      random: () => 0.5,
    })
    attempt(0).connect()
    const first = assert.rejects(take(attempt(0)))
    source.push('one ')
    await settle()
    attempt(0).head(503)
    source.push('two')
    source.push(null)
    await first
    await clock.advance(25)
    attempt(1).connect()
    assert.equal(await take(attempt(1)), 'one two')
  })

  it('that is too long is not sent again, and the response passes', async () => {
    const { attempt, calls, clock, expectEnded } = start({
      options: { method: 'POST', body: Readable.from(['a'.repeat(1_048_576), 'b']) },
      rules: { retry: retry(['5xx']) },
    })
    attempt().connect()
    assert.equal((await take(attempt())).length, 1_048_577)
    attempt().head(503)
    attempt().handler.onComplete(null)
    assert.deepEqual(calls.slice(1), [['head', 503], ['complete']])
    assert.equal(clock.pending, 0)
    expectEnded()
  })

  it('whose source has failed is not sent again', async () => {
    const problem = new Error('disk')
    const source = new Readable({ read: () => undefined })
    const { attempt, calls, expectEnded } = start({
      options: { method: 'POST', body: source },
      rules: { retry: retry(['5xx']) },
    })
    attempt().connect()
    const taken = take(attempt())
    source.destroy(problem)
    await assert.rejects(taken, problem)
    attempt().handler.onError(problem)
    assert.deepEqual(calls.at(-1), ['error', problem])
    expectEnded()
  })

  it('ends its source with the request', async () => {
    const source = new Readable({ read: () => undefined })
    const { attempt } = start({ options: { method: 'POST', body: source } })
    attempt().connect()
    const taken = assert.rejects(take(attempt()))
    await settle()
    attempt().handler.onError(RESET)
    assert.equal(source.destroyed, true)
    await taken
  })

  it('is reported once, by the first attempt', async () => {
    const { attempt, clock, calls } = start({
      options: { method: 'POST', body: 'text' },
      rules: { retry: retry(['5xx']) },
    })
    for (let i = 0; i < 2; i += 1) {
      attempt().connect()
      attempt().handler.onBodySent?.(Buffer.from('text'))
      attempt().handler.onRequestSent?.()
      attempt().head(i === 0 ? 503 : 200)
      await clock.advance(0)
    }
    attempt().handler.onComplete(null)
    assert.deepEqual(calls, [['connect'], ['sent', 'text'], ['request sent'], ['head', 200], ['complete']])
  })
})

describe('RoutedRequest: an abort by the caller', () => {
  const rules = { retry: retry(['5xx', 'reset', 'connect-failure'], 5) }
  const reason = new Error('enough')

  it('of a request that waits for its response ends it at once', () => {
    const { attempt, abort, calls, clock, expectEnded } = start({ rules })
    attempt().connect()
    abort(reason)
    assert.deepEqual(attempt().aborts, [reason])
    assert.deepEqual(calls, [['connect'], ['error', reason]])
    assert.equal(clock.pending, 0)
    expectEnded()
  })

  it('has an error of undici without a reason', () => {
    const { attempt, abort, calls } = start()
    attempt().connect()
    abort()
    assert.ok(calls.at(-1)?.[1] instanceof errors.RequestAbortedError)
  })

  it('within onConnect is not retried', () => {
    const { attempt, calls, clock, expectEnded } = start({
      rules,
      handler: {
        onConnect: (abort) => {
          abort(reason)
        },
      },
    })
    attempt().connect()
    assert.deepEqual([calls, clock.pending], [[['error', reason]], 0])
    expectEnded()
  })

  it('during the response ends it', () => {
    const { attempt, abort, calls, expectEnded } = start({ rules })
    attempt().connect()
    attempt().head(200)
    abort(reason)
    assert.deepEqual(attempt().aborts, [reason])
    assert.deepEqual(calls.at(-1), ['error', reason])
    expectEnded()
  })

  it('between two attempts ends it without the second one', async () => {
    const { attempt, attempts, abort, calls, clock, request } = start({ rules, random: () => 0.5 })
    attempt().connect()
    attempt().head(503)
    abort(reason)
    assert.deepEqual(calls.at(-1), ['error', reason])
    assert.equal(request.isEnded, true)
    await clock.advance(1_000)
    assert.equal(attempts.length, 1)
    // The first response ends later, and nothing more is reported.
    attempt().handler.onComplete(null)
    assert.equal(calls.length, 2)
  })

  it('while the second attempt connects ends it, and the attempt when it is connected', async () => {
    const { attempt, abort, calls, clock, expectEnded } = start({ rules })
    attempt().connect()
    attempt().handler.onError(RESET)
    await clock.advance(0)
    abort(reason)
    assert.deepEqual(calls.at(-1), ['error', reason])
    attempt().connect()
    assert.equal(attempt().aborts.length, 1)
    assert.equal(calls.length, 2)
    expectEnded()
  })

  it('while it waits in the queue of a pool is not retried', () => {
    const controller = new AbortController()
    const { attempt, calls, clock, expectEnded } = start({ rules, options: { signal: controller.signal } })
    controller.abort()
    // The pool reports the reason of the signal.
    attempt().handler.onError(controller.signal.reason as Error)
    assert.deepEqual([calls, clock.pending], [[['error', controller.signal.reason]], 0])
    expectEnded()
  })

  it('after the end does nothing', () => {
    const { attempt, abort, calls, expectEnded } = start()
    attempt().connect()
    attempt().head(200)
    attempt().handler.onComplete(null)
    abort(reason)
    assert.equal(calls.at(-1)?.[0], 'complete')
    expectEnded()
  })
})

describe('RoutedRequest: fail', () => {
  it('ends a request in any state once', async () => {
    const problem = new ClosedError('dispatch')
    for (const state of ['choosing', 'connecting', 'connected', 'pausing'] as const) {
      const { attempt, request, calls, clock, leg } = start({
        rules: { retry: retry(['5xx']) },
        ...(state === 'choosing' && { choose: () => new Promise<never>(() => undefined) }),
      })
      if (state === 'connected' || state === 'pausing') attempt().connect()
      if (state === 'pausing') attempt().head(503)
      request.fail(problem)
      request.fail(new Error('again'))
      assert.deepEqual(
        calls.filter(([name]) => name === 'error'),
        [['error', problem]],
        state,
      )
      assert.deepEqual([leg.pending, leg.retrying, clock.pending], [0, 0, 0], state)
      await settle()
    }
  })
})

describe('RoutedRequest: reroute', () => {
  const problem = new DialError('ERR_CONNECT_CHAIN', 'web', 'gone')

  /** A leg that leads to one instance. */
  function legTo(host: string): RequestLeg {
    const endpoint = { host, port: 1, identity: { service: 'web' } }
    const leg = new RequestLeg(
      { resolver: { name: 'web', resolve: () => [endpoint] }, balancer: new Balancer(systemTime) },
      { resolve: () => Promise.resolve([endpoint]), newPool: () => assert.fail('a pool') },
    )
    leg.choose = () => ({ endpoint, end: () => undefined })
    return leg
  }

  it('sends a request for which no instance was chosen along the new routes', async () => {
    const body = Readable.from(['a', 'b'])
    const other = legTo('other')
    const { attempt, attempts, leg, calls, expectEnded } = start({
      options: { method: 'POST', body },
      choose: () => Promise.reject(problem),
      reroute: () => Promise.resolve({ leg: other }),
    })
    await settle()
    assert.deepEqual([leg.pending, other.pending], [0, 1])
    assert.deepEqual([attempts.length, attempt().host], [1, 'other'])
    attempt().connect()
    assert.equal(await take(attempt()), 'ab')
    attempt().handler.onHeaders(200, [], () => undefined, '')
    attempt().handler.onComplete(null)
    assert.deepEqual(calls.at(-1), ['complete'])
    assert.equal(other.pending, 0)
    expectEnded()
  })

  it('sends a request whose connection failed along the new routes', async () => {
    const other = legTo('other')
    const { attempt, attempts, leg } = start({ reroute: () => Promise.resolve({ leg: other }) })
    attempt().handler.onError(problem)
    await settle()
    assert.deepEqual([attempts.length, attempt().host, leg.pending, other.pending], [2, 'other', 0, 1])
  })

  it('is asked three times at most', async () => {
    let reroutes = 0
    const { calls, expectEnded } = start({
      choose: () => Promise.reject(problem),
      reroute: () => {
        reroutes += 1
        return Promise.resolve({})
      },
    })
    await settle()
    assert.deepEqual([reroutes, calls], [3, [['error', problem]]])
    expectEnded()
  })

  it('ends the request with its error', async () => {
    const { calls, expectEnded } = start({
      choose: () => Promise.reject(problem),
      reroute: () => Promise.reject(RESET),
    })
    await settle()
    assert.deepEqual(calls, [['error', RESET]])
    expectEnded()
  })

  it('is asked between two attempts as well', async () => {
    let choices = 0
    const other = legTo('other')
    const { attempt, attempts, clock, leg } = start({
      rules: { retry: retry(['5xx']) },
      choose: () => {
        choices += 1
        const endpoint = { host: 'a', port: 1, identity: { service: 'web' } }
        return choices === 1 ? { endpoint, end: () => undefined } : Promise.reject(problem)
      },
      reroute: () => Promise.resolve({ leg: other }),
    })
    attempt().connect()
    attempt().handler.onError(RESET)
    await clock.advance(25)
    await settle()
    assert.deepEqual([attempts.length, attempt().host], [2, 'other'])
    assert.deepEqual([leg.pending, leg.retrying, other.pending, other.retrying], [0, 0, 1, 1])
  })

  it('is not asked after the end', async () => {
    const { request, calls } = start({
      choose: () => Promise.reject(problem),
      reroute: () => assert.fail('rerouted'),
    })
    request.fail(new Error('closed'))
    await settle()
    assert.equal(calls.length, 1)
  })

  it('may leave the error to the request', async () => {
    const { calls, expectEnded } = start({ choose: () => Promise.reject(problem) })
    await settle()
    assert.deepEqual(calls, [['error', problem]])
    expectEnded()
  })
})
