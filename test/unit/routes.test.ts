import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type {
  ChainNode,
  HeaderModifiers,
  RouteDefinition,
  Split,
} from '../../src/agent/endpoints/chain-nodes.js'
import type { HashPolicy, LoadBalancer } from '../../src/agent/endpoints/chain-load-balancer.js'
import type { CompiledChain } from '../../src/agent/endpoints/chain.js'
import { type Route, followRoutes } from '../../src/resolve/chain/routes.js'
import { chainTarget } from '../fixtures/chain-target.js'

const NO_CHANGES = { remove: [], set: [], add: [] }
const NO_MODIFIERS: HeaderModifiers = { request: NO_CHANGES, response: NO_CHANGES }
const MODIFIERS: HeaderModifiers = { ...NO_MODIFIERS, request: { ...NO_CHANGES, set: [['x', '1']] } }
const RETRIES = { most: 2, onConnectFailure: true, onStatusCodes: [], on: [] }
const NO_RETRIES = { most: 0, onConnectFailure: false, onStatusCodes: [], on: [] }
const EVERY = { path: undefined, headers: [], query: [], methods: [] }
const POLICY: HashPolicy = { source: 'header', name: 'x-user', terminal: false, newCookie: undefined }
const HASHING: LoadBalancer = {
  policy: 'maglev',
  choiceCount: undefined,
  ringSize: { least: undefined, greatest: undefined },
  hashPolicies: [POLICY],
}

/** A chain that starts with the node `start`. Each resolver has a target of its name. */
function chainOf(nodes: Record<string, ChainNode>, protocol = 'http'): CompiledChain {
  const resolvers = Object.values(nodes).filter((node) => node.type === 'resolver')
  return {
    service: 'web',
    protocol,
    startNode: 'start',
    nodes: new Map(Object.entries(nodes)),
    targets: new Map(resolvers.map((node) => [node.target, chainTarget(node.target)])),
    ignored: [],
  }
}

function resolver(
  name: string,
  more: { loadBalancer?: LoadBalancer; requestTimeoutMs?: number } = {},
): ChainNode {
  return {
    ...{ type: 'resolver', target: name, failover: [], connectTimeoutMs: 7 },
    loadBalancer: more.loadBalancer,
    requestTimeoutMs: more.requestTimeoutMs,
  }
}

function router(...routes: RouteDefinition[]): ChainNode {
  return { type: 'router', routes }
}

function route(next: string, more: Partial<RouteDefinition> = {}): RouteDefinition {
  return {
    match: EVERY,
    prefixRewrite: undefined,
    requestTimeoutMs: undefined,
    idleTimeoutMs: undefined,
    retry: RETRIES,
    headers: NO_MODIFIERS,
    next,
    ...more,
  }
}

function splitter(splits: Split[], loadBalancer?: LoadBalancer): ChainNode {
  return { type: 'splitter', splits, loadBalancer }
}

function split(weight: number, next: string, headers: HeaderModifiers = NO_MODIFIERS): Split {
  return { weight, next, headers }
}

/** Where a resolver of these tests leads. */
function legTo(name: string, loadBalancer?: LoadBalancer): object {
  return { targets: [chainTarget(name)], connectTimeoutMs: 7, loadBalancer }
}

/** The only route that leads everywhere. */
const PLAIN: Omit<Route, 'legs'> = {
  match: EVERY,
  prefixRewrite: undefined,
  requestTimeoutMs: 15_000,
  idleTimeoutMs: Infinity,
  retry: NO_RETRIES,
  headers: NO_MODIFIERS,
  hashPolicies: [],
}

describe('followRoutes', () => {
  it('follows a router to splitters and resolvers', () => {
    const match = { ...EVERY, methods: ['GET'] }
    const first = route('split', {
      match,
      prefixRewrite: '/x',
      requestTimeoutMs: 5,
      idleTimeoutMs: 6,
      headers: MODIFIERS,
    })
    const nodes = {
      start: router(first, route('b')),
      split: splitter([split(33.33, 'a', MODIFIERS), split(66.67, 'b')], HASHING),
      a: resolver('a'),
      b: resolver('b', { requestTimeoutMs: 11, loadBalancer: { ...HASHING, hashPolicies: [] } }),
    }
    const legs = [
      { key: 'a', share: 3_333, headers: MODIFIERS },
      { key: 'b', share: 6_667, headers: NO_MODIFIERS },
    ]
    assert.deepEqual(followRoutes(chainOf(nodes)), {
      routes: [
        {
          match,
          prefixRewrite: '/x',
          requestTimeoutMs: 5,
          idleTimeoutMs: 6,
          retry: RETRIES,
          headers: MODIFIERS,
          hashPolicies: [POLICY],
          legs,
        },
        { ...PLAIN, retry: RETRIES, legs: [{ key: 'b', share: 1, headers: NO_MODIFIERS }] },
      ],
      legs: new Map([
        ['a', legTo('a')],
        ['b', legTo('b', { ...HASHING, hashPolicies: [] })],
      ]),
    })
  })

  it('follows a splitter, with the timeout of Envoy', () => {
    const nodes = {
      start: splitter([split(100, 'a')], HASHING),
      a: resolver('a', { requestTimeoutMs: 11 }),
    }
    assert.deepEqual(followRoutes(chainOf(nodes)), {
      routes: [
        {
          ...PLAIN,
          hashPolicies: [POLICY],
          legs: [{ key: 'a', share: 10_000, headers: NO_MODIFIERS }],
        },
      ],
      legs: new Map([['a', legTo('a')]]),
    })
  })

  const timeouts: [request: number | undefined, idle: number | undefined, expected: number[]][] = [
    [undefined, undefined, [15_000, Infinity]],
    [5, 6, [5, 6]],
    [Infinity, Infinity, [Infinity, Infinity]],
  ]
  for (const [requestTimeoutMs, idleTimeoutMs, expected] of timeouts) {
    it(`limits a request to ${expected[0]} ms, and its pauses to ${expected[1]} ms`, () => {
      const nodes = { start: router(route('a', { requestTimeoutMs, idleTimeoutMs })), a: resolver('a') }
      const [first] = followRoutes(chainOf(nodes))!.routes
      assert.deepEqual([first!.requestTimeoutMs, first!.idleTimeoutMs], expected)
    })
  }

  const resolvers: [more: Parameters<typeof resolver>[1], timeoutMs: number, policies: HashPolicy[]][] = [
    [{ requestTimeoutMs: 11 }, 11, []],
    [{ requestTimeoutMs: Infinity }, Infinity, []],
    [{ loadBalancer: HASHING }, Infinity, [POLICY]],
  ]
  for (const protocol of ['http', 'http2', 'grpc']) {
    for (const [more, requestTimeoutMs, hashPolicies] of resolvers) {
      it(`follows a resolver of the protocol ${protocol} with ${Object.keys(more!).join()}`, () => {
        const found = followRoutes(chainOf({ start: resolver('a', more) }, protocol))
        const legs = [{ key: 'start', share: 1, headers: NO_MODIFIERS }]
        assert.deepEqual(found, {
          routes: [{ ...PLAIN, requestTimeoutMs, hashPolicies, legs }],
          legs: new Map([['start', legTo('a', more?.loadBalancer)]]),
        })
      })
    }
  }

  it('follows no routes of a resolver without conditions on requests', () => {
    const plain = resolver('a')
    const full = resolver('a', { requestTimeoutMs: 11, loadBalancer: HASHING })
    for (const [node, protocol] of [
      [plain, 'http'],
      [plain, 'tcp'],
      [full, 'tcp'],
      [full, 'x'],
    ] as const) {
      assert.equal(followRoutes(chainOf({ start: node }, protocol)), undefined)
    }
  })

  // As Consul computes them, with 32 bits.
  const shares: [weight: number, share: number][] = [
    [0, 0],
    [0.01, 1],
    [0.29, 29],
    [1.13, 113],
    [33.33, 3_333],
    [57.99, 5_799],
    [99.99, 9_999],
    [100, 10_000],
    [0.009, 0],
  ]
  for (const [weight, share] of shares) {
    it(`splits the weight ${weight} as ${share} of 10,000`, () => {
      const nodes = {
        start: splitter([split(weight, 'a'), split(100, 'b')]),
        a: resolver('a'),
        b: resolver('b'),
      }
      const [first] = followRoutes(chainOf(nodes))!.routes
      assert.equal(first!.legs[0]!.share, share)
    })
  }

  it('replaces the gateway mode of all targets', () => {
    const nodes = { start: router(route('a'), route('b')), a: resolver('a'), b: resolver('b') }
    const legs = [...followRoutes(chainOf(nodes), 'remote')!.legs.values()]
    assert.deepEqual(
      legs.flatMap(({ targets }) => targets.map(({ gatewayMode }) => gatewayMode)),
      ['remote', 'remote'],
    )
  })

  it('follows up to 1,000 routes and 256 legs', () => {
    const names = Array.from({ length: 256 }, (_, i) => `n${i}`)
    const nodes = {
      start: router(...Array.from({ length: 1_000 }, (_, i) => route(names[i % 256]!))),
      ...Object.fromEntries(names.map((name) => [name, resolver(name)])),
    }
    const found = followRoutes(chainOf(nodes))!
    assert.deepEqual([found.routes.length, found.legs.size], [1_000, 256])
  })

  const [a, unknown]: ChainNode[] = [resolver('a'), { type: 'unknown', name: 'x"y' }]
  const legs = Array.from({ length: 257 }, (_, i) => `n${i}`)
  const MISSING = 'leads to the node "gone", which is missing'
  const refused: [name: string, nodes: Record<string, ChainNode>, problem: string][] = [
    ['without its first node', {}, 'leads to the node "start", which is missing'],
    ['with a route to a missing node', { start: router(route('gone')) }, MISSING],
    ['with a split to a missing node', { start: splitter([split(1, 'gone')]) }, MISSING],
    [
      'that starts with an unknown node',
      { start: unknown! },
      'leads to a node of the type "x\\"y", which a request cannot follow',
    ],
    [
      'with a route to an unknown node',
      { start: router(route('u')), u: unknown! },
      'leads to a node of the type "x\\"y", which a request cannot follow',
    ],
    [
      'with a route to a router',
      { start: router(route('r')), r: router(route('a')), a: a! },
      'leads to a node of the type "router", which a request cannot follow',
    ],
    [
      'with a route to itself',
      { start: router(route('start')) },
      'leads to a node of the type "router", which a request cannot follow',
    ],
    [
      'with a split to a splitter',
      { start: splitter([split(1, 's')]), s: splitter([split(1, 'a')]), a: a! },
      'leads to a node of the type "splitter", which a connection cannot follow',
    ],
    [
      'whose splits have no weight',
      { start: splitter([split(0, 'a'), split(0.001, 'a')]), a: a! },
      'splits requests among legs that all have the weight 0',
    ],
    ['without splits', { start: splitter([]) }, 'splits requests among legs that all have the weight 0'],
    [
      'with too many routes',
      { start: router(...Array.from({ length: 1_001 }, () => route('a'))), a: a! },
      'has 1001 routes; at most 1000 are supported',
    ],
    [
      'with too many legs',
      {
        start: router(...legs.map((name) => route(name))),
        ...Object.fromEntries(legs.map((name) => [name, resolver(name)])),
      },
      'has 257 legs; at most 256 are supported',
    ],
  ]
  for (const [name, nodes, problem] of refused) {
    it(`refuses a chain ${name}`, () => {
      assert.throws(() => followRoutes(chainOf(nodes)), {
        name: 'DialError',
        code: 'ERR_CONNECT_CHAIN',
        message: `dial web: its discovery chain ${problem}`,
      })
    })
  }

  it('refuses a leg whose target is missing', () => {
    const chain = { ...chainOf({ start: router(route('a')), a: resolver('a') }), targets: new Map() }
    assert.throws(() => followRoutes(chain), {
      message: 'dial web: its discovery chain leads to the target "a", which is missing',
    })
  })
})
