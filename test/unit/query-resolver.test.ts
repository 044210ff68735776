import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { ClosedError, DialError } from '../../src/base/errors.js'
import { QueryResolver } from '../../src/resolve/query-resolver.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { QueryTarget } from '../../src/resolve/upstream.js'
import type { AgentOptions } from '../../src/agent/options.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { AWAY, agentError } from '../fixtures/errors.js'

const EXECUTE = '/v1/query/nearest/execute'
const EXPLAIN = '/v1/query/nearest/explain'

const FORBIDDEN = agentError('ERR_CONNECT_AGENT_FORBIDDEN', 403)
const NOT_FOUND = agentError('ERR_CONNECT_AGENT_NOT_FOUND', 404)

function entry(
  service: object = {},
  { datacenter = undefined as string | undefined, status = 'passing' } = {},
): object {
  return {
    Node: { Node: 'n', Address: '10.0.0.1', ...(datacenter !== undefined && { Datacenter: datacenter }) },
    Service: { ID: 'web-1', Service: 'web', Address: '', Port: 8080, Connect: { Native: true }, ...service },
    Checks: [{ Status: status }],
  }
}

/** What a query's execution answers. */
function found(nodes: object[] = [entry()], more: object = {}): object {
  return { Service: 'web', Nodes: nodes, DNS: { TTL: '' }, Datacenter: 'dc1', Failovers: 0, ...more }
}

/** An answer with an instance on each of these nodes, in this order. */
function foundOn(...nodes: string[]): object {
  return found(
    nodes.map((node, i) => ({
      ...entry({ ID: `web-${node}-${i}`, Address: `${node}.local` }),
      Node: { Node: node, Address: '10.0.0.1' },
    })),
  )
}

function explained(near = ''): object {
  return { Query: { Name: 'nearest', Service: { Service: 'web', Near: near } } }
}

const identity = { service: 'web', datacenter: 'dc1', namespace: undefined, partition: undefined }
const endpoint = { host: '10.0.0.1', port: 8080, identity, weight: 1 }

function start(target: Partial<QueryTarget> = {}, options: AgentOptions = {}) {
  const [agent, clock] = [new FakeAgent(options), new FakeClock()]
  const resolver = new QueryResolver(agent, { query: 'nearest', ...target }, clock)
  const resolve = async ({
    signal = new AbortController().signal,
    datacenter = 'dc1',
    refresh = false,
  } = {}): Promise<readonly Endpoint[]> => resolver.resolve({ signal, datacenter, refresh })
  const reply = async (path: string, body: object | Error): Promise<void> => {
    await settle()
    const pending = agent.last(path)
    if (body instanceof Error) pending.fail(body)
    else pending.answer({ body })
    await settle()
  }
  return {
    agent,
    clock,
    resolver,
    resolve,
    execute: (body: object | Error = found()) => reply(EXECUTE, body),
    explain: (body: object | Error = explained()) => reply(EXPLAIN, body),
    /** How often the query was executed, and how often it was explained. */
    counts: () => [agent.count(EXECUTE), agent.count(EXPLAIN)],
  }
}

async function resolveWith(started: ReturnType<typeof start>, body: object): Promise<readonly Endpoint[]> {
  const resolving = started.resolve()
  // Awaited below; a rejection must have somebody from the start.
  resolving.catch(() => undefined)
  await started.execute(body)
  if (started.agent.count(EXPLAIN) > 0) await started.explain()
  return resolving
}

async function refusal(promise: Promise<unknown>): Promise<DialError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof DialError, String(error))
  assert.deepEqual([error.code, error.upstream], ['ERR_CONNECT_NO_INSTANCES', 'query nearest'])
  return error
}

describe('QueryResolver: endpoints', () => {
  it('address and identity come together: the identity is the service that the query is about', async () => {
    const started = start()
    assert.equal(started.resolver.name, 'query nearest')
    const proxy = {
      ID: 'web-proxy',
      Service: 'web-proxy',
      Connect: {},
      Proxy: { DestinationServiceName: 'web' },
    }
    const body = found([
      entry(),
      entry({ ...proxy, Address: '::1', Port: 1, Weights: { Passing: 5, Warning: 2 } }),
    ])
    assert.deepEqual(await resolveWith(started, body), [
      endpoint,
      { host: '::1', port: 1, identity, weight: 5 },
    ])
  })

  it('an instance of another service is none of the query’s', async () => {
    const started = start()
    const proxy = { ID: 'db-proxy', Connect: {}, Proxy: { DestinationServiceName: 'db' } }
    assert.deepEqual(await resolveWith(started, found([entry(proxy), entry()])), [endpoint])
  })

  it('one that warns is the query’s to leave out, and has the weight for that', async () => {
    const started = start()
    const weights = { Weights: { Passing: 5, Warning: 2 } }
    const body = found([
      entry({ Address: 'a', ...weights }, { status: 'passing' }),
      entry({ Address: 'b', ...weights }, { status: 'warning' }),
      entry({ Address: 'c', ...weights }, { status: 'critical' }),
      entry({ Address: 'd', Port: 0 }),
    ])
    const list = await resolveWith(started, body)
    assert.deepEqual(
      list.map(({ host, weight }) => [host, weight]),
      [
        ['a', 5],
        ['b', 2],
      ],
    )
  })

  it('after a failover the identity is that of the other datacenter, and the address that for the world', async () => {
    const started = start()
    const wan = { Address: '10.9.0.1', TaggedAddresses: { wan: { Address: '203.0.113.5', Port: 443 } } }
    assert.deepEqual(await resolveWith(started, found([entry(wan)], { Datacenter: 'dc2', Failovers: 1 })), [
      { host: '203.0.113.5', port: 443, identity: { ...identity, datacenter: 'dc2' }, weight: 1 },
    ])
  })

  it('a datacenter that an instance names itself is what counts', async () => {
    const started = start()
    const list = await resolveWith(started, found([entry({}, { datacenter: 'dc3' })]))
    assert.equal(list[0]?.identity.datacenter, 'dc3')
  })

  it('namespaces: the instance’s, or the one that was asked for, or the query’s', async () => {
    for (const [own, asked, query, expected] of [
      ['i', 'a', 'q', 'i'],
      [undefined, 'a', 'q', 'a'],
      [undefined, undefined, 'q', 'q'],
      [undefined, undefined, undefined, undefined],
    ] as const) {
      const started = start(asked === undefined ? {} : { namespace: asked, partition: 'p' })
      const list = await resolveWith(started, found([entry({ Namespace: own })], { Namespace: query }))
      assert.equal(list[0]?.identity.namespace, expected)
      assert.equal(list[0]?.identity.partition, asked === undefined ? undefined : 'p')
    }
  })

  it('the list is the same object, frozen, for as long as the answer holds', async () => {
    const started = start()
    const list = await resolveWith(started, found())
    assert.equal(Object.isFrozen(list), true)
    assert.equal(await started.resolve(), list)
    const elsewhere = await started.resolve({ datacenter: 'dc2' })
    assert.notEqual(elsewhere, list)
    assert.deepEqual(await started.resolve({ datacenter: 'dc1' }), list)
  })

  it('asks with what was said, and where', async () => {
    const { agent, resolve } = start({ near: '_agent', datacenter: 'dc2', namespace: 'n', partition: 'p' })
    void resolve().catch(() => undefined)
    await settle()
    const [{ request }] = agent.requests as [(typeof agent.requests)[0]]
    assert.equal(request.path, EXECUTE)
    assert.deepEqual(request.query, {
      connect: true,
      stale: true,
      near: '_agent',
      dc: 'dc2',
      ns: 'n',
      partition: 'p',
    })
  })
})

describe('QueryResolver: how long an answer holds', () => {
  const times: [ttl: unknown, ms: number][] = [
    [{ TTL: '30s' }, 30_000],
    [{ TTL: '1m30s' }, 90_000],
    [{ TTL: '1500ms' }, 1_500],
    // The agent is not asked on every dial.
    [{ TTL: '0s' }, 1_000],
    [{ TTL: '10ms' }, 1_000],
    [{ TTL: '1s' }, 1_000],
    // It says nothing of its own.
    [{ TTL: '' }, 10_000],
    [{ TTL: 'soon' }, 10_000],
    [{}, 10_000],
    [null, 10_000],
    [undefined, 10_000],
  ]
  for (const [dns, ms] of times) {
    it(`${inspect(dns)}: ${ms} ms`, async () => {
      // Sorted by request, so that nothing else is asked.
      const started = start({ near: '_agent' })
      await resolveWith(started, found([entry()], { DNS: dns }))
      started.clock.set(started.clock.now() + ms - 1)
      await started.resolve()
      assert.equal(started.agent.count(EXECUTE), 1)
      started.clock.set(started.clock.now() + 1)
      const again = started.resolve()
      assert.equal(started.agent.count(EXECUTE), 2)
      await started.execute(found([entry({ Port: 9 })]))
      assert.equal((await again)[0]?.port, 9)
    })
  }

  it('is a second for an answer without instances, whatever the query says', async () => {
    const started = start({ near: '_agent' })
    await refusal(resolveWith(started, found([], { DNS: { TTL: '10m' } })))
    started.clock.set(started.clock.now() + 1_000)
    const again = started.resolve()
    await started.execute()
    assert.deepEqual(await again, [endpoint])
  })

  it('all who resolve at once share one execution', async () => {
    const { resolve, execute, explain, counts } = start()
    const waiting = [resolve(), resolve(), resolve()]
    await execute()
    await explain()
    const [one, two, three] = await Promise.all(waiting)
    assert.ok(one === two && two === three)
    assert.deepEqual(counts(), [1, 1])
  })

  it('a refresh executes it again, and not twice within a second', async () => {
    const started = start()
    const { clock, resolve, execute, counts } = started
    const list = await resolveWith(started, found())
    assert.equal(await resolve({ refresh: true }), list)
    clock.set(clock.now() + 1_000)
    const refreshed = resolve({ refresh: true })
    await execute(found([entry({ Port: 9 })]))
    assert.equal((await refreshed)[0]?.port, 9)
    assert.deepEqual(counts(), [2, 1])
  })
})

describe('QueryResolver: how it is sorted', () => {
  it('by nearness that was asked for, without asking whether', async () => {
    const { resolver, resolve, execute, counts } = start({ near: '_agent' })
    assert.equal(resolver.isSorted, true)
    const resolving = resolve()
    await execute()
    await resolving
    assert.equal(resolver.isSorted, true)
    assert.deepEqual(counts(), [1, 0])
  })

  for (const [near, isSorted] of [
    ['_agent', true],
    ['node-1', true],
    ['', false],
  ] as const) {
    it(`as the query says: near ${near === '' ? 'nobody' : near}`, async () => {
      const { resolver, resolve, execute, explain, agent } = start({ datacenter: 'dc2' })
      assert.equal(resolver.isSorted, false)
      const resolving = resolve()
      await execute()
      assert.deepEqual(agent.last(EXPLAIN).request.query, {
        stale: true,
        dc: 'dc2',
        ns: undefined,
        partition: undefined,
      })
      await explain(explained(near))
      await resolving
      assert.equal(resolver.isSorted, isSorted)
    })
  }

  it('is asked again after a minute, and not with every execution', async () => {
    const { resolver, resolve, execute, explain, clock, counts } = start()
    const first = resolve()
    await execute(found([entry()], { DNS: { TTL: '1s' } }))
    await explain(explained('_agent'))
    await first
    clock.set(clock.now() + 59_999)
    const second = resolve()
    await execute()
    await second
    assert.deepEqual(counts(), [2, 1])
    clock.set(clock.now() + 1)
    const third = resolve()
    await explain(explained(''))
    await third
    assert.deepEqual(counts(), [2, 2])
    assert.equal(resolver.isSorted, false)
  })

  const refused: [rule: string, answer: object | Error][] = [
    ['a token that may not read it', FORBIDDEN],
    ['an agent that does not know how to explain', NOT_FOUND],
    ['an agent that fails', agentError('ERR_CONNECT_AGENT_FAILED', 500)],
    ['an answer that is none', agentError('ERR_CONNECT_AGENT_SHAPE', 200)],
  ]
  for (const [rule, answer] of refused) {
    it(`unsorted, and dialled all the same: ${rule}`, async () => {
      const { resolver, resolve, execute, explain, clock, counts } = start()
      const resolving = resolve()
      await execute()
      await explain(answer)
      assert.deepEqual(await resolving, [endpoint])
      assert.equal(resolver.isSorted, false)
      // And it is not asked on every dial.
      await resolve()
      assert.deepEqual(counts(), [1, 1])
      assert.equal(clock.pending, 0)
    })
  }

  for (const code of ['ERR_CONNECT_AGENT_UNREACHABLE', 'ERR_CONNECT_AGENT_TIMEOUT'] as const) {
    it(`what cannot be asked now does not keep anybody from an answer that is there, and is asked soon: ${code}`, async () => {
      const { resolve, resolver, execute, explain, clock, counts } = start()
      const resolving = resolve()
      await execute()
      await explain(agentError(code))
      assert.deepEqual(await resolving, [endpoint])
      assert.equal(resolver.isSorted, false)
      clock.set(clock.now() + 999)
      await resolve()
      assert.deepEqual(counts(), [1, 1])
      clock.set(clock.now() + 1)
      const again = resolve()
      await explain(explained('_agent'))
      await again
      assert.equal(resolver.isSorted, true)
      assert.deepEqual(counts(), [1, 2])
    })
  }

  it('known to be sorted, it stays so while it cannot be asked again, and is asked after a second', async () => {
    const { resolve, resolver, execute, explain, clock, counts } = start()
    const first = resolve()
    await execute(found([entry()], { DNS: { TTL: '10m' } }))
    await explain(explained('_agent'))
    await first
    clock.set(clock.now() + 60_000)
    const second = resolve()
    await explain(AWAY)
    assert.deepEqual(await second, [endpoint])
    assert.equal(resolver.isSorted, true)
    clock.set(clock.now() + 999)
    await resolve()
    assert.deepEqual(counts(), [1, 2])
    clock.set(clock.now() + 1)
    const third = resolve()
    await explain(explained('_agent'))
    await third
    assert.equal(resolver.isSorted, true)
    assert.deepEqual(counts(), [1, 3])
  })

  /** Answers everything that is asked until the dial is over: the query by `answers`, its definition by a refusal. */
  async function resolveRefused(
    { agent, resolve }: ReturnType<typeof start>,
    answers: () => object,
    refusal = FORBIDDEN,
  ): Promise<readonly Endpoint[]> {
    const resolving = resolve()
    const over = new AbortController()
    const end = (): void => {
      over.abort()
    }
    resolving.then(end, end)
    let answered = 0
    while (!over.signal.aborted) {
      await settle()
      const pending = agent.requests[answered]
      if (pending === undefined) continue
      answered += 1
      if (pending.request.path === EXECUTE) pending.answer({ body: answers() })
      else pending.fail(refusal)
    }
    return resolving
  }

  it('by the order of its answers, when the same node comes first each time and the query may not be read', async () => {
    for (const [nodes, executions] of [
      [['near', 'far'], 12],
      [['near', 'far', 'further'], 8],
      [['near', 'b', 'c', 'd', 'e', 'f'], 5],
    ] as const) {
      const started = start()
      const list = await resolveRefused(started, () => foundOn(...nodes))
      assert.equal(started.resolver.isSorted, true, String(nodes))
      assert.equal(list[0]?.host, 'near.local')
      assert.deepEqual(started.counts(), [executions, 1])
      // Further dials use what is known.
      await started.resolve()
      assert.deepEqual(started.counts(), [executions, 1])
    }
  })

  it('not by the order of answers that are shuffled', async () => {
    for (const rotation of [2, 3]) {
      const started = start()
      const nodes = ['a', 'b', 'c'].slice(0, rotation)
      await resolveRefused(started, () => {
        nodes.push(nodes.shift()!)
        return foundOn(...nodes)
      })
      assert.equal(started.resolver.isSorted, false)
      assert.ok(started.counts()[0]! <= 5)
    }
  })

  it('not by an order of instances of one node, and without further executions', async () => {
    const started = start()
    await resolveRefused(started, () => foundOn('a', 'a', 'a'))
    assert.equal(started.resolver.isSorted, false)
    assert.deepEqual(started.counts(), [1, 1])
  })

  it('by its definition as soon as this may be read', async () => {
    const started = start()
    await resolveRefused(started, () => foundOn('near', 'far'))
    started.clock.set(started.clock.now() + 60_000)
    const resolving = started.resolve()
    await started.execute(foundOn('near', 'far'))
    await started.explain(explained(''))
    await resolving
    assert.equal(started.resolver.isSorted, false)
  })

  it('keeps its definition while the servers do not know the token for a moment', async () => {
    const { resolver, resolve, execute, explain, clock } = start()
    const first = resolve()
    await execute(found([entry()], { DNS: { TTL: '10m' } }))
    await explain(explained('_agent'))
    await first
    clock.set(clock.now() + 60_000)
    const second = resolve()
    await explain(agentError('ERR_CONNECT_AGENT_TOKEN_UNKNOWN', 403))
    await second
    assert.equal(resolver.isSorted, true)
  })

  it('an agent that hangs when it is asked keeps nobody for long from an answer that is there', async () => {
    const { agent, resolve, execute, explain } = start()
    const resolving = resolve()
    await execute()
    assert.equal(agent.requests.at(-1)?.request.timeoutMs, 500)
    await explain(agentError('ERR_CONNECT_AGENT_TIMEOUT'))
    assert.deepEqual(await resolving, [endpoint])
  })
})

describe('QueryResolver: failure', () => {
  it('no such query: there is none, with the agent’s word as the cause', async () => {
    const { resolve, execute, counts } = start()
    const refused = refusal(resolve())
    await execute(NOT_FOUND)
    const error = await refused
    assert.deepEqual(
      [error.reason, error.cause, error.message],
      ['unknown', NOT_FOUND, 'dial query nearest: there is no prepared query of that name or id'],
    )
    assert.deepEqual(counts(), [1, 0])
  })

  it('what somebody has to do something about is told as it is', async () => {
    const { resolve, execute, resolver } = start()
    const rejected = assert.rejects(resolve(), (error) => error === FORBIDDEN)
    await execute(FORBIDDEN)
    await rejected
    assert.equal(resolver.lastError, FORBIDDEN)
  })

  it('while the agent is away it is asked again, until it answers', async () => {
    const { resolve, execute, explain, clock, resolver, counts } = start()
    const resolving = resolve()
    await execute(AWAY)
    assert.equal(resolver.lastError, AWAY)
    await clock.advance(100)
    await execute()
    await explain()
    assert.deepEqual(await resolving, [endpoint])
    assert.equal(resolver.lastError, undefined)
    assert.deepEqual(counts(), [2, 1])
  })

  it('is asked again while the servers do not know the token for a moment', async () => {
    const { resolve, execute, explain, clock } = start()
    const resolving = resolve()
    await execute(agentError('ERR_CONNECT_AGENT_TOKEN_UNKNOWN', 403))
    await clock.advance(100)
    await execute()
    await explain()
    assert.deepEqual(await resolving, [endpoint])
  })

  it('the last good answer serves while the agent is away', async () => {
    const started = start()
    const { clock, resolve, execute, resolver } = started
    const list = await resolveWith(started, found())
    clock.set(clock.now() + 10_000)
    const stale = resolve()
    await execute(AWAY)
    assert.equal(await stale, list)
    assert.equal(resolver.lastError, AWAY)
  })

  const none: [rule: string, body: object, reason: string, message: string][] = [
    [
      'it found nobody',
      found([]),
      'empty',
      'dial query nearest: it found no healthy instance of web that takes Connect',
    ],
    [
      'it found nobody, as Go writes it',
      found([], { Nodes: null }),
      'empty',
      'dial query nearest: it found no healthy instance of web that takes Connect',
    ],
    [
      'nobody can be dialled',
      found([entry({ Port: 0 }), entry({ ID: 'web-2' }, { status: 'critical' })]),
      'not-passing',
      'dial query nearest: none of its instances is passing: web-1 has no port, web-2 is critical',
    ],
    [
      'a template: the service is what it was filled in with',
      found([], { Service: 'geo-web' }),
      'empty',
      'dial query nearest: it found no healthy instance of geo-web that takes Connect',
    ],
  ]
  for (const [rule, body, reason, message] of none) {
    it(`there is none: ${rule}`, async () => {
      const started = start()
      const error = await refusal(resolveWith(started, body))
      assert.deepEqual([error.reason, error.message, error.cause], [reason, message, undefined])
    })
  }

  it('those that stand for another service are not said to be unwell', async () => {
    const started = start()
    const proxy = { ID: 'db-proxy', Connect: {}, Proxy: { DestinationServiceName: 'db' } }
    const error = await refusal(resolveWith(started, found([entry(proxy)])))
    assert.deepEqual(
      [error.reason, error.message],
      ['unknown', 'dial query nearest: service "web" not found; the agent returned instances of "db"'],
    )
  })

  it('the caller’s signal ends its wait', async () => {
    const { resolve, execute, clock } = start()
    const [mine, reason] = [new AbortController(), new Error('enough')]
    const rejected = assert.rejects(resolve({ signal: mine.signal }), (error) => error === reason)
    await execute(AWAY)
    mine.abort(reason)
    await rejected
    assert.equal(clock.pending, 0)
  })

  it('is empty until it has found an instance that can be dialled, and when it finds none any more', async () => {
    const started = start({ near: '_agent' })
    const { resolve, execute, resolver, clock } = started
    assert.equal(resolver.isEmpty, true)
    await refusal(resolveWith(started, found([])))
    assert.equal(resolver.isEmpty, true)
    clock.set(clock.now() + 10_000)
    await resolveWith(started, found())
    assert.equal(resolver.isEmpty, false)
    clock.set(clock.now() + 10_000)
    const served = resolve()
    await execute(AWAY)
    await served
    assert.equal(resolver.isEmpty, false)
    clock.set(clock.now() + 10_000)
    await refusal(resolveWith(started, found([entry({ Port: 0 })])))
    assert.equal(resolver.isEmpty, true)
  })

  it('close ends what is asked', async () => {
    for (const upTo of [EXECUTE, EXPLAIN]) {
      const { agent, resolve, execute, resolver, clock } = start()
      const resolving = resolve().catch((error: unknown) => error)
      if (upTo === EXPLAIN) await execute()
      else await settle()
      resolver.close()
      const { signal } = agent.last(upTo).request
      assert.ok(signal?.reason instanceof ClosedError)
      const outcome = await resolving
      if (upTo === EXECUTE) assert.ok((outcome as Error).cause instanceof ClosedError)
      assert.equal(clock.pending, 0)
    }
  })
})
