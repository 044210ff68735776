import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { DialError } from '../../src/base/errors.js'
import { ClosedError, type NoInstancesReason } from '../../src/base/errors.js'
import { ChainChanges } from '../../src/resolve/chain/chain-changes.js'
import { InstanceWatches } from '../../src/resolve/chain/instance-watches.js'
import { MeshGateways } from '../../src/resolve/chain/mesh-gateways.js'
import { ServiceResolver } from '../../src/resolve/chain/service-resolver.js'
import { nameHint } from '../../src/resolve/name-hint.js'
import type { Endpoint } from '../../src/resolve/resolver.js'
import type { ServiceUpstream } from '../../src/resolve/upstream.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { AWAY, FORBIDDEN, dialError } from '../fixtures/errors.js'

const CONNECT = '/v1/health/connect/web'
const ALL = '/v1/health/service/web'

/** An entry of the health endpoint: a native instance of web. */
function entry(service: object = {}, { node = {}, status = 'passing' } = {}): object {
  return {
    Node: { Node: 'n', Address: '10.0.0.1', Datacenter: 'dc1', ...node },
    Service: { ID: 'web-1', Service: 'web', Address: '', Port: 8080, Connect: { Native: true }, ...service },
    Checks: [{ CheckID: 'c', Status: status }],
  }
}

const identity = { service: 'web', datacenter: 'dc1', namespace: undefined, partition: undefined }

const endpoint = { host: '10.0.0.1', port: 8080, identity, weight: 1 }

function start(target: Partial<ServiceUpstream> = {}) {
  const [agent, clock] = [new FakeAgent(), new FakeClock()]
  const warnings: Error[] = []
  const time = { clock, random: () => 0 }
  const onFailed = (error: Error): void => {
    warnings.push(error)
  }
  const instances = new InstanceWatches({ agent, time, onFailed })
  const resolver = new ServiceResolver(
    { service: 'web', ...target },
    {
      agent,
      time,
      onFailed,
      instances,
      gateways: new MeshGateways(agent, time),
      changes: new ChainChanges(agent, time),
    },
  )
  const resolve = async ({
    signal = new AbortController().signal,
    datacenter = 'dc1',
    refresh = false,
  } = {}): Promise<readonly Endpoint[]> => resolver.resolve({ signal, datacenter, refresh })
  /** Answers the pending read of the instances. */
  const answer = async (body: object[], index = 1): Promise<void> => {
    await settle()
    agent.last(CONNECT).answer({ body, index })
    await settle()
  }
  return {
    agent,
    clock,
    resolver,
    resolve,
    warnings,
    answer,
    /** Resolves, with this answer to the first read. */
    resolveWith: async (body: object[] = [entry()], index = 1): Promise<readonly Endpoint[]> => {
      const resolving = resolve()
      await answer(body, index)
      return resolving
    },
  }
}

async function refusal(promise: Promise<unknown>): Promise<DialError> {
  const error = await dialError(promise)
  assert.deepEqual([error.code, error.upstream], ['ERR_CONNECT_NO_INSTANCES', 'web'])
  return error
}

describe('The endpoints of a ServiceResolver', () => {
  it('have the address, the identity, and the weight of the instance', async () => {
    const started = start()
    const body = [
      entry(),
      entry({ Address: '::1', Port: 1, Weights: { Passing: 7, Warning: 3 } }),
      entry({ Weights: { Passing: 0, Warning: 3 } }),
    ]
    assert.deepEqual(await started.resolveWith(body), [
      endpoint,
      { host: '::1', port: 1, identity, weight: 7 },
      { ...endpoint, weight: 0 },
    ])
  })

  it('have the identity of the service behind a proxy, in the datacenter that was asked for', async () => {
    const started = start({ datacenter: 'asked' })
    const proxy = { Service: 'web-proxy', Connect: {}, Proxy: { DestinationServiceName: 'web' } }
    const [found] = await started.resolveWith([entry(proxy, { node: { Datacenter: 'dc9' } })])
    assert.deepEqual(found?.identity, { ...identity, datacenter: 'asked' })
  })

  it('do not contain instances of other services, also if the name differs only in case', async () => {
    const started = start()
    // Agents ignore the case of names.
    const unrelated = ['Web', 'WEB', 'web ', 'other'].map((Service) => entry({ Service }))
    const proxy = entry({ Connect: {}, Proxy: { DestinationServiceName: 'Web' } })
    const endpoints = await started.resolveWith([...unrelated, proxy, entry({ Port: 9 })])
    assert.deepEqual(endpoints, [{ ...endpoint, port: 9 }])
  })

  it('have the namespace and the partition of the upstream, whatever the instance says', async () => {
    const started = start({ namespace: 'n', partition: 'p' })
    const endpoints = await started.resolveWith([entry(), entry({ Namespace: 'm', Partition: 'q' })])
    assert.deepEqual(
      endpoints.map((each) => each.identity),
      [
        { ...identity, namespace: 'n', partition: 'p' },
        { ...identity, namespace: 'n', partition: 'p' },
      ],
    )
  })

  const wan = { Address: '10.0.0.5', TaggedAddresses: { wan: { Address: '203.0.113.5', Port: 443 } } }
  const places: [rule: string, datacenter: string | undefined, host: string, port: number][] = [
    ['its address in our datacenter', 'dc1', '10.0.0.5', 8080],
    ['its WAN address in another datacenter', 'dc2', '203.0.113.5', 443],
    ['its address without a datacenter', undefined, '10.0.0.5', 8080],
  ]
  for (const [rule, datacenter, host, port] of places) {
    it(`have for an instance ${rule}`, async () => {
      const started = start()
      const endpoints = await started.resolveWith([entry(wan, { node: { Datacenter: datacenter } })])
      assert.deepEqual(endpoints, [{ host, port, identity: { ...identity, datacenter }, weight: 1 }])
    })
  }

  it('do not contain an instance without a port, which Consul accepts', async () => {
    const { resolveWith } = start()
    assert.deepEqual(await resolveWith([entry({ Port: 0 }), entry()]), [endpoint])
  })

  const states = ['passing', 'warning', 'critical', 'maintenance']
  const selected: [onlyPassing: boolean | undefined, expected: [host: string, weight: number][]][] = [
    [
      undefined,
      [
        ['passing', 7],
        ['warning', 3],
      ],
    ],
    [true, [['passing', 7]]],
    [
      false,
      [
        ['passing', 7],
        ['warning', 3],
      ],
    ],
  ]
  for (const [onlyPassing, expected] of selected) {
    it(`are selected by status with onlyPassing ${onlyPassing}, and weighted by status`, async () => {
      const started = start({ onlyPassing })
      const body = states.map((status) =>
        entry({ Address: status, Weights: { Passing: 7, Warning: 3 } }, { status }),
      )
      const found = await started.resolveWith(body)
      assert.deepEqual(
        found.map(({ host, weight }) => [host, weight]),
        expected,
      )
    })
  }

  it('are sorted in the order of the agent with the option near', async () => {
    const started = start({ near: '_agent' })
    assert.equal(started.resolver.isSorted, true)
    assert.equal(start().resolver.isSorted, false)
    const found = await started.resolveWith(['c', 'a', 'b'].map((Address) => entry({ Address })))
    assert.deepEqual(
      found.map(({ host }) => host),
      ['c', 'a', 'b'],
    )
  })
})

describe('ServiceResolver', () => {
  it('shares one watch among all callers, and sends no further requests', async () => {
    const { agent, resolve, answer } = start()
    assert.equal(agent.requests.length, 0)
    const waiting = [resolve(), resolve(), resolve()]
    await settle()
    assert.equal(agent.count(CONNECT), 1)
    await answer([entry()])
    const [list, ...lists] = await Promise.all(waiting)
    assert.ok(lists.every((each) => each === list))
    for (let i = 0; i < 10; i += 1) assert.equal(await resolve(), list)
    // The second read is a blocking query.
    assert.equal(agent.count(CONNECT), 2)
    assert.equal(agent.requests.length, 2)
  })

  it('returns the same frozen list until the instances change', async () => {
    const { resolve, answer, agent, resolveWith } = start()
    const list = await resolveWith()
    assert.equal(Object.isFrozen(list), true)
    await answer([entry()], 2)
    assert.equal(await resolve(), list)
    await answer([entry({ Port: 9 })], 3)
    const changed = await resolve()
    assert.notEqual(changed, list)
    assert.equal(changed[0]?.port, 9)
    assert.equal(await resolve(), changed)
    assert.equal(agent.count(CONNECT), 4)
  })

  it('computes the list for the datacenter of the caller', async () => {
    const { resolve, answer } = start()
    const first = resolve({ datacenter: 'dc1' })
    const wan = { TaggedAddresses: { wan: { Address: '203.0.113.5', Port: 443 } } }
    await answer([entry(wan)])
    assert.equal((await first)[0]?.host, '10.0.0.1')
    assert.equal((await resolve({ datacenter: 'dc2' }))[0]?.host, '203.0.113.5')
    assert.equal((await resolve({ datacenter: 'dc1' }))[0]?.host, '10.0.0.1')
  })

  it('waits while the agent is unreachable, and exposes the last error', async () => {
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
  })

  it('rejects with an error that a retry does not fix', async () => {
    const { agent, resolver, resolve } = start()
    const rejected = assert.rejects(resolve(), (error) => error === FORBIDDEN)
    await settle()
    agent.last(CONNECT).fail(FORBIDDEN)
    await rejected
    assert.equal(resolver.lastError, FORBIDDEN)
  })

  it('is empty before the first instance and after the last one', async () => {
    const { agent, resolver, resolve, answer } = start()
    assert.equal(resolver.isEmpty, true)
    const refused = refusal(resolve())
    assert.equal(resolver.isEmpty, true)
    await answer([], 1)
    agent.last(ALL).answer({ body: [] })
    await refused
    assert.equal(resolver.isEmpty, true)
    // A critical instance may recover.
    await answer([entry({}, { status: 'critical' })], 2)
    assert.equal(resolver.isEmpty, false)
    await answer([entry()], 3)
    assert.equal(resolver.isEmpty, false)
    await answer([], 4)
    await answer([], 4)
    assert.equal(resolver.isEmpty, true)
  })

  it('ends the wait of a single caller by its signal', async () => {
    const { resolve, answer } = start()
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const aborted = assert.rejects(resolve({ signal: controller.signal }), (error) => error === reason)
    const resolving = resolve()
    await settle()
    controller.abort(reason)
    await aborted
    await answer([entry()])
    assert.equal((await resolving).length, 1)
  })

  it('confirms an empty answer of a blocking query before it drops instances', async () => {
    const { agent, clock, resolver, resolve, answer, warnings, resolveWith } = start()
    const known = await resolveWith([entry()], 5)
    await answer([], 6)
    // Consul 1.16 reports the missing permission only to a read that does not block.
    assert.equal(agent.last(CONNECT).request.query?.['index'], undefined)
    agent.last(CONNECT).fail(FORBIDDEN)
    await settle()
    assert.deepEqual(await resolve(), known)
    assert.deepEqual(warnings, [FORBIDDEN])
    await clock.advance(2_000)
    await answer([entry()], 7)
    await answer([], 8)
    assert.equal(resolver.isEmpty, false)
    await answer([], 8)
    assert.equal(resolver.isEmpty, true)
  })

  it('treats an empty, filtered answer as a missing permission', async () => {
    const { agent, resolve } = start()
    const first = resolve()
    await settle()
    agent.last(CONNECT).answer({ body: [], index: 5, isFiltered: true })
    await assert.rejects(first, {
      code: 'ERR_CONNECT_AGENT_FORBIDDEN',
      message: /filtered out every instance; grant service:read on "web" and node:read to the token/,
    })
  })

  it('polls less often the longer the upstream is unused, if no slot for a blocking query is free', async () => {
    const { agent, clock, answer, resolveWith } = start()
    while (!agent.upstreamSlots.isFull) agent.upstreamSlots.take(() => undefined)
    await resolveWith([entry()], 5)
    for (const [pauseMs, count] of [
      [2_500, 2],
      // With this random source, the pause is half of the time since the last use, and at most 30 s.
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
  })

  it('reads again on refresh, but not within a second', async () => {
    const { agent, clock, resolve, answer, resolveWith } = start()
    const list = await resolveWith([entry()], 5)
    assert.equal(await resolve({ refresh: true }), list)
    assert.equal(agent.count(CONNECT), 2)
    clock.set(clock.now() + 1_000)
    const refreshed = resolve({ refresh: true })
    await settle()
    assert.equal(agent.count(CONNECT), 3)
    assert.equal(agent.last(CONNECT).request.query?.['index'], undefined)
    await answer([entry({ Port: 9 })], 6)
    assert.equal((await refreshed)[0]?.port, 9)
  })

  it('stops the watch, and starts another one with the next caller', async () => {
    const { agent, clock, resolver, resolve, answer, resolveWith } = start()
    const list = await resolveWith([entry()], 5)
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
  })

  it('rejects after close(), and sends no requests', async () => {
    for (const refresh of [false, true]) {
      for (const isKnown of [false, true]) {
        const { agent, clock, resolver, resolve, resolveWith } = start()
        if (isKnown) await resolveWith()
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
    it(`rejects callers that wait for the first answer on ${end}()`, async () => {
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

describe('The requests of a ServiceResolver', () => {
  it('request the instances of any status, with the options of the upstream except tags', async () => {
    const { agent, resolve } = start({
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
  })

  it('encode the name as one segment of the path', async () => {
    const { agent, resolve } = start({ service: 'my service' })
    void resolve().catch(() => undefined)
    await settle()
    assert.equal(agent.requests[0]?.request.path, '/v1/health/connect/my%20service')
  })
})

describe('The error of a ServiceResolver without instances', () => {
  interface Case {
    readonly rule: string
    readonly target?: Partial<ServiceUpstream>
    /** The answer of the watch. @default none */
    readonly known?: object[]
    /** The following requests and their answers. @default none */
    readonly requests?: [path: string, body: object[]][]
    readonly reason: NoInstancesReason
    readonly message: string
  }
  const cases: Case[] = [
    {
      rule: 'names the service and the missing permission if the service is not registered',
      requests: [[ALL, []]],
      reason: 'unknown',
      message: 'dial web: service not found; it is not registered, or the token lacks service:read on "web"',
    },
    {
      rule: 'names the datacenter of the upstream',
      target: { datacenter: 'dc2' },
      requests: [[ALL, []]],
      reason: 'unknown',
      message:
        'dial web: service not found in dc2; it is not registered, or the token lacks service:read on "web"',
    },
    {
      rule: 'counts the instances that do not accept mesh connections',
      requests: [[ALL, [entry(), entry(), entry()]]],
      reason: 'not-connect',
      message:
        'dial web: none of its 3 instances accepts mesh connections; register it with connect { native = true }, or with a sidecar proxy',
    },
    {
      rule: 'names the tag that no instance has',
      target: { tags: ['v2'] },
      known: [entry(), entry({ ID: 'web-2', Tags: ['v1'] })],
      reason: 'no-match',
      message: 'dial web: none of its 2 instances has the tag v2',
    },
    {
      rule: 'names all tags of which no instance has all',
      target: { tags: ['v2', 'eu'] },
      known: [entry({ Tags: ['V2'] })],
      reason: 'no-match',
      message: 'dial web: none of its 1 instances has the tag v2 and the tag eu',
    },
    {
      rule: 'counts the instances that do not pass the filter',
      target: { filter: 'a == b' },
      requests: [[CONNECT, [entry()]]],
      reason: 'no-match',
      message: 'dial web: none of its 1 instances passes the filter',
    },
    {
      rule: 'does not mention the filter if the service is not registered',
      target: { filter: 'a == b' },
      requests: [
        [CONNECT, []],
        [ALL, []],
      ],
      reason: 'unknown',
      message: 'dial web: service not found; it is not registered, or the token lacks service:read on "web"',
    },
    {
      rule: 'lists the status of each instance',
      target: { onlyPassing: true },
      known: [
        entry({ ID: 'web-1' }, { status: 'critical' }),
        entry({ ID: 'web-2' }, { status: 'warning' }),
        entry({ ID: 'web-3' }, { status: 'maintenance' }),
        entry({ ID: 'web-4', Port: 0 }),
      ],
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 is critical, web-2 is warning, web-3 is critical, web-4 has no port',
    },
    {
      rule: 'lists the defect of each instance',
      known: [
        entry({ ID: 'web-1', Port: 70_000 }),
        entry({ ID: 'web-2', Address: 'a b' }, { status: 'critical' }),
        entry({ ID: 'web-3', Port: -1 }),
      ],
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 has the port 70000, web-2 has the address "a b", web-3 has the port -1',
    },
    {
      rule: 'names the spelling that is registered',
      known: [entry({ Service: 'Web' }), entry({ Service: 'Web' }, { status: 'critical' })],
      reason: 'unknown',
      message: 'dial web: service "web" not found; service names are case-sensitive: use "Web"',
    },
    {
      rule: 'names at most five spellings',
      known: ['Web', 'WEB', 'wEb', 'weB', 'WEb', 'WeB'].map((Service) => entry({ Service })),
      reason: 'unknown',
      message:
        'dial web: service "web" not found; service names are case-sensitive: use "Web" or "WEB" or "wEb" or "weB" or "WEb"',
    },
    {
      rule: 'does not list instances of another spelling',
      known: [
        entry({ ID: 'a', Service: 'WEB' }),
        entry({ ID: 'b' }, { status: 'critical' }),
        entry({ ID: 'c', Service: 'WEB' }, { status: 'critical' }),
      ],
      reason: 'not-passing',
      message: 'dial web: none of its instances is passing: b is critical',
    },
    {
      rule: 'lists five instances',
      known: [1, 2, 3, 4, 5].map((n) => entry({ ID: `web-${n}` }, { status: 'critical' })),
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 is critical, web-2 is critical, web-3 is critical, web-4 is critical, web-5 is critical',
    },
    {
      rule: 'lists at most five instances, and counts the rest',
      known: [1, 2, 3, 4, 5, 6, 7].map((n) => entry({ ID: `web-${n}` }, { status: 'critical' })),
      reason: 'not-passing',
      message:
        'dial web: none of its instances is passing: web-1 is critical, web-2 is critical, web-3 is critical, web-4 is critical, web-5 is critical and 2 more',
    },
  ]
  for (const { rule, target, known = [], requests = [], reason, message } of cases) {
    it(`${rule}: ${reason}`, async () => {
      const { agent, resolve, answer } = start(target)
      const refused = refusal(resolve())
      await answer(known)
      // The first two requests are those of the watch.
      for (const [i, [path, body]] of requests.entries()) {
        const pending = agent.requests[2 + i]
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
      assert.equal(agent.requests.length, 2 + requests.length)
    })
  }

  it('suggests what to write instead of a DNS name or an address', async () => {
    const { agent, resolve } = start({ service: 'api.service.consul' })
    const refused = assert.rejects(resolve(), {
      reason: 'unknown',
      message:
        'dial api.service.consul: service not found; to dial the service of this DNS name, write "api"',
    })
    await settle()
    agent.last('/v1/health/connect/api.service.consul').answer({ body: [], index: 1 })
    await settle()
    agent.last('/v1/health/service/api.service.consul').answer({ body: [] })
    await refused
  })

  it('uses the explanation of the agent for 2 s', async () => {
    const { agent, clock, resolve, answer } = start()
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
  })

  it('ends immediately when an instance arrives', async () => {
    const { agent, resolve, answer } = start()
    const refused = refusal(resolve())
    await answer([], 5)
    agent.last(ALL).answer({ body: [] })
    await refused
    await answer([entry()], 6)
    assert.equal((await resolve()).length, 1)
  })

  it('reports, for 2 s, that the agent could not explain it', async () => {
    const { agent, clock, resolve, answer } = start()
    const refused = refusal(resolve())
    await answer([])
    agent.last(ALL).fail(AWAY)
    const { reason, message } = await refused
    assert.equal(reason, 'empty')
    assert.equal(message, `dial web: no instances; the reason could not be determined: ${AWAY.code}`)
    clock.set(clock.now() + 1_999)
    assert.equal((await refusal(resolve())).reason, 'empty')
    assert.equal(agent.count(ALL), 1)
  })
})

describe('nameHint', () => {
  const hints: [name: string, hint: string | undefined][] = [
    ['api', undefined],
    ['API', undefined],
    ['my.api', undefined],
    ['api.service', undefined],
    ['.service.consul', undefined],
    ['api.service.consul', 'the service of this DNS name, write "api"'],
    ['api.service.consul.', 'the service of this DNS name, write "api"'],
    ['API.Service.Consul', 'the service of this DNS name, write "api"'],
    ['api.service.mesh.example', 'the service of this DNS name, write "api"'],
    ['api.connect.consul', 'the service of this DNS name, write "api"'],
    ['_api._tcp.service.consul', 'the service of this DNS name, write "api"'],
    ['v1.api.service.consul', 'the service of this DNS name, write { service: "api", tags: ["v1"] }'],
    ['_api._v1.service.consul', 'the service of this DNS name, write { service: "api", tags: ["v1"] }'],
    ['api.service.dc2.consul', 'the service of this DNS name, write { service: "api", datacenter: "dc2" }'],
    ['api.query.consul', 'the prepared query of this DNS name, write { query: "api" }'],
    [
      'api.query.dc2.consul',
      'the prepared query of this DNS name, write { query: "api", datacenter: "dc2" }',
    ],
    ['api:8080', 'an address, write { address: "api:8080", service: <name> }'],
    ['127.0.0.1', 'an address, write { address: "127.0.0.1:<port>", service: <name> }'],
    ['[::1]:8080', 'an address, write { address: "[::1]:8080", service: <name> }'],
    ['[::1]', 'an address, write { address: "[::1]:<port>", service: <name> }'],
    ['::1', 'an address, write { address: "[::1]:<port>", service: <name> }'],
    ['fe80::1%eth0', 'an address, write { address: "[fe80::1%eth0]:<port>", service: <name> }'],
    ['api:http', undefined],
    ['api:', undefined],
    ['api:0', undefined],
    ['api:65536', undefined],
    [':8080', undefined],
  ]
  for (const [name, hint] of hints) {
    it(`returns ${hint === undefined ? 'no hint' : 'a hint'} for ${name}`, () => {
      assert.equal(nameHint(name), hint && `to dial ${hint}`)
    })
  }
})
