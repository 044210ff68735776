import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { describe, it } from 'node:test'
import type { AgentRequest } from '../../src/agent/client.js'
import { CHAIN_KINDS } from '../../src/agent/endpoints/config-entries.js'
import { DialError } from '../../src/base/errors.js'
import { ChainChanges } from '../../src/resolve/chain/chain-changes.js'
import { InstanceWatches } from '../../src/resolve/chain/instance-watches.js'
import { MeshGateways } from '../../src/resolve/chain/mesh-gateways.js'
import { ServiceResolver } from '../../src/resolve/chain/service-resolver.js'
import type { ResolutionMessage } from '../../src/resolve/diagnostics.js'
import { type Endpoint, dialPolicyOf } from '../../src/resolve/resolver.js'
import type { ServiceUpstream } from '../../src/resolve/upstream.js'
import { AWAY, FORBIDDEN, agentError, dialError } from '../fixtures/errors.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const CHAIN = '/v1/discovery-chain/web'
const HEALTH = '/v1/health/connect/web'
const SPARE = '/v1/health/connect/spare'
const GATEWAYS = '/v1/internal/federation-states/mesh-gateways'
const GATEWAY_SERVICE = '/v1/health/service/mesh-gateway'

/** A target of a chain: the service web in our datacenter, unless the fields say otherwise. */
function target(fields: object = {}): object {
  const place = { Service: 'web', Namespace: 'default', Partition: 'default', Datacenter: 'dc1' }
  return { ...place, MeshGateway: {}, Subset: {}, SNI: 'web.sni', ...fields }
}

const AT_DC2 = target({ Datacenter: 'dc2', SNI: 'web.dc2.sni' })
const AT_SPARE = target({ Service: 'spare', SNI: 'spare.sni' })

/** The answer for a chain with these targets in failover order. */
function chainOf(targets: object[], { node = {}, resolver = {} } = {}): object {
  const [Target, ...Targets] = targets.map((_, i) => `t${i}`)
  const Resolver = { Target, Failover: { Targets }, ...resolver }
  const Nodes = { start: { Type: 'resolver', Resolver, ...node } }
  const byId = Object.fromEntries(targets.map((each, i) => [`t${i}`, each]))
  return { Chain: { ServiceName: 'web', Protocol: 'tcp', StartNode: 'start', Nodes, Targets: byId } }
}

/** An entry of the health endpoint: a native instance. */
function entry(service: object = {}, { datacenter = 'dc1', status = 'passing' } = {}): object {
  return {
    Node: { Node: 'n', Address: '10.0.0.1', Datacenter: datacenter },
    Service: { ID: 'id', Service: 'web', Port: 80, Connect: { Native: true }, ...service },
    Checks: [{ Status: status }],
  }
}

const AT_DC2_ENTRY = entry({ Port: 81 }, { datacenter: 'dc2' })
const SPARE_ENTRY = entry({ Service: 'spare', Port: 82 })

function gateway(datacenter: string, status = 'passing'): object {
  const TaggedAddresses = { wan: { Address: `wan.${datacenter}`, Port: 443 } }
  return entry(
    { Kind: 'mesh-gateway', Service: 'gw', Connect: {}, Address: `lan.${datacenter}`, TaggedAddresses },
    { datacenter, status },
  )
}

function start(
  upstream: Partial<ServiceUpstream> = {},
  { isFiltered = false, ...options }: { namespace?: string; isFiltered?: boolean } = {},
) {
  const [agent, clock] = [new FakeAgent(options, { hasChains: true }), new FakeClock()]
  const warnings: Error[] = []
  const time = { clock, random: () => 0 }
  const onFailed = (error: Error): void => {
    warnings.push(error)
  }
  const context = {
    agent,
    time,
    onFailed,
    instances: new InstanceWatches({ agent, time, onFailed }),
    gateways: new MeshGateways(agent, time),
    changes: new ChainChanges(agent, time),
  }
  const newResolver = (): ServiceResolver => new ServiceResolver({ service: 'web', ...upstream }, context)
  const resolver = newResolver()
  const resolve = ({ signal = new AbortController().signal, refresh = false } = {}) =>
    resolver.resolve({ signal, datacenter: 'dc1', refresh })
  const answered = new Set<object>()
  /** Answers the first reads of the config entries, which come before the first chain. */
  const answerEntries = async (): Promise<void> => {
    await settle()
    for (const pending of agent.requests) {
      const { path, query, signal } = pending.request
      const isFirst = path.startsWith('/v1/config/') && query?.['index'] === undefined
      if (!isFirst || answered.has(pending) || signal?.aborted === true) continue
      answered.add(pending)
      pending.answer({ body: [], index: 1, isFiltered })
    }
    await settle()
  }
  /** Answers the last request to a path. */
  const answer = async (path: string, body: unknown, query: AgentRequest['query'] = {}, index = 1) => {
    await answerEntries()
    agent.last(path, query).answer({ body, index })
    await settle()
  }
  const fail = async (path: string, error: Error, query: AgentRequest['query'] = {}) => {
    await answerEntries()
    agent.last(path, query).fail(error)
    await settle()
  }
  return {
    agent,
    clock,
    context,
    warnings,
    newResolver,
    resolver,
    resolve,
    answer,
    answerEntries,
    fail,
    /** Starts to resolve, and answers with a chain. */
    follow: async (targets: object[], details = {}): Promise<{ resolving: Promise<readonly Endpoint[]> }> => {
      const resolving = resolve()
      resolving.catch(() => undefined)
      await answer(CHAIN, chainOf(targets, details))
      return { resolving }
    },
    /** Makes a change of the config entries known. */
    change: async (index: number): Promise<void> => {
      for (const kind of CHAIN_KINDS) {
        await answer(`/v1/config/${kind}`, [{ Name: 'web', ModifyIndex: index }], {}, index)
      }
    },
  }
}

/** The port and the priority of each endpoint. */
function places(endpoints: readonly Endpoint[]): [port: number, priority: number | undefined][] {
  return endpoints.map(({ port, priority }) => [port, priority])
}

describe('The target of a chain', () => {
  it('gives its instances its identity, server name, and subset', async () => {
    const { agent, follow, answer } = start({ filter: 'b == 2' })
    const fields = { ServiceSubset: 'v1', Subset: { Filter: 'a == 1', OnlyPassing: true } }
    const { resolving } = await follow([target(fields)])
    const warning = entry({ Port: 81 }, { status: 'warning' })
    assert.equal(agent.last(HEALTH).request.query?.['filter'], '(a == 1) and (b == 2)')
    await answer(HEALTH, [entry(), warning])
    const identity = { service: 'web', datacenter: 'dc1', namespace: 'default', partition: 'default' }
    const address = { host: '10.0.0.1', port: 80, weight: 1 }
    assert.deepEqual(await resolving, [{ ...address, identity, serverName: 'web.sni', subset: 'v1' }])
  })

  it('includes instances with warnings when the caller asks for them', async () => {
    const { follow, answer } = start({ onlyPassing: false })
    const { resolving } = await follow([target({ Subset: { OnlyPassing: true } })])
    await answer(HEALTH, [entry({}, { status: 'warning' })])
    assert.equal((await resolving).length, 1)
  })

  it('requires the identity of the service of a redirect, and leaves out others', async () => {
    const { follow, answer } = start()
    const { resolving } = await follow([{ ...AT_SPARE, SNI: '192.0.2.1' }])
    await answer(SPARE, [entry(), SPARE_ENTRY])
    const [found, ...others] = await resolving
    // An IP address is no server name.
    assert.deepEqual([found?.identity.service, found?.port, found?.serverName], ['spare', 82, undefined])
    assert.deepEqual(others, [])
  })

  it('is expected behind a terminating gateway', async () => {
    const { follow, answer } = start()
    const { resolving } = await follow([target()])
    await answer(HEALTH, [entry({ Kind: 'terminating-gateway', Service: 'gw', Connect: {} })])
    const [found] = await resolving
    assert.deepEqual([found?.identity.service, found?.serverName], ['web', 'web.sni'])
  })

  const none = { dc: undefined, ns: undefined, partition: undefined }
  const scopes: [rule: string, fields: object, namespace: string | undefined, query: object][] = [
    ['names no default scope, which Consul Community Edition rejects', {}, undefined, none],
    ['names another datacenter', { Datacenter: 'dc2' }, undefined, { ...none, dc: 'dc2' }],
    [
      'names another scope',
      { Namespace: 'n', Partition: 'p' },
      undefined,
      { ...none, ns: 'n', partition: 'p' },
    ],
    ['names the default namespace if another one is configured', {}, 'm', { ...none, ns: 'default' }],
  ]
  for (const [rule, fields, namespace, query] of scopes) {
    it(`${rule} in the lookup of its instances`, async () => {
      const { agent, follow } = start({}, namespace === undefined ? {} : { namespace })
      await follow([target(fields)])
      const { dc, ns, partition } = agent.last(HEALTH).request.query!
      assert.deepEqual({ dc, ns, partition }, query)
    })
  }

  it('is named in the error if its subset has no instance', async () => {
    const { follow, answer } = start()
    const fields = { ServiceSubset: 'v1', Subset: { Filter: 'a == 1' } }
    const { resolving } = await follow([target(fields)])
    await answer(HEALTH, [])
    await answer(HEALTH, [entry()])
    const { reason, message } = await dialError(resolving)
    assert.equal(reason, 'no-match')
    assert.equal(
      message,
      'dial web: web (subset v1): none of its 1 instances passes the filter of the subset (a == 1)',
    )
  })

  it('is where the caller said if the agent leaves out the datacenter', async () => {
    const { agent, follow, answer } = start({ datacenter: 'dc2' })
    const { resolving } = await follow([target({ Datacenter: undefined })])
    assert.equal(agent.last(HEALTH).request.query?.['dc'], 'dc2')
    await answer(HEALTH, [entry()])
    assert.equal((await resolving)[0]?.identity.datacenter, 'dc2')
  })

  it('is refused in a cluster peer', async () => {
    const { agent, follow } = start()
    const { resolving } = await follow([target({ Peer: 'east', Datacenter: '', SNI: '' })])
    const { code, message } = await dialError(resolving)
    // A service of the same name in our own cluster is another one.
    assert.equal(agent.count(HEALTH), 0)
    assert.equal(code, 'ERR_CONNECT_CLUSTER_PEER')
    assert.equal(
      message,
      'dial web: web in the cluster peer east cannot be dialed: cluster peering is not supported',
    )
  })
})

describe('The targets of a chain', () => {
  it('are groups in failover order, the first one with a healthy instance and all that are known', async () => {
    const { follow, answer, resolve } = start()
    const { resolving } = await follow([target(), AT_DC2, AT_SPARE])
    await answer(HEALTH, [entry({}, { status: 'critical' })], { dc: undefined })
    await answer(HEALTH, [AT_DC2_ENTRY], { dc: 'dc2' })
    const list = await resolving
    assert.deepEqual(places(list), [[81, 1]])
    assert.deepEqual([list[0]?.identity.datacenter, list[0]?.serverName], ['dc2', 'web.dc2.sni'])
    // The same list while nothing changes.
    assert.equal(await resolve(), list)
    await answer(SPARE, [SPARE_ENTRY])
    await answer(HEALTH, [entry()], { dc: undefined }, 2)
    const all = await resolve()
    assert.deepEqual(places(all), [
      [80, undefined],
      [81, 1],
      [82, 2],
    ])
    assert.equal(await resolve(), all)
  })

  it('carry the connect timeout and the load balancer of the chain', async () => {
    const { follow, answer } = start()
    const details = { node: { LoadBalancer: { Policy: 'random' } }, resolver: { ConnectTimeout: '1s' } }
    const { resolving } = await follow([target()], details)
    await answer(HEALTH, [entry()])
    const ringSize = { least: undefined, greatest: undefined }
    const loadBalancer = { policy: 'random', choiceCount: undefined, ringSize, hashPolicies: [] }
    assert.deepEqual(dialPolicyOf(await resolving), { connectTimeoutMs: 1_000, loadBalancer })
  })

  it('are used without one that cannot be read', async () => {
    const { follow, fail, answer, resolver } = start()
    const { resolving } = await follow([target(), AT_SPARE])
    await fail(HEALTH, FORBIDDEN)
    await answer(SPARE, [SPARE_ENTRY])
    assert.deepEqual(places(await resolving), [[82, 1]])
    assert.equal(resolver.lastError, FORBIDDEN)
    assert.equal(resolver.isEmpty, false)
  })

  it('wait half a second for the answer about an earlier one, and then no more', async () => {
    const { clock, follow, answer, resolve } = start()
    const { resolving } = await follow([AT_DC2, AT_SPARE])
    await answer(SPARE, [SPARE_ENTRY])
    await clock.advance(499)
    assert.equal(clock.pending, 1)
    await clock.advance(1)
    assert.deepEqual(places(await resolving), [[82, 1]])
    const again = resolve()
    await settle()
    await clock.advance(1)
    assert.deepEqual(places(await again), [[82, 1]])
    // The first one is used as soon as it answers.
    await answer(HEALTH, [AT_DC2_ENTRY])
    assert.deepEqual(places(await resolve()), [
      [81, undefined],
      [82, 1],
    ])
    assert.equal(clock.pending, 0)
  })

  it('are read again on refresh without waiting for one that does not answer', async () => {
    const { clock, follow, answer, resolve } = start()
    const { resolving } = await follow([target(), AT_DC2, AT_SPARE])
    await answer(HEALTH, [entry()], { dc: undefined })
    await answer(SPARE, [SPARE_ENTRY])
    await resolving
    const refreshing = resolve({ refresh: true })
    await settle()
    await clock.advance(500)
    assert.deepEqual(places(await refreshing), [
      [80, undefined],
      [82, 2],
    ])
  })

  it('are all named in the error if none has an instance', async () => {
    const { follow, fail, answer } = start()
    const { resolving } = await follow([target(), AT_SPARE])
    await fail(HEALTH, FORBIDDEN)
    await answer(SPARE, [entry({ Service: 'spare' }, { status: 'critical' })])
    const { code, cause, message } = await dialError(resolving)
    assert.deepEqual([code, cause], ['ERR_CONNECT_NO_INSTANCES', FORBIDDEN])
    assert.match(message, /^dial web: web: ERR_.*FORBIDDEN; spare: none of its instances is passing: id/)
  })

  it('are awaited while the agent is away, without a busy loop', async () => {
    const { agent, clock, resolve, resolver, fail, answer } = start()
    const resolving = resolve()
    await fail(CHAIN, AWAY)
    assert.equal(resolver.lastError, AWAY)
    await clock.advance(1_000)
    await answer(CHAIN, chainOf([target(), AT_SPARE]))
    // The first target has no instance, so that the answer for the second one decides.
    await answer(HEALTH, [])
    await fail(SPARE, AWAY)
    assert.equal(agent.count(SPARE), 1)
    await clock.advance(1_000)
    await answer(SPARE, [SPARE_ENTRY])
    assert.deepEqual(places(await resolving), [[82, 1]])
  })

  it('reject with the reason of the signal while the agent is away', async () => {
    const { resolve, answer, fail } = start()
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const aborted = assert.rejects(resolve({ signal: controller.signal }), (error) => error === reason)
    await answer(CHAIN, chainOf([target(), AT_SPARE]))
    await fail(HEALTH, AWAY)
    await fail(SPARE, AWAY)
    controller.abort(reason)
    await aborted
  })

  it('are all read again on refresh; one that fails keeps its known instances', async () => {
    const { agent, clock, follow, answer, fail, resolve } = start()
    const { resolving } = await follow([target(), AT_SPARE])
    await answer(HEALTH, [entry()])
    await answer(SPARE, [SPARE_ENTRY])
    await resolving
    clock.set(clock.now() + 1_000)
    const refreshing = resolve({ refresh: true })
    await settle()
    assert.deepEqual([agent.count(HEALTH), agent.count(SPARE)], [3, 3])
    await fail(SPARE, FORBIDDEN)
    await answer(HEALTH, [], {}, 2)
    assert.deepEqual(places(await refreshing), [[82, 1]])
  })
})

describe('A chain', () => {
  const unsupported = chainOf([target()], { node: { Type: 'x' } })

  it('is read again after a change of the config entries', async () => {
    const { agent, follow, answer, resolve, change } = start()
    const { resolving } = await follow([target()])
    await answer(HEALTH, [entry()])
    await resolving
    await change(5)
    const changed = resolve()
    await answer(CHAIN, chainOf([AT_SPARE]))
    await answer(SPARE, [SPARE_ENTRY])
    assert.deepEqual(places(await changed), [[82, undefined]])
    assert.equal(agent.last(HEALTH).request.signal?.aborted, true)
    await resolve()
    assert.equal(agent.count(CHAIN), 2)
  })

  it('is read again after stop(), since no change is seen in the meantime', async () => {
    const { agent, follow, answer, answerEntries, resolver, resolve } = start()
    const { resolving } = await follow([target()])
    await answer(HEALTH, [entry()])
    await resolving
    resolver.stop()
    void resolve()
    await answerEntries()
    assert.equal(agent.count(CHAIN), 2)
  })

  it('keeps its list and its watch if it is the same', async () => {
    const { agent, follow, answer, resolve, change } = start()
    const { resolving } = await follow([target()])
    await answer(HEALTH, [entry()])
    const list = await resolving
    await change(5)
    const again = resolve()
    await answer(CHAIN, chainOf([target()]))
    assert.equal(await again, list)
    assert.equal(agent.count(HEALTH), 2)
  })

  for (const [rule, seconds, lastContactMs, isFiltered] of [
    ['300 s if it is of the leader, and all changes are seen', 300, 0, false],
    ['10 s if it is of a server that may lag behind the leader', 10, 20, false],
    ['10 s if the token may not read all config entries', 10, 0, true],
  ] as const) {
    it(`is cached for ${rule}`, async () => {
      const { agent, clock, answer, answerEntries, resolve } = start({}, { isFiltered })
      const resolving = resolve()
      await answerEntries()
      agent.last(CHAIN).answer({ body: chainOf([target()]), lastContactMs })
      await answer(HEALTH, [entry()])
      await resolving
      clock.set(clock.now() + seconds * 1_000 - 1)
      await resolve()
      assert.equal(agent.count(CHAIN), 1)
      clock.set(clock.now() + 1)
      void resolve()
      await settle()
      assert.equal(agent.count(CHAIN), 2)
    })
  }

  for (const targets of [[target()], [target(), AT_DC2]]) {
    it(`may change while a caller waits for ${targets.length} of its targets`, async () => {
      const { follow, answer, fail, resolve, change } = start()
      const { resolving } = await follow(targets)
      await fail(HEALTH, AWAY, { dc: undefined })
      if (targets.length > 1) await fail(HEALTH, AWAY, { dc: 'dc2' })
      await change(5)
      const changed = resolve()
      await answer(CHAIN, chainOf([AT_SPARE]))
      await answer(SPARE, [SPARE_ENTRY])
      assert.deepEqual(places(await changed), [[82, undefined]])
      assert.deepEqual(places(await resolving), [[82, undefined]])
    })
  }

  it('stays in use, with a report, when its successor cannot be followed or read', async () => {
    const { clock, follow, answer, fail, resolve, change, warnings } = start()
    const { resolving } = await follow([target()])
    await answer(HEALTH, [entry()])
    const list = await resolving
    await change(5)
    const unfollowed = resolve()
    await answer(CHAIN, unsupported)
    assert.equal(await unfollowed, list)
    assert.deepEqual(
      warnings.map((error) => error instanceof DialError && error.code),
      ['ERR_CONNECT_CHAIN'],
    )
    clock.set(clock.now() + 10_000)
    const unread = resolve()
    await fail(CHAIN, FORBIDDEN)
    assert.equal(await unread, list)
    assert.equal(warnings[1], FORBIDDEN)
    // No answer is no report.
    clock.set(clock.now() + 10_000)
    const away = resolve()
    await fail(CHAIN, AWAY)
    assert.equal(await away, list)
    assert.equal(warnings.length, 2)
  })

  it('rejects the first caller if it cannot be followed or read', async () => {
    const { clock, resolve, answer, fail } = start()
    const unfollowed = dialError(resolve())
    await answer(CHAIN, unsupported)
    assert.equal((await unfollowed).code, 'ERR_CONNECT_CHAIN')
    clock.set(clock.now() + 100)
    const unread = assert.rejects(resolve(), (error) => error === FORBIDDEN)
    await fail(CHAIN, FORBIDDEN)
    await unread
  })

  it('stays in use when the endpoint is missing for a moment', async () => {
    const { clock, follow, answer, fail, resolve, warnings } = start()
    const { resolving } = await follow([AT_SPARE])
    await answer(SPARE, [SPARE_ENTRY])
    const list = await resolving
    clock.set(clock.now() + 10_000)
    const again = resolve()
    await fail(CHAIN, agentError('ERR_CONNECT_AGENT_NOT_FOUND', 404))
    assert.equal(await again, list)
    assert.equal(warnings.length, 1)
  })

  it('is read after half a second although a list of config entries has no answer', async () => {
    const { agent, clock, resolve } = start()
    void resolve().catch(() => undefined)
    await settle()
    await clock.advance(499)
    assert.equal(agent.count(CHAIN), 0)
    await clock.advance(1)
    assert.equal(agent.count(CHAIN), 1)
  })

  it('is not needed: without the endpoint, a service leads to itself', async () => {
    const { resolve, answer, fail } = start({ datacenter: 'dc2', meshGateway: 'remote' })
    const resolving = resolve()
    await fail(CHAIN, agentError('ERR_CONNECT_AGENT_NOT_FOUND', 404))
    await answer(HEALTH, [AT_DC2_ENTRY], { dc: 'dc2' })
    await answer(GATEWAYS, { dc2: [gateway('dc2')] })
    const [found] = await resolving
    assert.deepEqual([found?.host, found?.identity.datacenter], ['wan.dc2', 'dc2'])
  })

  it('shares the watch of its instances with other chains until the last one ends', async () => {
    const { agent, follow, answer, resolver, newResolver } = start()
    const published: string[][] = []
    const onResolution = (message: unknown): void => {
      published.push([...(message as ResolutionMessage).addresses])
    }
    const { resolving } = await follow([target()])
    const other = newResolver()
    const { signal } = new AbortController()
    const otherResolving = other.resolve({ signal, datacenter: 'dc1', refresh: false })
    await answer(CHAIN, chainOf([target()]))
    await answer(HEALTH, [entry()])
    await Promise.all([resolving, otherResolving])
    assert.equal(agent.count(HEALTH), 2)
    resolver.close()
    assert.equal(agent.last(HEALTH).request.signal?.aborted, false)
    assert.equal(agent.last('/v1/config/service-resolver').request.signal?.aborted, false)
    subscribe('consul-connect:resolution', onResolution)
    await answer(HEALTH, [entry({ Port: 9 })], {}, 2)
    unsubscribe('consul-connect:resolution', onResolution)
    assert.deepEqual(published, [['10.0.0.1:9']])
    other.close()
    assert.equal(agent.last(HEALTH).request.signal?.aborted, true)
    assert.equal(agent.last('/v1/config/service-resolver').request.signal?.aborted, true)
  })
})

describe('A target behind mesh gateways', () => {
  const lists = { dc1: [gateway('dc1')], dc2: [gateway('dc2'), gateway('dc2', 'critical')] }
  const modes: [mode: string, datacenter: string, hosts: [host: string, port: number]][] = [
    ['none', 'dc2', ['10.0.0.1', 80]],
    ['local', 'dc2', ['lan.dc1', 80]],
    ['remote', 'dc2', ['wan.dc2', 443]],
    ['local', 'dc1', ['10.0.0.1', 80]],
    ['remote', 'dc1', ['10.0.0.1', 80]],
  ]
  const remote = { ...AT_DC2, MeshGateway: { Mode: 'remote' } }

  for (const [Mode, Datacenter, [host, port]] of modes) {
    it(`is reached at ${host}:${port} with the mode ${Mode} in ${Datacenter}`, async () => {
      const { agent, follow, answer, resolve } = start()
      const { resolving } = await follow([target({ Datacenter, MeshGateway: { Mode } })])
      await answer(HEALTH, [entry({}, { datacenter: Datacenter })])
      if (host !== '10.0.0.1') await answer(GATEWAYS, lists)
      const list = await resolving
      assert.deepEqual(
        list.map((each) => [each.host, each.port, each.identity.datacenter, each.serverName]),
        [[host, port, Datacenter, 'web.sni']],
      )
      assert.equal(await resolve(), list)
      assert.equal(agent.count(GATEWAYS), host === '10.0.0.1' ? 0 : 2)
    })
  }

  it('is not reached through them without a healthy instance', async () => {
    const { agent, follow, answer } = start()
    const { resolving } = await follow([remote, AT_SPARE])
    await answer(HEALTH, [entry({}, { datacenter: 'dc2', status: 'critical' })])
    await answer(SPARE, [SPARE_ENTRY])
    assert.deepEqual(places(await resolving), [[82, 1]])
    assert.equal(agent.count(GATEWAYS), 0)
  })

  for (const [rule, listed] of [
    ['the list is empty', { dc2: [] }],
    ['the list cannot be read', FORBIDDEN],
  ] as const) {
    it(`is reached through those of the service mesh-gateway if ${rule}`, async () => {
      const { agent, clock, follow, answer, fail, resolve } = start()
      const { resolving } = await follow([remote])
      await answer(HEALTH, [AT_DC2_ENTRY])
      if (listed instanceof Error) await fail(GATEWAYS, listed)
      else await answer(GATEWAYS, listed)
      await answer(GATEWAY_SERVICE, [gateway('dc2')], { dc: 'dc2' })
      const list = await resolving
      assert.equal(list[0]?.host, 'wan.dc2')
      clock.set(clock.now() + 9_999)
      const again = resolve()
      if (listed instanceof Error) await fail(GATEWAYS, listed)
      assert.equal(await again, list)
      assert.equal(agent.count(GATEWAY_SERVICE), 1)
    })
  }

  it('is known by them once they were found by name', async () => {
    const { follow, answer, resolve } = start()
    const { resolving } = await follow([target(), remote])
    await answer(HEALTH, [], { dc: undefined })
    await answer(HEALTH, [AT_DC2_ENTRY], { dc: 'dc2' })
    await answer(GATEWAYS, { dc2: [] })
    await answer(GATEWAY_SERVICE, [gateway('dc2')])
    assert.deepEqual(places(await resolving), [[443, 1]])
    await answer(HEALTH, [entry()], { dc: undefined }, 2)
    assert.deepEqual(places(await resolve()), [
      [80, undefined],
      [443, 1],
    ])
  })

  it('does not change the list while it is not needed and its gateways are unknown', async () => {
    const { follow, answer, resolve } = start()
    const { resolving } = await follow([target(), remote])
    await answer(HEALTH, [entry()], { dc: undefined })
    await answer(HEALTH, [AT_DC2_ENTRY], { dc: 'dc2' })
    await resolving
    const list = await resolve()
    assert.deepEqual(places(list), [[80, undefined]])
    assert.equal(await resolve(), list)
  })

  for (const [what, upstream, fields, code] of [
    ['with tags', { tags: ['a'] }, {}, 'ERR_CONNECT_GATEWAY'],
    ['with a filter', { filter: 'a == 1' }, {}, 'ERR_CONNECT_GATEWAY'],
    ['by a server name that is too long', {}, { SNI: 'a'.repeat(256) }, 'ERR_CONNECT_CHAIN'],
  ] as const) {
    it(`cannot be dialed ${what}`, async () => {
      const { follow, answer } = start(upstream)
      const { resolving } = await follow([
        target({ Datacenter: 'dc2', MeshGateway: { Mode: 'local' }, ...fields }),
      ])
      await answer(HEALTH, [entry({ Tags: ['a'] }, { datacenter: 'dc2' })])
      assert.equal((await dialError(resolving)).code, code)
    })
  }

  it('follows the mode of the caller, unless the service is external', async () => {
    for (const [External, host] of [
      [undefined, 'lan.dc1'],
      [true, '10.0.0.1'],
    ] as const) {
      const { follow, answer } = start({ meshGateway: 'local' })
      const { resolving } = await follow([target({ Datacenter: 'dc2', External })])
      await answer(HEALTH, [entry({}, { datacenter: 'dc2' })])
      if (External === undefined) await answer(GATEWAYS, { dc1: [gateway('dc1')] })
      assert.equal((await resolving)[0]?.host, host)
    }
  })

  it('is passed over while the lookup of its gateways fails', async () => {
    const { follow, answer, fail } = start()
    const { resolving } = await follow([
      target({ Datacenter: 'dc2', MeshGateway: { Mode: 'remote' } }),
      AT_SPARE,
    ])
    await answer(HEALTH, [AT_DC2_ENTRY])
    await answer(SPARE, [SPARE_ENTRY])
    await answer(GATEWAYS, {})
    await fail(GATEWAY_SERVICE, FORBIDDEN)
    assert.deepEqual(places(await resolving), [[82, 1]])
  })

  it('cannot be dialed if none of them is healthy', async () => {
    const { follow, answer } = start()
    const { resolving } = await follow([remote])
    await answer(HEALTH, [AT_DC2_ENTRY])
    await answer(GATEWAYS, {})
    await answer(GATEWAY_SERVICE, [gateway('dc2', 'critical')])
    const { code, message } = await dialError(resolving)
    assert.equal(code, 'ERR_CONNECT_GATEWAY')
    assert.equal(
      message,
      'dial web: web in dc2 is reached through the mesh gateways of dc2, and none of them is healthy',
    )
  })
})

describe('A chain with a router', () => {
  const routed = (splits: string[]): object => ({
    Chain: {
      ServiceName: 'web',
      Protocol: 'http',
      StartNode: 'start',
      Nodes: {
        start: { Type: 'router', Routes: [{ NextNode: 'split' }] },
        split: {
          Type: 'splitter',
          Splits: splits.map((NextNode) => ({ Weight: 100 / splits.length, NextNode })),
        },
        web: { Type: 'resolver', Resolver: { Target: 't0' } },
        spare: { Type: 'resolver', Resolver: { Target: 't1' } },
      },
      Targets: { t0: target(), t1: AT_SPARE },
    },
  })
  const request = { signal: new AbortController().signal, datacenter: 'dc1', refresh: false }

  it('has a chain of its own for connections', async () => {
    const { agent, answer, resolve } = start()
    const resolving = resolve()
    await answer(CHAIN, routed(['spare']))
    assert.equal(agent.last(CHAIN).request.method, 'POST')
    await answer(CHAIN, chainOf([target()]))
    await answer(HEALTH, [entry()])
    assert.deepEqual(places(await resolving), [[80, undefined]])
  })

  it('leads along its legs, which stay the same while it leads there', async () => {
    const { agent, clock, answer, change, resolver } = start()
    const reading = resolver.readChain(request.signal)
    await answer(CHAIN, routed(['web', 'spare']))
    const { routes } = await reading
    assert.deepEqual([...(routes?.legs.keys() ?? [])], ['web', 'spare'])
    const spare = resolver.legUpstream('spare')
    assert.equal(spare.resolver.known?.(), undefined)
    const resolving = spare.resolver.resolve(request)
    await answer(SPARE, [SPARE_ENTRY])
    assert.deepEqual(places(await resolving), [[82, undefined]])
    assert.equal(spare.resolver.known?.(), await spare.resolver.resolve(request))

    await change(5)
    assert.equal(resolver.chain(), undefined)
    const again = resolver.readChain(request.signal)
    await answer(CHAIN, routed(['web', 'spare']))
    await again
    assert.equal(resolver.legUpstream('spare'), spare)

    await change(6)
    // Further changes are followed within a second.
    await clock.advance(1_000)
    const without = resolver.readChain(request.signal)
    await answer(CHAIN, routed(['web']))
    await without
    assert.equal(agent.last(SPARE).request.signal?.aborted, true)
    await assert.rejects(async () => spare.resolver.resolve(request), { code: 'ERR_CONNECT_CHAIN' })
    assert.notEqual(resolver.legUpstream('spare'), spare)
  })

  it('keeps its legs when an older answer comes after a change', async () => {
    const { agent, clock, answer, change, resolver } = start()
    const reading = resolver.readChain(request.signal)
    await answer(CHAIN, routed(['web', 'spare']))
    await reading
    const spare = resolver.legUpstream('spare')
    await change(5)
    await clock.advance(900)
    const older = resolver.readChain(request.signal)
    await settle()
    const late = agent.last(CHAIN)
    await change(6)
    // Further changes are followed a second after the last one.
    await clock.advance(100)
    const newer = resolver.readChain(request.signal)
    await answer(CHAIN, routed(['web', 'spare']))
    await newer
    late.answer({ body: routed(['web']) })
    await older
    assert.equal(resolver.legUpstream('spare'), spare)
  })

  it('is reported once for each part that is left out', async () => {
    const { answer, change, follow, resolve, warnings } = start()
    const details = { node: { LoadBalancer: { Policy: 'random', Future: 1 } } }
    await follow([target()], details)
    await change(5)
    void resolve().catch(() => undefined)
    await answer(CHAIN, chainOf([target()], details))
    assert.deepEqual(
      warnings.map(({ message }) => message),
      [
        'dial web: a part of its discovery chain is left out: Chain.Nodes["start"].LoadBalancer.Future is not supported',
      ],
    )
  })
})
