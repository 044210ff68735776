import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { AgentError, ClosedError, DialError, type NoInstancesReason } from '../../src/base/errors.js'
import { HealthResolver } from '../../src/resolve/health-resolver.js'
import { toEndpoints } from '../../src/resolve/instances.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { ServiceTarget } from '../../src/resolve/upstream.js'
import { parseConnectInstances } from '../../src/agent/endpoints/health.js'
import type { AgentOptions } from '../../src/agent/options.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { AWAY, FORBIDDEN } from '../fixtures/errors.js'

const CONNECT = '/v1/health/connect/web'
const ALL = '/v1/health/service/web'

/** One entry of a health answer: a native instance of web. */
function entry(service: object = {}, { node = {}, status = 'passing' } = {}): object {
  return {
    Node: { Node: 'n', Address: '10.0.0.1', Datacenter: 'dc1', ...node },
    Service: { ID: 'web-1', Service: 'web', Address: '', Port: 8080, Connect: { Native: true }, ...service },
    Checks: [{ CheckID: 'c', Status: status }],
  }
}

const identity = { service: 'web', datacenter: 'dc1', namespace: undefined, partition: undefined }

function start(target: Partial<ServiceTarget> = {}, options: AgentOptions = {}) {
  const [agent, clock] = [new FakeAgent(options), new FakeClock()]
  const warnings: Error[] = []
  const resolver = new HealthResolver(
    agent,
    { service: 'web', ...target },
    { clock, random: () => 0 },
    (error) => {
      warnings.push(error)
    },
  )
  const resolve = async ({
    signal = new AbortController().signal,
    datacenter = 'dc1',
    refresh = false,
  } = {}): Promise<readonly Endpoint[]> => resolver.resolve({ signal, datacenter, refresh })
  return {
    agent,
    clock,
    resolver,
    resolve,
    warnings,
    /** Answers the read of the instances that is under way. */
    answer: async (body: object[], index = 1) => {
      agent.last(CONNECT).answer({ body, index })
      await settle()
    },
  }
}

type Started = ReturnType<typeof start>

/** Resolves, with the answer to the first read. */
async function resolveWith(started: Started, body: object[]): Promise<readonly Endpoint[]> {
  const resolving = started.resolve()
  // Awaited below; a rejection must have somebody from the start.
  resolving.catch(() => undefined)
  await started.answer(body)
  return resolving
}

async function refusal(promise: Promise<unknown>): Promise<DialError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof DialError, String(error))
  assert.deepEqual([error.code, error.upstream], ['ERR_CONNECT_NO_INSTANCES', 'web'])
  return error
}

describe('HealthResolver: endpoints', () => {
  it('address and identity come together, with the weight', async () => {
    const started = start()
    const body = [
      entry(),
      entry({ Address: '::1', Port: 1, Weights: { Passing: 7, Warning: 3 } }),
      entry({ Weights: { Passing: 0, Warning: 3 } }),
    ]
    assert.deepEqual(await resolveWith(started, body), [
      { host: '10.0.0.1', port: 8080, identity, weight: 1 },
      { host: '::1', port: 1, identity, weight: 7 },
      { host: '10.0.0.1', port: 8080, identity, weight: 0 },
    ])
    started.resolver.close()
  })

  it('the identity is the service that a proxy stands before, in the datacenter of the instance', async () => {
    const started = start({ datacenter: 'asked' })
    const proxy = { Service: 'web-proxy', Connect: {}, Proxy: { DestinationServiceName: 'web' } }
    const [endpoint] = await resolveWith(started, [entry(proxy, { node: { Datacenter: 'dc9' } })])
    assert.deepEqual(endpoint?.identity, { ...identity, datacenter: 'dc9' })
    started.resolver.close()
  })

  it('an instance of another service is never taken for it, however alike the names', async () => {
    const started = start()
    // Agents look names up in any case.
    const others = ['Web', 'WEB', 'web ', 'other'].map((Service) => entry({ Service }))
    const proxy = entry({ Connect: {}, Proxy: { DestinationServiceName: 'Web' } })
    assert.deepEqual(await resolveWith(started, [...others, proxy, entry({ Port: 9 })]), [
      { host: '10.0.0.1', port: 9, identity, weight: 1 },
    ])
    started.resolver.close()
  })

  it('namespace and partition are those of the instance, and else those that were asked for', async () => {
    const started = start({ namespace: 'n', partition: 'p' })
    const found = await resolveWith(started, [entry(), entry({ Namespace: 'm', Partition: 'q' })])
    assert.deepEqual(
      found.map((endpoint) => endpoint.identity),
      [
        { ...identity, namespace: 'n', partition: 'p' },
        { ...identity, namespace: 'm', partition: 'q' },
      ],
    )
    started.resolver.close()
  })

  const wan = {
    Address: '10.0.0.5',
    TaggedAddresses: { wan: { Address: '203.0.113.5', Port: 443 } },
  }
  const places: [rule: string, datacenter: string | undefined, host: string, port: number][] = [
    ['ours: at its own address', 'dc1', '10.0.0.5', 8080],
    ['another: at its address for the world', 'dc2', '203.0.113.5', 443],
    ['one that is not named: at its own address', undefined, '10.0.0.5', 8080],
  ]
  for (const [rule, datacenter, host, port] of places) {
    it(`an instance of a datacenter, ${rule}`, async () => {
      const started = start()
      const [endpoint] = await resolveWith(started, [entry(wan, { node: { Datacenter: datacenter } })])
      assert.deepEqual(endpoint, { host, port, identity: { ...identity, datacenter }, weight: 1 })
      started.resolver.close()
    })
  }

  // Consul takes a registration without a port and answers with 0, and others that are as wrong.
  for (const wrong of [{ Port: 0 }, { Port: -1 }, { Port: 70_000 }, { Address: 'a b' }]) {
    it(`one that cannot be dialled spoils nothing for the others: ${inspect(wrong)}`, async () => {
      const started = start()
      assert.deepEqual(await resolveWith(started, [entry(wrong), entry()]), [
        { host: '10.0.0.1', port: 8080, identity, weight: 1 },
      ])
      started.resolver.close()
    })
  }

  const states = ['passing', 'warning', 'critical', 'maintenance']
  const alive: [onlyPassing: boolean | undefined, ids: string[], weights: number[]][] = [
    [undefined, ['passing'], [7]],
    [true, ['passing'], [7]],
    [false, ['passing', 'warning'], [7, 3]],
  ]
  for (const [onlyPassing, hosts, weights] of alive) {
    it(`with onlyPassing ${onlyPassing ?? 'left out'}: ${hosts.join(' and ')}, by the weight of its state`, async () => {
      const started = start({ onlyPassing })
      const body = states.map((status) =>
        entry({ Address: status, Weights: { Passing: 7, Warning: 3 } }, { status }),
      )
      const found = await resolveWith(started, body)
      assert.deepEqual(
        found.map(({ host }) => host),
        hosts,
      )
      assert.deepEqual(
        found.map(({ weight }) => weight),
        weights,
      )
      started.resolver.close()
    })
  }

  it('are sorted when nearness was asked for, in the order that the agent says', async () => {
    const started = start({ near: '_agent' })
    assert.equal(started.resolver.isSorted, true)
    assert.equal(start().resolver.isSorted, false)
    const found = await resolveWith(
      started,
      ['c', 'a', 'b'].map((Address) => entry({ Address })),
    )
    assert.deepEqual(
      found.map(({ host }) => host),
      ['c', 'a', 'b'],
    )
    started.resolver.close()
  })
})

describe('HealthResolver: the watch', () => {
  it('is one for all who resolve, and asks nothing more for as long as it lasts', async () => {
    const { agent, resolver, resolve, answer } = start()
    assert.equal(agent.requests.length, 0)
    const waiting = [resolve(), resolve(), resolve()]
    await settle()
    assert.equal(agent.count(CONNECT), 1)
    await answer([entry()])
    const [one, two, three] = await Promise.all(waiting)
    assert.ok(one === two && two === three)
    for (let i = 0; i < 10; i += 1) assert.equal(await resolve(), one)
    // The second read blocks.
    assert.equal(agent.count(CONNECT), 2)
    assert.equal(agent.requests.length, 2)
    resolver.close()
  })

  it('the list is the same object, frozen, until something changes', async () => {
    const { resolver, resolve, answer, agent } = start()
    const first = resolve()
    await answer([entry()], 1)
    const list = await first
    assert.equal(Object.isFrozen(list), true)
    await answer([entry()], 2)
    assert.equal(await resolve(), list)
    await answer([entry({ Port: 9 })], 3)
    const changed = await resolve()
    assert.notEqual(changed, list)
    assert.equal(changed[0]?.port, 9)
    assert.equal(await resolve(), changed)
    assert.equal(agent.count(CONNECT), 4)
    resolver.close()
  })

  it('the list is another one for a caller of another datacenter', async () => {
    const { resolver, resolve, answer } = start()
    const first = resolve({ datacenter: 'dc1' })
    const wan = { TaggedAddresses: { wan: { Address: '203.0.113.5', Port: 443 } } }
    await answer([entry(wan)])
    assert.equal((await first)[0]?.host, '10.0.0.1')
    assert.equal((await resolve({ datacenter: 'dc2' }))[0]?.host, '203.0.113.5')
    assert.equal((await resolve({ datacenter: 'dc1' }))[0]?.host, '10.0.0.1')
    resolver.close()
  })

  it('waits while the agent is away, and tells what it said last', async () => {
    const { agent, clock, resolver, resolve, answer } = start()
    assert.equal(resolver.lastError, undefined)
    const resolving = resolve()
    await settle()
    agent.last(CONNECT).fail(AWAY)
    await settle()
    assert.equal(resolver.lastError, AWAY)
    await clock.advance(20_000)
    await answer([entry()])
    assert.equal((await resolving).length, 1)
    assert.equal(resolver.lastError, undefined)
    resolver.close()
  })

  it('fails where somebody has to do something', async () => {
    const { agent, resolver, resolve } = start()
    const rejected = assert.rejects(resolve(), (error) => error === FORBIDDEN)
    await settle()
    agent.last(CONNECT).fail(FORBIDDEN)
    await rejected
    assert.equal(resolver.lastError, FORBIDDEN)
    resolver.close()
  })

  it('is empty until it knows of an instance, and when there is none any more', async () => {
    const { agent, resolver, resolve, answer } = start()
    assert.equal(resolver.isEmpty, true)
    const refused = refusal(resolve())
    assert.equal(resolver.isEmpty, true)
    await answer([], 1)
    agent.last(ALL).answer({ body: [] })
    await refused
    assert.equal(resolver.isEmpty, true)
    // One that is not well may be so again.
    await answer([entry({}, { status: 'critical' })], 2)
    assert.equal(resolver.isEmpty, false)
    await answer([entry()], 3)
    assert.equal(resolver.isEmpty, false)
    await answer([], 4)
    await answer([], 4)
    assert.equal(resolver.isEmpty, true)
    resolver.close()
  })

  it('ends with its caller’s signal for that caller alone', async () => {
    const { resolver, resolve, answer } = start()
    const [mine, reason] = [new AbortController(), new Error('enough')]
    const impatient = assert.rejects(resolve({ signal: mine.signal }), (error) => error === reason)
    const patient = resolve()
    await settle()
    mine.abort(reason)
    await impatient
    await answer([entry()])
    assert.equal((await patient).length, 1)
    resolver.close()
  })

  it('confirms an empty answer of a blocking read before it drops instances', async () => {
    const { agent, clock, resolver, resolve, answer, warnings } = start()
    const first = resolve()
    await answer([entry()], 5)
    const known = await first
    await answer([], 6)
    // The plain read of an agent of 1.16 says why.
    assert.equal(agent.last(CONNECT).request.query?.['index'], undefined)
    agent
      .last(CONNECT)
      .fail(
        new AgentError('ERR_CONNECT_AGENT_FORBIDDEN', 'Permission denied', { address: 'a', request: 'r' }),
      )
    await settle()
    assert.deepEqual(await resolve(), known)
    assert.deepEqual(
      warnings.map(({ message }) => message),
      ['Permission denied'],
    )
    await clock.advance(2_000)
    await answer([entry()], 7)
    await answer([], 8)
    assert.equal(resolver.isEmpty, false)
    await answer([], 8)
    assert.equal(resolver.isEmpty, true)
    resolver.close()
  })

  it('takes an empty answer that the agent has filtered for a missing right', async () => {
    const { agent, resolver, resolve } = start()
    const first = resolve()
    await settle()
    agent.last(CONNECT).answer({ body: [], index: 5, isFiltered: true })
    await assert.rejects(first, {
      code: 'ERR_CONNECT_AGENT_FORBIDDEN',
      message: /filtered out every instance; grant service:read on "web" and node:read to the token/,
    })
    resolver.close()
  })

  it('polls an upstream that has not been used for longer less often', async () => {
    const { agent, clock, resolver, resolve, answer } = start()
    while (!agent.upstreamSlots.isFull) agent.upstreamSlots.take(() => undefined)
    const first = resolve()
    await answer([entry()], 5)
    await first
    for (const [pauseMs, count] of [
      [2_500, 2],
      // The pause is half of the time since the last use, at most half a minute, with this random source.
      [2_500, 3],
      [2_500, 4],
      [3_750, 5],
    ] as const) {
      await clock.advance(pauseMs - 1)
      assert.equal(agent.count(CONNECT), count - 1)
      await clock.advance(1)
      assert.equal(agent.count(CONNECT), count)
      await answer([entry()], 5)
    }
    await clock.advance(600_000)
    assert.ok(agent.count(CONNECT) < 30)
    resolver.close()
  })

  it('counts against the agent’s places for blocking queries', async () => {
    const { agent, resolver, resolve, answer } = start()
    while (!agent.upstreamSlots.isFull) agent.upstreamSlots.take(() => undefined)
    const first = resolve()
    await answer([entry()], 5)
    await first
    // There is no place: it polls.
    assert.equal(agent.count(CONNECT), 1)
    resolver.close()
  })

  it('refreshes: reads again, and gives what is new', async () => {
    const { agent, clock, resolver, resolve, answer } = start()
    const first = resolve()
    await answer([entry()], 5)
    const list = await first
    // What was read just now is new enough.
    assert.equal(await resolve({ refresh: true }), list)
    assert.equal(agent.count(CONNECT), 2)
    clock.set(clock.now() + 1_000)
    const refreshed = resolve({ refresh: true })
    await settle()
    assert.equal(agent.count(CONNECT), 3)
    assert.equal(agent.last(CONNECT).request.query?.['index'], undefined)
    await answer([entry({ Port: 9 })], 6)
    assert.equal((await refreshed)[0]?.port, 9)
    resolver.close()
  })

  it('refreshes in vain when the agent is away, and gives what there is', async () => {
    const { agent, clock, resolver, resolve, answer } = start()
    const first = resolve()
    await answer([entry()], 5)
    clock.set(clock.now() + 1_000)
    const refreshed = resolve({ refresh: true })
    await settle()
    agent.last(CONNECT).fail(AWAY)
    assert.equal(await refreshed, await first)
    resolver.close()
  })

  it('stops, and begins again with the next who resolves', async () => {
    const { agent, clock, resolver, resolve, answer } = start()
    const first = resolve()
    await answer([entry()], 5)
    const list = await first
    resolver.stop()
    resolver.stop()
    await clock.advance(600_000)
    assert.equal(agent.last(CONNECT).request.signal?.aborted, true)
    assert.deepEqual([agent.count(CONNECT), clock.pending], [2, 0])
    assert.deepEqual([resolver.isEmpty, resolver.lastError], [true, undefined])
    const again = resolve()
    await settle()
    assert.equal(agent.count(CONNECT), 3)
    await answer([entry()], 5)
    assert.notEqual(await again, list)
    assert.deepEqual(await again, list)
    resolver.close()
  })

  it('closes: nothing is left', async () => {
    const { agent, clock, resolver, resolve, answer } = start()
    const first = resolve()
    await answer([entry()], 5)
    await first
    resolver.close()
    resolver.close()
    await clock.advance(600_000)
    assert.deepEqual([agent.count(CONNECT), clock.pending], [2, 0])
  })

  it('closed, it says so, and watches nothing any more', async () => {
    for (const refresh of [false, true]) {
      for (const isKnown of [false, true]) {
        const { agent, clock, resolver, resolve, answer } = start()
        if (isKnown) {
          const first = resolve()
          await answer([entry()], 5)
          await first
        }
        resolver.close()
        const before = agent.requests.length
        const rejected = assert.rejects(
          resolve({ refresh }),
          (error) => error instanceof ClosedError && error.message.includes('resolve web'),
        )
        await clock.advance(60_000)
        await rejected
        assert.deepEqual([agent.requests.length, clock.pending], [before, 0])
      }
    }
  })

  for (const end of ['stop', 'close'] as const) {
    it(`${end} ends the wait of those who wait for the first answer`, async () => {
      const { clock, resolver, resolve } = start()
      const rejected = Promise.all(
        [resolve(), resolve({ refresh: true })].map((waiting) =>
          assert.rejects(waiting, (error) => error instanceof ClosedError),
        ),
      )
      await settle()
      resolver[end]()
      await rejected
      assert.equal(clock.pending, 0)
    })
  }
})

describe('HealthResolver: what it asks', () => {
  it('all instances, whatever their state: which of them serve is decided here', async () => {
    const { agent, resolver, resolve } = start({
      datacenter: 'dc2',
      namespace: 'n',
      partition: 'p',
      tags: ['a', 'b'],
      near: '_agent',
      filter: 'Service.Meta.v == "2"',
    })
    void resolve().catch(() => undefined)
    await settle()
    assert.deepEqual(agent.requests[0]?.request.query, {
      stale: true,
      index: undefined,
      hash: undefined,
      wait: undefined,
      dc: 'dc2',
      ns: 'n',
      partition: 'p',
      near: '_agent',
      filter: 'Service.Meta.v == "2"',
    })
    resolver.close()
  })

  it('the name is one segment of the path', async () => {
    const { agent, resolver, resolve } = start({ service: 'my service' })
    void resolve().catch(() => undefined)
    await settle()
    assert.equal(agent.requests[0]?.request.path, '/v1/health/connect/my%20service')
    resolver.close()
  })
})

describe('HealthResolver: why there is none', () => {
  interface Case {
    readonly rule: string
    readonly target?: Partial<ServiceTarget>
    /** What the watch says; none, unless something is said. */
    readonly known?: object[]
    /** What is asked then, and what the answer is. */
    readonly asked: [path: string, body: object[]][]
    readonly reason: NoInstancesReason
    readonly message: string
  }
  const cases: Case[] = [
    {
      rule: 'nobody has registered it',
      asked: [[ALL, []]],
      reason: 'unknown',
      message: 'dial web: service not found; it is not registered, or the token lacks service:read on "web"',
    },
    {
      rule: 'nobody has registered it there',
      target: { datacenter: 'dc2' },
      asked: [[ALL, []]],
      reason: 'unknown',
      message:
        'dial web: service not found in dc2; it is not registered, or the token lacks service:read on "web"',
    },
    {
      rule: 'it is registered, and does not take Connect',
      asked: [[ALL, [entry(), entry(), entry()]]],
      reason: 'not-connect',
      message: 'dial web: none of its 3 instances accepts mesh connections, natively or by a proxy',
    },
    {
      rule: 'it does not take Connect there',
      target: { datacenter: 'dc2' },
      asked: [[ALL, [entry()]]],
      reason: 'not-connect',
      message: 'dial web: none of its 1 instances in dc2 accepts mesh connections, natively or by a proxy',
    },
    {
      rule: 'none has the tag',
      target: { tags: ['v2'] },
      known: [entry(), entry({ ID: 'web-2', Tags: ['v1'] })],
      asked: [],
      reason: 'no-match',
      message: 'dial web: none of its 2 instances has the tag v2',
    },
    {
      rule: 'none has all the tags',
      target: { tags: ['v2', 'eu'] },
      known: [entry({ Tags: ['V2'] })],
      asked: [],
      reason: 'no-match',
      message: 'dial web: none of its 1 instances has the tag v2 and the tag eu',
    },
    {
      rule: 'none passes the filter',
      target: { filter: 'a == b' },
      asked: [[CONNECT, [entry()]]],
      reason: 'no-match',
      message: 'dial web: none of its 1 instances passes the filter',
    },
    {
      rule: 'none that passes the filter has the tag',
      target: { tags: ['v2'], filter: 'a == b' },
      known: [entry()],
      asked: [],
      reason: 'no-match',
      message: 'dial web: none of its 1 instances has the tag v2',
    },
    {
      rule: 'without the filter there would be none either: nobody has registered it',
      target: { filter: 'a == b' },
      asked: [
        [CONNECT, []],
        [ALL, []],
      ],
      reason: 'unknown',
      message: 'dial web: service not found; it is not registered, or the token lacks service:read on "web"',
    },
    {
      rule: 'an empty list of tags is none',
      target: { tags: [] },
      asked: [[ALL, []]],
      reason: 'unknown',
      message: 'dial web: service not found; it is not registered, or the token lacks service:read on "web"',
    },
    {
      rule: 'they are not well',
      known: [
        entry({ ID: 'web-1' }, { status: 'critical' }),
        entry({ ID: 'web-2' }, { status: 'warning' }),
        entry({ ID: 'web-3' }, { status: 'maintenance' }),
        entry({ ID: 'web-4', Port: 0 }),
      ],
      asked: [],
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 is critical, web-2 is warning, web-3 is critical, web-4 has no port',
    },
    {
      rule: 'they cannot be dialled',
      known: [
        entry({ ID: 'web-1', Port: 70_000 }),
        entry({ ID: 'web-2', Address: 'a b' }, { status: 'critical' }),
        entry({ ID: 'web-3', Port: -1 }),
      ],
      asked: [],
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 has the port 70000, web-2 has the address "a b", web-3 has the port -1',
    },
    {
      rule: 'there is another spelling',
      known: [entry({ Service: 'Web' }), entry({ Service: 'Web' }, { status: 'critical' })],
      asked: [],
      reason: 'unknown',
      message: 'dial web: service "web" not found; service names are case-sensitive: use "Web"',
    },
    {
      rule: 'there are other spellings, of which five are shown',
      known: ['Web', 'WEB', 'wEb', 'weB', 'WEb', 'WeB'].map((Service) => entry({ Service })),
      asked: [],
      reason: 'unknown',
      message:
        'dial web: service "web" not found; service names are case-sensitive: use "Web" or "WEB" or "wEb" or "weB" or "WEb"',
    },
    {
      rule: 'those of another spelling are not said to be unwell',
      known: [
        entry({ ID: 'a', Service: 'WEB' }),
        entry({ ID: 'b' }, { status: 'critical' }),
        entry({ ID: 'c', Service: 'WEB' }, { status: 'critical' }),
      ],
      asked: [],
      reason: 'not-passing',
      message: 'dial web: none of its instances is passing: b is critical',
    },
    {
      rule: 'they are not well, and five are shown',
      known: [1, 2, 3, 4, 5].map((n) => entry({ ID: `web-${n}` }, { status: 'critical' })),
      asked: [],
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 is critical, web-2 is critical, web-3 is critical, web-4 is critical, web-5 is critical',
    },
    {
      rule: 'they are not well, and the rest is counted',
      known: [1, 2, 3, 4, 5, 6, 7].map((n) => entry({ ID: `web-${n}` }, { status: 'critical' })),
      asked: [],
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 is critical, web-2 is critical, web-3 is critical, web-4 is critical, web-5 is critical and 2 more',
    },
  ]
  for (const { rule, target, known = [], asked, reason, message } of cases) {
    it(`${reason}: ${rule}`, async () => {
      const { agent, resolver, resolve, answer } = start(target)
      const refused = refusal(resolve())
      await answer(known)
      // The watch goes on by itself, so that the next request is not always the last.
      const watching = 2
      for (const [i, [path, body]] of asked.entries()) {
        const pending = agent.requests[watching + i]
        assert.equal(pending?.request.path, path)
        const { stale, dc, tag, filter, index } = pending.request.query!
        assert.deepEqual(
          [stale, dc, tag, filter, index],
          [true, target?.datacenter, undefined, undefined, undefined],
        )
        pending.answer({ body })
        await settle()
      }
      const error = await refused
      assert.deepEqual([error.reason, error.message], [reason, message])
      assert.equal(agent.requests.length, watching + asked.length)
      resolver.close()
    })
  }

  const hints: [name: string, hint: string][] = [
    ['api', 'it is not registered, or the token lacks service:read on "api"'],
    ['API', 'it is not registered, or the token lacks service:read on "API"'],
    ['my.api', 'it is not registered, or the token lacks service:read on "my.api"'],
    ['api.service', 'it is not registered, or the token lacks service:read on "api.service"'],
    ['.service.consul', 'it is not registered, or the token lacks service:read on ".service.consul"'],
    ['api.service.consul', 'to dial the service of this DNS name, write "api"'],
    ['api.service.consul.', 'to dial the service of this DNS name, write "api"'],
    ['API.Service.Consul', 'to dial the service of this DNS name, write "api"'],
    ['api.service.mesh.example', 'to dial the service of this DNS name, write "api"'],
    ['api.connect.consul', 'to dial the service of this DNS name, write "api"'],
    ['_api._tcp.service.consul', 'to dial the service of this DNS name, write "api"'],
    ['v1.api.service.consul', 'to dial the service of this DNS name, write { service: "api", tags: ["v1"] }'],
    [
      '_api._v1.service.consul',
      'to dial the service of this DNS name, write { service: "api", tags: ["v1"] }',
    ],
    [
      'api.service.dc2.consul',
      'to dial the service of this DNS name, write { service: "api", datacenter: "dc2" }',
    ],
    ['api.query.consul', 'to dial the prepared query of this DNS name, write { query: "api" }'],
    [
      'api.query.dc2.consul',
      'to dial the prepared query of this DNS name, write { query: "api", datacenter: "dc2" }',
    ],
    ['api:8080', 'to dial an address, write { address: "api:8080", service: <name> }'],
    ['127.0.0.1:8080', 'to dial an address, write { address: "127.0.0.1:8080", service: <name> }'],
    ['127.0.0.1', 'to dial an address, write { address: "127.0.0.1:<port>", service: <name> }'],
    ['[::1]:8080', 'to dial an address, write { address: "[::1]:8080", service: <name> }'],
    ['[::1]', 'to dial an address, write { address: "[::1]:<port>", service: <name> }'],
    ['::1', 'to dial an address, write { address: "[::1]:<port>", service: <name> }'],
    ['fe80::1%eth0', 'to dial an address, write { address: "[fe80::1%eth0]:<port>", service: <name> }'],
    ['api:http', 'it is not registered, or the token lacks service:read on "api:http"'],
    ['api:', 'it is not registered, or the token lacks service:read on "api:"'],
    ['api:0', 'it is not registered, or the token lacks service:read on "api:0"'],
    ['api:65536', 'it is not registered, or the token lacks service:read on "api:65536"'],
    [':8080', 'it is not registered, or the token lacks service:read on ":8080"'],
  ]
  for (const [name, hint] of hints) {
    it(`says what to write instead of ${name}`, async () => {
      const { agent, resolver, resolve } = start({ service: name })
      const refused = assert.rejects(resolve(), {
        code: 'ERR_CONNECT_NO_INSTANCES',
        reason: 'unknown',
        message: `dial ${name}: service not found; ${hint}`,
      })
      await settle()
      agent.last(`/v1/health/connect/${encodeURIComponent(name)}`).answer({ body: [], index: 1 })
      await settle()
      agent.last(`/v1/health/service/${encodeURIComponent(name)}`).answer({ body: [] })
      await refused
      resolver.close()
    })
  }

  it('an instance of a warning state is named when it is what is left', async () => {
    const { resolver, resolve, answer } = start({ onlyPassing: true })
    const refused = refusal(resolve())
    await answer([entry({}, { status: 'warning' })])
    assert.match((await refused).message, /web-1 is warning/)
    resolver.close()
  })

  it('the answer is kept for 2 seconds, for all who want to know', async () => {
    const { agent, clock, resolver, resolve, answer } = start()
    const refused = [refusal(resolve()), refusal(resolve())]
    await answer([])
    assert.equal(agent.count(ALL), 1)
    agent.last(ALL).answer({ body: [] })
    await Promise.all(refused)
    clock.set(clock.now() + 1_999)
    assert.equal((await refusal(resolve())).reason, 'unknown')
    assert.equal(agent.count(ALL), 1)
    clock.set(clock.now() + 1)
    const later = refusal(resolve())
    await settle()
    assert.equal(agent.count(ALL), 2)
    agent.last(ALL).answer({ body: [entry()] })
    assert.equal((await later).reason, 'not-connect')
    resolver.close()
  })

  it('an instance that comes makes an end of it at once', async () => {
    const { agent, resolver, resolve, answer } = start()
    const refused = refusal(resolve())
    await answer([], 5)
    agent.last(ALL).answer({ body: [] })
    await refused
    await answer([entry()], 6)
    assert.equal((await resolve()).length, 1)
    resolver.close()
  })

  for (const error of [FORBIDDEN, AWAY]) {
    it(`an agent that does not tell why: ${error.code}`, async () => {
      const { agent, clock, resolver, resolve, answer } = start()
      const refused = refusal(resolve())
      await answer([])
      agent.last(ALL).fail(error)
      const { reason, message } = await refused
      assert.equal(reason, 'empty')
      assert.equal(message, `dial web: no instances; the reason could not be determined: ${error.code}`)
      // It is not asked on every dial.
      clock.set(clock.now() + 1_999)
      assert.equal((await refusal(resolve())).reason, 'empty')
      assert.equal(agent.count(ALL), 1)
      resolver.close()
    })
  }
})

describe('toEndpoints', () => {
  const selection = { service: 'web', own: 'dc1', onlyPassing: true }

  it('leaves nothing out of the identity, and adds no weight of its own', () => {
    const [instance] = parseConnectInstances([
      entry({ Namespace: 'n', Partition: 'p', Weights: { Passing: 3, Warning: 2 } }),
    ])
    assert.deepEqual(toEndpoints([instance!], selection), [
      {
        host: '10.0.0.1',
        port: 8080,
        identity: { service: 'web', datacenter: 'dc1', namespace: 'n', partition: 'p' },
        weight: 3,
      },
    ])
  })

  it('takes instances of exactly the service, in their order, and of no other', () => {
    const services = ['web', 'Web', 'db', 'web', 'web-proxy']
    const instances = parseConnectInstances(services.map((Service, i) => entry({ Service, Port: i + 1 })))
    const ports = (service: string): number[] =>
      toEndpoints(instances, { ...selection, service }).map(({ port }) => port)
    assert.deepEqual(
      ['web', 'Web', 'WEB', 'db', 'd'].map((service) => ports(service)),
      [[1, 4], [2], [], [3], []],
    )
  })

  it('is frozen through and through', () => {
    const list = toEndpoints(parseConnectInstances([entry()]), selection)
    assert.deepEqual(
      [list, list[0], list[0]?.identity].map((value) => Object.isFrozen(value)),
      [true, true, true],
    )
  })
})
