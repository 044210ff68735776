import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ResolverNode } from '../../src/agent/endpoints/chain-nodes.js'
import type { LoadBalancer } from '../../src/agent/endpoints/chain-load-balancer.js'
import {
  type ChainTarget,
  type CompiledChain,
  type MeshGatewayMode,
  fetchBytesChain,
  fetchChain,
  isForRequests,
  parseChain,
} from '../../src/agent/endpoints/chain.js'
import { fetchEntryVersions, parseEntryVersions } from '../../src/agent/endpoints/config-entries.js'
import { parseMeshGateways } from '../../src/agent/endpoints/health.js'
import {
  fetchGatewayService,
  fetchMeshGateways,
  parseGatewaysByDatacenter,
} from '../../src/agent/endpoints/mesh-gateways.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { NO_OBJECT, bend, refuses, refusesValues } from '../fixtures/malformed.js'

const DOMAIN_1_8 = 'b300e1cb-5b9d-4b0d-0e76-48223df47bec.consul'
const DOMAIN_1_14 = 'be9e7cdb-8238-1e7d-ce2f-fe47a6ddc497.consul'
const FILTER = 'Service.Meta.v == 1'

/** The answer of Consul 1.8.7 for the default subset of a service with a failover, with the protocol tcp. */
const CONSUL_1_8 = {
  Chain: {
    ServiceName: 'api',
    Namespace: 'default',
    Datacenter: 'dc1',
    CustomizationHash: '96f2c150',
    Protocol: 'tcp',
    StartNode: 'resolver:v1.api.default.dc1',
    Nodes: {
      'resolver:v1.api.default.dc1': {
        Type: 'resolver',
        Name: 'v1.api.default.dc1',
        Resolver: {
          ConnectTimeout: '1.5s',
          Target: 'v1.api.default.dc1',
          Failover: { Targets: ['spare.default.dc1'] },
        },
      },
    },
    Targets: {
      'spare.default.dc1': {
        ID: 'spare.default.dc1',
        Service: 'spare',
        Namespace: 'default',
        Datacenter: 'dc1',
        MeshGateway: {},
        Subset: {},
        SNI: `spare.default.dc1.internal.${DOMAIN_1_8}`,
        Name: `spare.default.dc1.internal.${DOMAIN_1_8}`,
      },
      'v1.api.default.dc1': {
        ID: 'v1.api.default.dc1',
        Service: 'api',
        ServiceSubset: 'v1',
        Namespace: 'default',
        Datacenter: 'dc1',
        MeshGateway: {},
        Subset: { Filter: FILTER, OnlyPassing: true },
        SNI: `v1.api.default.dc1.internal.${DOMAIN_1_8}`,
        Name: `v1.api.default.dc1.internal.${DOMAIN_1_8}`,
      },
    },
  },
}

/** The answer of Consul 1.14.11, which names partitions, applies the gateway mode, and has load balancers. */
const CONSUL_1_14 = {
  Chain: {
    ServiceName: 'api',
    Namespace: 'default',
    Partition: 'default',
    Datacenter: 'dc1',
    CustomizationHash: '96f2c150',
    Protocol: 'tcp',
    StartNode: 'resolver:v1.api.default.default.dc1',
    Nodes: {
      'resolver:v1.api.default.default.dc1': {
        Type: 'resolver',
        Name: 'v1.api.default.default.dc1',
        Resolver: {
          ConnectTimeout: '1.5s',
          Target: 'v1.api.default.default.dc1',
          Failover: { Targets: ['spare.default.default.dc1'] },
        },
        LoadBalancer: { Policy: 'least_request', LeastRequestConfig: { ChoiceCount: 3 } },
      },
    },
    Targets: {
      'spare.default.default.dc1': {
        ConnectTimeout: '5s',
        ID: 'spare.default.default.dc1',
        Service: 'spare',
        Namespace: 'default',
        Partition: 'default',
        Datacenter: 'dc1',
        MeshGateway: { Mode: 'local' },
        Subset: {},
        TransparentProxy: {},
        SNI: `spare.default.dc1.internal.${DOMAIN_1_14}`,
        Name: `spare.default.dc1.internal.${DOMAIN_1_14}`,
      },
      'v1.api.default.default.dc1': {
        ConnectTimeout: '1.5s',
        ID: 'v1.api.default.default.dc1',
        Service: 'api',
        ServiceSubset: 'v1',
        Namespace: 'default',
        Partition: 'default',
        Datacenter: 'dc1',
        MeshGateway: { Mode: 'local' },
        Subset: { Filter: FILTER, OnlyPassing: true },
        TransparentProxy: {},
        SNI: `v1.api.default.dc1.internal.${DOMAIN_1_14}`,
        Name: `v1.api.default.dc1.internal.${DOMAIN_1_14}`,
      },
    },
  },
}

/** A load balancer without details. */
const NO_CHOICES: Omit<LoadBalancer, 'policy'> = {
  choiceCount: undefined,
  ringSize: { least: undefined, greatest: undefined },
  hashPolicies: [],
}

const NODE = 'Chain.Nodes["resolver:v1.api.default.default.dc1"]'
const TARGET = 'Chain.Targets["v1.api.default.default.dc1"]'

function resolverOf({ nodes, startNode }: CompiledChain): ResolverNode {
  const node = nodes.get(startNode)
  assert.ok(node?.type === 'resolver')
  return node
}

/** The first target of the answer of Consul 1.14.11, with another value at a place. */
function targetWith(place: string, value: unknown): ChainTarget {
  return parseChain(bend(CONSUL_1_14, `${TARGET}.${place}`, value)).targets.get('v1.api.default.default.dc1')!
}

describe('parseChain', () => {
  const spare = {
    service: 'spare',
    datacenter: 'dc1',
    namespace: 'default',
    subset: undefined,
    peer: undefined,
    filter: undefined,
    onlyPassing: false,
    isExternal: false,
  }
  const first = { ...spare, service: 'api', subset: 'v1', filter: FILTER, onlyPassing: true }
  const node = { type: 'resolver', connectTimeoutMs: 1_500, requestTimeoutMs: undefined }

  it('reads an answer of Consul 1.8.7', () => {
    const more = { partition: undefined, gatewayMode: 'none' }
    assert.deepEqual(parseChain(CONSUL_1_8), {
      service: 'api',
      protocol: 'tcp',
      startNode: 'resolver:v1.api.default.dc1',
      nodes: new Map([
        [
          'resolver:v1.api.default.dc1',
          { ...node, target: 'v1.api.default.dc1', failover: ['spare.default.dc1'], loadBalancer: undefined },
        ],
      ]),
      targets: new Map([
        ['spare.default.dc1', { ...spare, ...more, serverName: `spare.default.dc1.internal.${DOMAIN_1_8}` }],
        [
          'v1.api.default.dc1',
          { ...first, ...more, serverName: `v1.api.default.dc1.internal.${DOMAIN_1_8}` },
        ],
      ]),
      ignored: [],
    })
  })

  it('reads an answer of Consul 1.14.11', () => {
    const [id, spareId] = ['v1.api.default.default.dc1', 'spare.default.default.dc1']
    const more = { partition: 'default', gatewayMode: 'local' }
    const loadBalancer = { ...NO_CHOICES, policy: 'least_request', choiceCount: 3 }
    assert.deepEqual(parseChain(CONSUL_1_14), {
      service: 'api',
      protocol: 'tcp',
      startNode: `resolver:${id}`,
      nodes: new Map([[`resolver:${id}`, { ...node, target: id, failover: [spareId], loadBalancer }]]),
      targets: new Map([
        [spareId, { ...spare, ...more, serverName: `spare.default.dc1.internal.${DOMAIN_1_14}` }],
        [id, { ...first, ...more, serverName: `v1.api.default.dc1.internal.${DOMAIN_1_14}` }],
      ]),
      ignored: [],
    })
  })

  it('reads routers and splitters without routes and splits, and unknown types without their details', () => {
    const Nodes = {
      a: { Type: 'router' },
      b: { Type: 'splitter', Splits: null },
      c: { Type: 'x', Routes: 5 },
    }
    assert.deepEqual(
      [...parseChain(bend(CONSUL_1_14, 'Chain.Nodes', Nodes)).nodes],
      [
        ['a', { type: 'router', routes: [] }],
        ['b', { type: 'splitter', splits: [], loadBalancer: undefined }],
        ['c', { type: 'unknown', name: 'x' }],
      ],
    )
  })

  it('reads a chain without nodes and targets, and the protocol in lower case', () => {
    for (const [Protocol, protocol] of [
      [undefined, 'tcp'],
      ['', 'tcp'],
      ['HTTP2', 'http2'],
    ]) {
      assert.deepEqual(parseChain({ Chain: { ServiceName: 'a', StartNode: 'b', Protocol, Nodes: null } }), {
        service: 'a',
        protocol,
        startNode: 'b',
        nodes: new Map(),
        targets: new Map(),
        ignored: [],
      })
    }
  })

  const durations: [value: unknown, ms: number][] = [
    ['250ms', 250],
    ['1m30s', 90_000],
    [7_000_000_000, 7_000],
    // The default of Consul is 5 s.
    [undefined, 5_000],
    [null, 5_000],
    ['', 5_000],
    ['0s', 5_000],
    [0, 5_000],
  ]
  for (const [value, ms] of durations) {
    it(`reads the connect timeout ${JSON.stringify(value)} as ${ms} ms`, () => {
      const chain = parseChain(bend(CONSUL_1_14, `${NODE}.Resolver.ConnectTimeout`, value))
      assert.equal(resolverOf(chain).connectTimeoutMs, ms)
    })
  }

  const balancers: [value: unknown, expected: ResolverNode['loadBalancer']][] = [
    [null, undefined],
    [{}, undefined],
    [{ Policy: '', LeastRequestConfig: { ChoiceCount: 3 } }, undefined],
    [{ Policy: 'maglev' }, { ...NO_CHOICES, policy: 'maglev' }],
    [
      { Policy: 'ring_hash', RingHashConfig: { MinimumRingSize: 0, MaximumRingSize: 8 } },
      { ...NO_CHOICES, policy: 'ring_hash', ringSize: { least: undefined, greatest: 8 } },
    ],
    // 0 means the default.
    [
      { Policy: 'least_request', LeastRequestConfig: { ChoiceCount: 0 } },
      { ...NO_CHOICES, policy: 'least_request' },
    ],
  ]
  for (const [value, expected] of balancers) {
    it(`reads the load balancer ${JSON.stringify(value)}`, () => {
      const chain = parseChain(bend(CONSUL_1_14, `${NODE}.LoadBalancer`, value))
      assert.deepEqual(resolverOf(chain).loadBalancer, expected)
    })
  }

  const modes: [value: unknown, mode: MeshGatewayMode][] = [
    [undefined, 'none'],
    [null, 'none'],
    [{}, 'none'],
    [{ Mode: '' }, 'none'],
    [{ Mode: 'none' }, 'none'],
    [{ Mode: 'local' }, 'local'],
    [{ Mode: 'remote' }, 'remote'],
  ]
  for (const [value, mode] of modes) {
    it(`reads the mesh gateway ${JSON.stringify(value)} as ${mode}`, () => {
      assert.equal(targetWith('MeshGateway', value).gatewayMode, mode)
    })
  }

  it('reads the cluster peer of a target, and a resolver without failover', () => {
    assert.equal(targetWith('Peer', 'east').peer, 'east')
    for (const value of [undefined, null, {}, { Targets: null }]) {
      const chain = parseChain(bend(CONSUL_1_14, `${NODE}.Resolver.Failover`, value))
      assert.deepEqual(resolverOf(chain).failover, [])
    }
  })

  refuses(parseChain, NO_OBJECT)
  refusesValues(parseChain, CONSUL_1_14, [
    ['Chain', null, 'expected an object, got null'],
    ['Chain.ServiceName', '', 'expected a non-empty string, got a string'],
    ['Chain.Protocol', 5, 'expected a string, got a number'],
    ['Chain.StartNode', undefined, 'expected a non-empty string, got nothing'],
    ['Chain.Nodes', [], 'expected an object, got an array'],
    [NODE, null, 'expected an object, got null'],
    [`${NODE}.Type`, undefined, 'expected a string, got nothing'],
    [`${NODE}.Resolver`, undefined, 'expected an object, got nothing'],
    [`${NODE}.Resolver.Target`, '', 'expected a non-empty string, got a string'],
    [`${NODE}.Resolver.Failover`, [], 'expected an object, got an array'],
    [`${NODE}.Resolver.Failover.Targets`, {}, 'expected an array, got an object'],
    [`${NODE}.Resolver.Failover.Targets[0]`, '', 'expected a non-empty string, got a string'],
    [`${NODE}.Resolver.ConnectTimeout`, 'x', 'expected a duration such as "5s", got a string'],
    [`${NODE}.Resolver.ConnectTimeout`, '-1s', 'expected a duration such as "5s", got a string'],
    [`${NODE}.Resolver.ConnectTimeout`, -1, 'expected a duration such as "5s", got a number'],
    [`${NODE}.Resolver.ConnectTimeout`, true, 'expected a string, got a boolean'],
    [`${NODE}.LoadBalancer`, 'random', 'expected an object, got a string'],
    [`${NODE}.LoadBalancer.Policy`, 5, 'expected a string, got a number'],
    [`${NODE}.LoadBalancer.LeastRequestConfig`, 5, 'expected an object, got a number'],
    [`${NODE}.LoadBalancer.LeastRequestConfig.ChoiceCount`, 0.5, 'expected a whole number, got a number'],
    [
      `${NODE}.LoadBalancer.LeastRequestConfig.ChoiceCount`,
      -1,
      'expected a whole number of 0 or more, got a number',
    ],
    ['Chain.Targets', 'x', 'expected an object, got a string'],
    [TARGET, [], 'expected an object, got an array'],
    [`${TARGET}.Service`, undefined, 'expected a non-empty string, got nothing'],
    [`${TARGET}.ServiceSubset`, 5, 'expected a string, got a number'],
    [`${TARGET}.Datacenter`, {}, 'expected a string, got an object'],
    [`${TARGET}.Namespace`, 5, 'expected a string, got a number'],
    [`${TARGET}.Partition`, 5, 'expected a string, got a number'],
    [`${TARGET}.Peer`, true, 'expected a string, got a boolean'],
    [`${TARGET}.SNI`, 5, 'expected a string, got a number'],
    [`${TARGET}.Subset`, 'v1', 'expected an object, got a string'],
    [`${TARGET}.Subset.Filter`, 5, 'expected a string, got a number'],
    [`${TARGET}.Subset.OnlyPassing`, 'true', 'expected true or false, got a string'],
    [`${TARGET}.MeshGateway`, 'local', 'expected an object, got a string'],
    [`${TARGET}.MeshGateway.Mode`, 'Local', 'expected none, local, or remote, got a string'],
  ])
})

describe('isForRequests', () => {
  for (const [type, expected] of [
    ['router', true],
    ['splitter', true],
    ['resolver', false],
    ['x', false],
  ] as const) {
    it(`is ${expected} for a chain that starts with a node of the type ${type}`, () => {
      const node = { Type: type, ...(type === 'resolver' && { Resolver: { Target: 't' } }) }
      const chain = { ServiceName: 'a', StartNode: 'start', Nodes: { start: node } }
      assert.equal(isForRequests(parseChain({ Chain: chain })), expected)
    })
  }

  it('is false for a chain whose first node is missing', () => {
    assert.equal(isForRequests(parseChain({ Chain: { ServiceName: 'a', StartNode: 'start' } })), false)
  })
})

describe('fetchChain and fetchBytesChain', () => {
  const { signal } = new AbortController()
  const PATH = '/v1/discovery-chain/my%2Fapi'
  const wanted = { service: 'my/api', stale: false }

  const requests: [rule: string, more: Parameters<typeof fetchChain>[1], query: object][] = [
    ['of the scope of the settings', wanted, {}],
    ['from any server', { ...wanted, stale: true }, { stale: true }],
    [
      'of the scope of the upstream',
      { ...wanted, datacenter: 'dc2', namespace: 'm', partition: 'p' },
      { 'compile-dc': 'dc2', ns: 'm', partition: 'p' },
    ],
  ]
  for (const [rule, more, query] of requests) {
    const expected = {
      path: PATH,
      query: { stale: undefined, 'compile-dc': 'own', ns: 'n', partition: undefined, ...query },
      needs: 'service:read on "my/api"',
      signal,
    }
    it(`reads a chain ${rule}`, () => {
      const agent = new FakeAgent({ datacenter: 'own', namespace: 'n' }, { hasChains: true })
      void fetchChain(agent, more, signal)
      assert.deepEqual(agent.last(PATH).request, expected)
    })

    it(`reads a chain for bytes ${rule}`, () => {
      const agent = new FakeAgent({ datacenter: 'own', namespace: 'n' }, { hasChains: true })
      void fetchBytesChain(agent, more, signal)
      const body = { OverrideProtocol: 'tcp' }
      assert.deepEqual(agent.last(PATH).request, { method: 'POST', ...expected, body })
    })
  }

  for (const fetch of [fetchChain, fetchBytesChain]) {
    it(`returns the chain: ${fetch.name}`, async () => {
      const agent = new FakeAgent({}, { hasChains: true })
      const reading = fetch(agent, wanted, signal)
      agent.last(PATH).answer({ body: CONSUL_1_14 })
      assert.equal((await reading).value.service, 'api')
    })
  }
})

describe('fetchEntryVersions', () => {
  it('reads the name and the last change of each entry', async () => {
    const agent = new FakeAgent({}, { hasChains: true })
    for (const [isFiltered, expected] of [
      [true, true],
      [undefined, false],
    ] as const) {
      const reading = fetchEntryVersions(agent, 'service-resolver', { index: 5, waitMs: 1_000 })
      const { request, answer } = agent.last('/v1/config/service-resolver')
      assert.deepEqual(request.query, { stale: true, index: 5, hash: undefined, wait: '1000ms' })
      const body = [{ Kind: 'service-resolver', Name: 'api', ModifyIndex: 20, Subsets: 5 }, { Name: '' }]
      answer({ body, index: 21, ...(isFiltered !== undefined && { isFiltered }) })
      const { value, index } = await reading
      assert.deepEqual(value, {
        entries: [
          ['api', 20],
          ['', 0],
        ],
        isFiltered: expected,
      })
      assert.equal(index, 21)
    }
  })

  it('reads null as no entries', () => {
    assert.deepEqual(parseEntryVersions(null), [])
  })

  refusesValues(
    parseEntryVersions,
    [{ Name: 'api', ModifyIndex: 20 }],
    [
      ['[0]', 5, 'expected an object, got a number'],
      ['[0].Name', undefined, 'expected a string, got nothing'],
      ['[0].ModifyIndex', '20', 'expected a whole number, got a string'],
    ],
  )
})

describe('The mesh gateways of the agent', () => {
  const node = { Node: 'n', Address: '10.0.0.1', Datacenter: 'dc2' }
  const service = { Kind: 'mesh-gateway', ID: 'gw-1', Service: 'gw', Address: '', Port: 8443, Proxy: {} }
  const wan = { wan: { Address: '203.0.113.1', Port: 443 } }
  const gateway = { Node: node, Service: { ...service, TaggedAddresses: wan }, Checks: [] }
  const instance = {
    id: 'gw-1',
    address: '10.0.0.1',
    port: 8443,
    wan: { address: '203.0.113.1', port: 443 },
    defect: undefined,
    mux: false,
    service: undefined,
    namespace: undefined,
    partition: undefined,
    datacenter: 'dc2',
    tags: [],
    status: 'passing',
    weights: { passing: 1, warning: 1 },
  }

  it('are read by datacenter', () => {
    const body = { dc1: null, dc2: [gateway] }
    assert.deepEqual(
      parseGatewaysByDatacenter(body),
      new Map<string, unknown>([
        ['dc1', []],
        ['dc2', [instance]],
      ]),
    )
    assert.deepEqual(parseGatewaysByDatacenter({}), new Map())
  })

  it('do not contain services and gateways of other kinds', () => {
    const others = [
      { ...service, Kind: 'terminating-gateway' },
      { ...service, Kind: 'connect-proxy', Proxy: { DestinationServiceName: 'api' } },
      { ...service, Kind: '', Connect: { Native: true } },
      { ...service, Kind: '' },
    ]
    const body = [...others.map((Service) => ({ Node: node, Service })), gateway]
    assert.deepEqual(parseMeshGateways(body), [instance])
  })

  it('are requested for all datacenters, or by the name of their service in one', async () => {
    const agent = new FakeAgent({ datacenter: 'own' }, { hasChains: true })
    const { signal } = new AbortController()
    void fetchMeshGateways(agent, { index: 5, waitMs: 1_000, signal })
    const reading = fetchGatewayService(agent, 'my/gw', 'dc2', signal)
    const blocking = { stale: true, index: 5, hash: undefined, wait: '1000ms' }
    assert.deepEqual(
      agent.requests.map(({ request }) => request),
      [
        {
          path: '/v1/internal/federation-states/mesh-gateways',
          query: blocking,
          signal,
          timeoutMs: undefined,
        },
        {
          path: '/v1/health/service/my%2Fgw',
          query: { stale: true, dc: 'dc2' },
          needs: 'service:read on "my/gw" and node:read',
          signal,
        },
      ],
    )
    agent.requests.at(-1)?.answer({ body: [gateway] })
    assert.deepEqual(await reading, [instance])
  })

  refuses(parseGatewaysByDatacenter, NO_OBJECT)
  refusesValues(parseGatewaysByDatacenter, { dc2: [gateway] }, [
    ['["dc2"]', {}, 'expected an array, got an object'],
    ['["dc2"][0].Node.Address', '', 'expected a non-empty string, got a string'],
    ['["dc2"][0].Service.Port', '8443', 'expected a whole number, got a string'],
  ])
})
