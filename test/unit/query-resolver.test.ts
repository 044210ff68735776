import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import type { DialError } from '../../src/base/errors.js'
import { ClosedError } from '../../src/base/errors.js'
import { QueryResolver } from '../../src/resolve/query-resolver.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { QueryUpstream } from '../../src/resolve/upstream.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { AWAY, agentError, dialError } from '../fixtures/errors.js'

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

/** The response of the execute endpoint. */
function executed(nodes: object[] = [entry()], more: object = {}): object {
  return { Service: 'web', Nodes: nodes, DNS: { TTL: '' }, Datacenter: 'dc1', Failovers: 0, ...more }
}

/** A response with an instance on each node, in this order. */
function executedOn(...nodes: string[]): object {
  return executed(
    nodes.map((node, i) => ({
      ...entry({ ID: `web-${node}-${i}`, Address: `${node}.local` }),
      Node: { Node: node, Address: '10.0.0.1' },
    })),
  )
}

/** The response of the explain endpoint. */
function explained(near = ''): object {
  return { Query: { Name: 'nearest', Service: { Service: 'web', Near: near } } }
}

const identity = { service: 'web', datacenter: 'dc1', namespace: undefined, partition: undefined }
const endpoint = { host: '10.0.0.1', port: 8080, identity, weight: 1 }

function start(target: Partial<QueryUpstream> = {}) {
  const [agent, clock] = [new FakeAgent(), new FakeClock()]
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
    execute: (body: object | Error = executed()) => reply(EXECUTE, body),
    explain: (body: object | Error = explained()) => reply(EXPLAIN, body),
    /** The numbers of requests to the execute and explain endpoints. */
    counts: () => [agent.count(EXECUTE), agent.count(EXPLAIN)],
  }
}

/** Resolves, with these responses to the execution and, if it is requested, to the explanation. */
async function resolveWith(
  started: ReturnType<typeof start>,
  body: object = executed(),
  explanation: object | Error = explained(),
): Promise<readonly Endpoint[]> {
  const resolving = started.resolve()
  // Without a handler, a rejection before the last line would be unhandled.
  resolving.catch(() => undefined)
  await started.execute(body)
  if (started.agent.count(EXPLAIN) > 0) await started.explain(explanation)
  return resolving
}

async function refusal(promise: Promise<unknown>): Promise<DialError> {
  const error = await dialError(promise)
  assert.deepEqual([error.code, error.upstream], ['ERR_CONNECT_NO_INSTANCES', 'query nearest'])
  return error
}

describe('The endpoints of a QueryResolver', () => {
  it('have the address of the instance and the identity of the service of the query', async () => {
    const started = start()
    assert.equal(started.resolver.name, 'query nearest')
    const proxy = {
      ID: 'web-proxy',
      Service: 'web-proxy',
      Connect: {},
      Proxy: { DestinationServiceName: 'web' },
    }
    const body = executed([
      entry(),
      entry({ ...proxy, Address: '::1', Port: 1, Weights: { Passing: 5, Warning: 2 } }),
    ])
    assert.deepEqual(await resolveWith(started, body), [
      endpoint,
      { host: '::1', port: 1, identity, weight: 5 },
    ])
  })

  it('do not contain instances of other services', async () => {
    const started = start()
    const proxy = { ID: 'db-proxy', Connect: {}, Proxy: { DestinationServiceName: 'db' } }
    assert.deepEqual(await resolveWith(started, executed([entry(proxy), entry()])), [endpoint])
  })

  it('contain instances with warnings, with the weight for warnings, but no critical ones', async () => {
    const started = start()
    const weights = { Weights: { Passing: 5, Warning: 2 } }
    const body = executed([
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

  it('have the identity and the WAN address of the other datacenter after a failover', async () => {
    const started = start()
    const wan = { Address: '10.9.0.1', TaggedAddresses: { wan: { Address: '203.0.113.5', Port: 443 } } }
    assert.deepEqual(
      await resolveWith(started, executed([entry(wan)], { Datacenter: 'dc2', Failovers: 1 })),
      [{ host: '203.0.113.5', port: 443, identity: { ...identity, datacenter: 'dc2' }, weight: 1 }],
    )
  })

  it('have the datacenter of the instance rather than that of the response', async () => {
    const started = start()
    const list = await resolveWith(started, executed([entry({}, { datacenter: 'dc3' })]))
    assert.equal(list[0]?.identity.datacenter, 'dc3')
  })

  it('have the namespace of the instance, or else of the upstream, or else of the response', async () => {
    for (const [own, asked, query, expected] of [
      ['i', 'a', 'q', 'i'],
      [undefined, 'a', 'q', 'a'],
      [undefined, undefined, 'q', 'q'],
      [undefined, undefined, undefined, undefined],
    ] as const) {
      const started = start(asked === undefined ? {} : { namespace: asked, partition: 'p' })
      const list = await resolveWith(started, executed([entry({ Namespace: own })], { Namespace: query }))
      assert.equal(list[0]?.identity.namespace, expected)
      assert.equal(list[0]?.identity.partition, asked === undefined ? undefined : 'p')
    }
  })

  it('are the same frozen list while the response is valid', async () => {
    const started = start()
    const list = await resolveWith(started)
    assert.equal(Object.isFrozen(list), true)
    assert.equal(await started.resolve(), list)
    const elsewhere = await started.resolve({ datacenter: 'dc2' })
    assert.notEqual(elsewhere, list)
    assert.deepEqual(await started.resolve({ datacenter: 'dc1' }), list)
  })

  it('are requested with the options of the upstream', async () => {
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

describe('The lifetime of a response', () => {
  const times: [ttl: unknown, ms: number][] = [
    [{ TTL: '1m30s' }, 90_000],
    [{ TTL: '1500ms' }, 1_500],
    // At least a second: the query is not executed at every dial.
    [{ TTL: '0s' }, 1_000],
    // The default.
    [{ TTL: '' }, 10_000],
    [null, 10_000],
  ]
  for (const [dns, ms] of times) {
    it(`is ${ms} ms with DNS ${inspect(dns)}`, async () => {
      // With `near`, the resolver does not request the definition of the query.
      const started = start({ near: '_agent' })
      await resolveWith(started, executed([entry()], { DNS: dns }))
      started.clock.set(started.clock.now() + ms - 1)
      await started.resolve()
      assert.equal(started.agent.count(EXECUTE), 1)
      started.clock.set(started.clock.now() + 1)
      const again = started.resolve()
      assert.equal(started.agent.count(EXECUTE), 2)
      await started.execute(executed([entry({ Port: 9 })]))
      assert.equal((await again)[0]?.port, 9)
    })
  }

  it('is a second for a response without instances, regardless of the TTL', async () => {
    const started = start({ near: '_agent' })
    await refusal(resolveWith(started, executed([], { DNS: { TTL: '10m' } })))
    started.clock.set(started.clock.now() + 1_000)
    const again = started.resolve()
    await started.execute()
    assert.deepEqual(await again, [endpoint])
  })

  it('ends with a refresh, but not within a second', async () => {
    const started = start()
    const { clock, resolve, execute, counts } = started
    const list = await resolveWith(started)
    assert.equal(await resolve({ refresh: true }), list)
    clock.set(clock.now() + 1_000)
    const refreshed = resolve({ refresh: true })
    await execute(executed([entry({ Port: 9 })]))
    assert.equal((await refreshed)[0]?.port, 9)
    assert.deepEqual(counts(), [2, 1])
  })
})

describe('QueryResolver.isSorted', () => {
  const LASTING = executed([entry()], { DNS: { TTL: '10m' } })

  it('is true with the option near, without a request for the definition', async () => {
    const started = start({ near: '_agent' })
    assert.equal(started.resolver.isSorted, true)
    await resolveWith(started)
    assert.equal(started.resolver.isSorted, true)
    assert.deepEqual(started.counts(), [1, 0])
  })

  for (const [near, isSorted] of [
    ['_agent', true],
    ['', false],
  ] as const) {
    it(`is ${isSorted} if the definition has Near: "${near}"`, async () => {
      const started = start({ datacenter: 'dc2' })
      assert.equal(started.resolver.isSorted, false)
      await resolveWith(started, executed(), explained(near))
      const scope = { dc: 'dc2', ns: undefined, partition: undefined }
      assert.deepEqual(started.agent.last(EXPLAIN).request.query, { stale: true, ...scope })
      assert.equal(started.resolver.isSorted, isSorted)
    })
  }

  it('is updated from the definition every minute', async () => {
    const started = start()
    const { resolver, resolve, explain, clock, counts } = started
    await resolveWith(started, LASTING, explained('_agent'))
    clock.set(clock.now() + 59_999)
    await resolve()
    assert.deepEqual(counts(), [1, 1])
    clock.set(clock.now() + 1)
    const later = resolve()
    await explain(explained(''))
    await later
    assert.deepEqual(counts(), [1, 2])
    assert.equal(resolver.isSorted, false)
  })

  const refused: [rule: string, answer: Error][] = [
    ['a token that may not read the definition', FORBIDDEN],
    ['an agent without the explain endpoint', NOT_FOUND],
    ['a malformed response', agentError('ERR_CONNECT_AGENT_SHAPE', 200)],
  ]
  for (const [rule, answer] of refused) {
    it(`is false, and resolving succeeds, with ${rule}`, async () => {
      const started = start()
      assert.deepEqual(await resolveWith(started, executed(), answer), [endpoint])
      assert.equal(started.resolver.isSorted, false)
      // It is not requested at every dial.
      await started.resolve()
      assert.deepEqual(started.counts(), [1, 1])
      assert.equal(started.clock.pending, 0)
    })
  }

  it('is false, and requested again after a second, while the agent is unreachable', async () => {
    const started = start()
    const { resolve, resolver, explain, clock, counts } = started
    assert.deepEqual(await resolveWith(started, executed(), AWAY), [endpoint])
    assert.equal(resolver.isSorted, false)
    clock.set(clock.now() + 999)
    await resolve()
    assert.deepEqual(counts(), [1, 1])
    clock.set(clock.now() + 1)
    const later = resolve()
    await explain(explained('_agent'))
    await later
    assert.equal(resolver.isSorted, true)
    assert.deepEqual(counts(), [1, 2])
  })

  it('is kept while the agent is unreachable', async () => {
    const started = start()
    const { resolve, resolver, explain, clock } = started
    await resolveWith(started, LASTING, explained('_agent'))
    clock.set(clock.now() + 60_000)
    const later = resolve()
    await explain(AWAY)
    assert.deepEqual(await later, [endpoint])
    assert.equal(resolver.isSorted, true)
  })

  /** Resolves, with `answers` for the executions and an error for the definition. */
  async function resolveRefused(
    { agent, resolve }: ReturnType<typeof start>,
    answers: () => object,
  ): Promise<readonly Endpoint[]> {
    let isResolved = false
    const resolving = resolve().finally(() => (isResolved = true))
    let answered = 0
    // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- set by a callback
    while (!isResolved) {
      await settle()
      const pending = agent.requests[answered]
      if (pending === undefined) continue
      answered += 1
      if (pending.request.path === EXECUTE) pending.answer({ body: answers() })
      else pending.fail(FORBIDDEN)
    }
    return resolving
  }

  it('is true if the definition is forbidden and the same node is first in each response', async () => {
    for (const [nodes, executions] of [
      [['near', 'far'], 12],
      [['near', 'far', 'further'], 8],
      [['near', 'b', 'c', 'd', 'e', 'f'], 5],
    ] as const) {
      const started = start()
      const list = await resolveRefused(started, () => executedOn(...nodes))
      assert.equal(started.resolver.isSorted, true, String(nodes))
      assert.equal(list[0]?.host, 'near.local')
      assert.deepEqual(started.counts(), [executions, 1])
      // Further dials use the decision.
      await started.resolve()
      assert.deepEqual(started.counts(), [executions, 1])
    }
  })

  it('is false if the definition is forbidden and the responses are shuffled', async () => {
    for (const rotation of [2, 3]) {
      const started = start()
      const nodes = ['a', 'b', 'c'].slice(0, rotation)
      await resolveRefused(started, () => {
        nodes.push(nodes.shift()!)
        return executedOn(...nodes)
      })
      assert.equal(started.resolver.isSorted, false)
      assert.ok(started.counts()[0]! <= 5)
    }
  })

  it('is false if all instances are on one node, without further executions', async () => {
    const started = start()
    await resolveRefused(started, () => executedOn('a', 'a', 'a'))
    assert.equal(started.resolver.isSorted, false)
    assert.deepEqual(started.counts(), [1, 1])
  })

  it('is read from the definition once this is permitted', async () => {
    const started = start()
    await resolveRefused(started, () => executedOn('near', 'far'))
    started.clock.set(started.clock.now() + 60_000)
    const resolving = started.resolve()
    await started.execute(executedOn('near', 'far'))
    await started.explain(explained(''))
    await resolving
    assert.equal(started.resolver.isSorted, false)
  })

  it('is requested with a timeout of 500 ms', async () => {
    const started = start()
    const answer = agentError('ERR_CONNECT_AGENT_TIMEOUT')
    assert.deepEqual(await resolveWith(started, executed(), answer), [endpoint])
    assert.equal(started.agent.last(EXPLAIN).request.timeoutMs, 500)
  })
})

describe('QueryResolver', () => {
  it('rejects with ERR_CONNECT_NO_INSTANCES if the query does not exist', async () => {
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

  it('rejects with an error that a retry does not fix', async () => {
    const { resolve, execute, resolver } = start()
    const rejected = assert.rejects(resolve(), (error) => error === FORBIDDEN)
    await execute(FORBIDDEN)
    await rejected
    assert.equal(resolver.lastError, FORBIDDEN)
  })

  it('retries while the agent is unreachable', async () => {
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

  it('retries while the servers do not recognize the token', async () => {
    const { resolve, execute, explain, clock } = start()
    const resolving = resolve()
    await execute(agentError('ERR_CONNECT_AGENT_TOKEN_UNKNOWN', 403))
    await clock.advance(100)
    await execute()
    await explain()
    assert.deepEqual(await resolving, [endpoint])
  })

  it('uses the last response while the agent is unreachable', async () => {
    const started = start()
    const { clock, resolve, execute, resolver } = started
    const list = await resolveWith(started)
    clock.set(clock.now() + 10_000)
    const stale = resolve()
    await execute(AWAY)
    assert.equal(await stale, list)
    assert.equal(resolver.lastError, AWAY)
  })

  const none: [rule: string, body: object, reason: string, message: string][] = [
    [
      'an empty response',
      executed([]),
      'empty',
      'dial query nearest: it found no healthy instance of web that takes Connect',
    ],
    [
      'a response with null',
      executed([], { Nodes: null }),
      'empty',
      'dial query nearest: it found no healthy instance of web that takes Connect',
    ],
    [
      'instances that cannot be dialed',
      executed([entry({ Port: 0 }), entry({ ID: 'web-2' }, { status: 'critical' })]),
      'not-passing',
      'dial query nearest: none of its instances is passing: web-1 has no port, web-2 is critical',
    ],
    [
      'a template, with the service of the response',
      executed([], { Service: 'geo-web' }),
      'empty',
      'dial query nearest: it found no healthy instance of geo-web that takes Connect',
    ],
  ]
  for (const [rule, body, reason, message] of none) {
    it(`explains that there is no instance: ${rule}`, async () => {
      const started = start()
      const error = await refusal(resolveWith(started, body))
      assert.deepEqual([error.reason, error.message, error.cause], [reason, message, undefined])
    })
  }

  it('explains that the instances are of another service', async () => {
    const started = start()
    const proxy = { ID: 'db-proxy', Connect: {}, Proxy: { DestinationServiceName: 'db' } }
    const error = await refusal(resolveWith(started, executed([entry(proxy)])))
    assert.deepEqual(
      [error.reason, error.message],
      ['unknown', 'dial query nearest: service "web" not found; the agent returned instances of "db"'],
    )
  })

  it('rejects when the signal is aborted', async () => {
    const { resolve, execute, clock } = start()
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const rejected = assert.rejects(resolve({ signal: controller.signal }), (error) => error === reason)
    await execute(AWAY)
    controller.abort(reason)
    await rejected
    assert.equal(clock.pending, 0)
  })

  it('is empty until the first response with an instance, and after a response without one', async () => {
    const started = start({ near: '_agent' })
    const { resolve, execute, resolver, clock } = started
    assert.equal(resolver.isEmpty, true)
    await refusal(resolveWith(started, executed([])))
    assert.equal(resolver.isEmpty, true)
    clock.set(clock.now() + 10_000)
    await resolveWith(started)
    assert.equal(resolver.isEmpty, false)
    clock.set(clock.now() + 10_000)
    const served = resolve()
    await execute(AWAY)
    await served
    assert.equal(resolver.isEmpty, false)
    clock.set(clock.now() + 10_000)
    await refusal(resolveWith(started, executed([entry({ Port: 0 })])))
    assert.equal(resolver.isEmpty, true)
  })

  it('aborts pending requests on close()', async () => {
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
