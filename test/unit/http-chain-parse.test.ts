import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type {
  ResolverNode,
  RouteDefinition,
  RouterNode,
  Split,
} from '../../src/agent/endpoints/chain-nodes.js'
import type { HashPolicy, LoadBalancer } from '../../src/agent/endpoints/chain-load-balancer.js'
import { parseChain } from '../../src/agent/endpoints/chain.js'
import { HTTP_CHAIN } from '../fixtures/http-chain.js'
import { bend, refusesValues } from '../fixtures/malformed.js'

const NONE = { remove: [], set: [], add: [] }
const NO_CHANGES = { request: NONE, response: NONE }
const NO_RETRIES = { most: 1, onConnectFailure: false, onStatusCodes: [], on: [] }
const NO_REWRITE = { prefixRewrite: undefined, requestTimeoutMs: undefined, idleTimeoutMs: undefined }
const EVERY = { path: undefined, headers: [], query: [], methods: [] }

const ROUTER = 'Chain.Nodes["router:web.default.default"]'
const SPLITTER = 'Chain.Nodes["splitter:api.default.default"]'
const ROUTE = `${ROUTER}.Routes[0]`
const MATCH = `${ROUTE}.Definition.Match`
const DESTINATION = `${ROUTE}.Definition.Destination`
const RESOLVER = 'Chain.Nodes["resolver:plain.default.default.dc1"].Resolver'
const HASHING = `${SPLITTER}.LoadBalancer.HashPolicies`

/** A policy by a cookie that is not set. */
function cookie(name: string): HashPolicy {
  return { source: 'cookie', name, terminal: false, newCookie: undefined }
}

/** The first route, with another value at a place. */
function routeWith(place: string, value: unknown): RouteDefinition {
  const node = parseChain(bend(HTTP_CHAIN, place, value)).nodes.get('router:web.default.default')
  return (node as RouterNode).routes[0]!
}

describe('parseChain of an answer of Consul 1.14.11 for an http service', () => {
  const chain = parseChain(HTTP_CHAIN)

  it('recognizes each field', () => {
    assert.deepEqual(chain.ignored, [])
    assert.equal(chain.protocol, 'http')
    assert.equal(chain.startNode, 'router:web.default.default')
  })

  it('reads the routes of a router', () => {
    const noFlags = { invert: false, ignoreCase: false }
    const routes: RouteDefinition[] = [
      {
        match: {
          path: { kind: 'exact', value: '/exact', ignoreCase: false },
          headers: [
            { name: 'x-a', kind: 'exact', value: 'a', ...noFlags },
            { name: 'x-b', kind: 'prefix', value: 'b', ...noFlags, invert: true },
            { name: 'x-c', kind: 'suffix', value: 'c', ...noFlags },
            { name: 'x-d', kind: 'regex', value: 'd.*', ...noFlags },
            { name: 'x-e', kind: 'present', value: '', ...noFlags },
          ],
          query: [
            { name: 'Q', kind: 'exact', value: '1' },
            { name: 'r', kind: 'regex', value: '[0-9]+' },
            { name: 'p', kind: 'present', value: '' },
          ],
          methods: ['GET', 'POST'],
        },
        prefixRewrite: '/new',
        requestTimeoutMs: 90_000,
        idleTimeoutMs: 250,
        retry: { most: 5, onConnectFailure: true, onStatusCodes: [401, 409], on: ['5xx', 'reset'] },
        headers: {
          request: { remove: ['x-gone'], set: [['x-set', 'two']], add: [['x-add', 'one']] },
          response: { remove: [], set: [['x-via', 'mesh']], add: [] },
        },
        next: 'resolver:v2.api.default.default.dc1',
      },
      {
        ...NO_REWRITE,
        match: { ...EVERY, path: { kind: 'prefix', value: '/prefix', ignoreCase: false } },
        retry: NO_RETRIES,
        headers: NO_CHANGES,
        next: 'splitter:api.default.default',
      },
      {
        ...NO_REWRITE,
        match: { ...EVERY, path: { kind: 'regex', value: '/v[0-9]+/.*', ignoreCase: false } },
        retry: { ...NO_RETRIES, onConnectFailure: true },
        headers: NO_CHANGES,
        next: 'resolver:plain.default.default.dc1',
      },
      {
        ...NO_REWRITE,
        match: { ...EVERY, path: { kind: 'prefix', value: '/', ignoreCase: false } },
        retry: NO_RETRIES,
        headers: NO_CHANGES,
        next: 'resolver:web.default.default.dc1',
      },
    ]
    assert.deepEqual(chain.nodes.get('router:web.default.default'), { type: 'router', routes })
  })

  const hashing: LoadBalancer = {
    policy: 'ring_hash',
    choiceCount: undefined,
    ringSize: { least: 1_024, greatest: 8_192 },
    hashPolicies: [
      { source: 'header', name: 'x-user', terminal: true, newCookie: undefined },
      { source: 'cookie', name: 'session', terminal: false, newCookie: { path: '/app', ttlMs: 5_400_000 } },
      { source: 'cookie', name: 'once', terminal: false, newCookie: { path: undefined, ttlMs: 0 } },
      { source: 'query_parameter', name: 'User', terminal: false, newCookie: undefined },
      { source: 'source_ip', name: '', terminal: false, newCookie: undefined },
    ],
  }

  it('reads the splits of a splitter, and its load balancer', () => {
    const splits: Split[] = [
      {
        weight: 33.33,
        headers: { request: { ...NONE, set: [['x-leg', 'v1']] }, response: NONE },
        next: 'resolver:v1.api.default.default.dc1',
      },
      {
        weight: 66.67,
        headers: { request: NONE, response: { ...NONE, remove: ['x-old'], add: [['x-leg', 'v2']] } },
        next: 'resolver:v2.api.default.default.dc1',
      },
    ]
    const expected = { type: 'splitter', splits, loadBalancer: hashing }
    assert.deepEqual(chain.nodes.get('splitter:api.default.default'), expected)
  })

  const leastRequest: LoadBalancer = {
    policy: 'least_request',
    choiceCount: 3,
    ringSize: { least: undefined, greatest: undefined },
    hashPolicies: [],
  }
  const resolvers: [name: string, expected: Omit<ResolverNode, 'type' | 'target' | 'failover'>][] = [
    ['v1.api', { connectTimeoutMs: 1_500, requestTimeoutMs: 11_000, loadBalancer: hashing }],
    ['plain', { connectTimeoutMs: 5_000, requestTimeoutMs: 11_000, loadBalancer: leastRequest }],
    ['web', { connectTimeoutMs: 5_000, requestTimeoutMs: undefined, loadBalancer: undefined }],
  ]
  for (const [name, expected] of resolvers) {
    it(`reads the timeouts and the load balancer of the resolver of ${name}`, () => {
      const target = `${name}.default.default.dc1`
      const found = chain.nodes.get(`resolver:${target}`)
      assert.deepEqual(found, { type: 'resolver', target, failover: [], ...expected })
    })
  }
})

describe('parseChain of an http service', () => {
  const limits: [value: unknown, ms: number | undefined][] = [
    ['250ms', 250],
    ['1m30s', 90_000],
    [7_000_000_000, 7_000],
    ['-1s', Infinity],
    [-1, Infinity],
    ['0s', undefined],
    [0, undefined],
    ['', undefined],
    [null, undefined],
    [undefined, undefined],
  ]
  for (const [value, ms] of limits) {
    it(`reads the timeout ${JSON.stringify(value)} as ${ms === undefined ? 'the default' : `${ms} ms`}`, () => {
      assert.equal(routeWith(`${DESTINATION}.RequestTimeout`, value).requestTimeoutMs, ms)
      assert.equal(routeWith(`${DESTINATION}.IdleTimeout`, value).idleTimeoutMs, ms)
      const changed = parseChain(bend(HTTP_CHAIN, `${RESOLVER}.RequestTimeout`, value))
      const node = changed.nodes.get('resolver:plain.default.default.dc1')
      assert.equal((node as ResolverNode).requestTimeoutMs, ms)
    })
  }

  const matches: [value: unknown, expected: RouteDefinition['match']][] = [
    ...[undefined, null, {}, { HTTP: null }].map((value): [unknown, typeof EVERY] => [value, EVERY]),
    [{ HTTP: { Header: null, QueryParam: null, Methods: null, PathExact: '' } }, EVERY],
    [
      { HTTP: { PathPrefix: '/a', PathRegex: '/b', CaseInsensitive: true } },
      { ...EVERY, path: { kind: 'prefix', value: '/a', ignoreCase: true } },
    ],
    // A rule without a condition is none.
    [{ HTTP: { Header: [{ Name: 'a', Invert: true }], QueryParam: [{ Name: 'a', Present: false }] } }, EVERY],
    [
      { HTTP: { Header: [{ Name: 'A', Contains: 'x', IgnoreCase: true }] } },
      { ...EVERY, headers: [{ name: 'a', kind: 'contains', value: 'x', invert: false, ignoreCase: true }] },
    ],
    // The first one in the order of Consul.
    [
      { HTTP: { Header: [{ Name: 'a', Present: true, Suffix: 's', Prefix: 'p', Regex: 'r' }] } },
      { ...EVERY, headers: [{ name: 'a', kind: 'regex', value: 'r', invert: false, ignoreCase: false }] },
    ],
  ]
  for (const [value, expected] of matches) {
    it(`reads the conditions ${JSON.stringify(value)}`, () => {
      assert.deepEqual(routeWith(MATCH, value).match, expected)
    })
  }

  it('reads a route without a destination', () => {
    const expected = { ...NO_REWRITE, match: EVERY, retry: NO_RETRIES, headers: NO_CHANGES, next: 'n' }
    for (const Definition of [undefined, null, {}, { Destination: null }]) {
      assert.deepEqual(routeWith(ROUTE, { Definition, NextNode: 'n' }), expected)
    }
  })

  it('reads no number of retries as 1', () => {
    for (const value of [undefined, null, 0]) {
      assert.equal(routeWith(`${DESTINATION}.NumRetries`, value).retry.most, 1)
    }
  })

  it('reads a split without a weight as 0', () => {
    const changed = parseChain(bend(HTTP_CHAIN, SPLITTER, { Type: 'splitter', Splits: [{ NextNode: 'n' }] }))
    assert.deepEqual(changed.nodes.get('splitter:api.default.default'), {
      type: 'splitter',
      splits: [{ weight: 0, headers: NO_CHANGES, next: 'n' }],
      loadBalancer: undefined,
    })
  })

  const policies: [value: object, expected: HashPolicy][] = [
    [{ Field: 'cookie', FieldValue: 'A', CookieConfig: null }, cookie('A')],
    [{ Field: 'cookie', FieldValue: 'A', CookieConfig: { TTL: '0s' } }, cookie('A')],
    [
      { Field: 'cookie', FieldValue: 'A', CookieConfig: { TTL: '250ms', Session: false } },
      { ...cookie('A'), newCookie: { path: undefined, ttlMs: 250 } },
    ],
    [
      { Field: 'cookie', FieldValue: 'A', CookieConfig: { TTL: '1s', Session: true, Path: '/' } },
      { ...cookie('A'), newCookie: { path: '/', ttlMs: 0 } },
    ],
    [
      { SourceIP: true, Field: 'header', FieldValue: 'A', Terminal: true },
      { source: 'source_ip', name: '', terminal: true, newCookie: undefined },
    ],
    [
      { Field: 'header', FieldValue: 'A', CookieConfig: { TTL: '1s' } },
      { source: 'header', name: 'a', terminal: false, newCookie: undefined },
    ],
  ]
  for (const [value, expected] of policies) {
    it(`reads the hash policy ${JSON.stringify(value)}`, () => {
      const changed = parseChain(bend(HTTP_CHAIN, HASHING, [value]))
      const node = changed.nodes.get('splitter:api.default.default')
      assert.ok(node?.type === 'splitter')
      assert.deepEqual(node.loadBalancer?.hashPolicies, [expected])
      assert.deepEqual(changed.ignored, [])
    })
  }

  const unknown: [place: string, value: unknown][] = [
    [`${ROUTE}.Definition.Filters`, {}],
    [`${MATCH}.GRPC`, {}],
    [`${MATCH}.HTTP.PathTemplate`, '/x'],
    [`${MATCH}.HTTP.Header[0].Range`, 5],
    [`${MATCH}.HTTP.QueryParam[1].Invert`, true],
    [`${DESTINATION}.Mirror`, 'x'],
    [`${DESTINATION}.RequestHeaders.Append`, {}],
    [`${SPLITTER}.Splits[1].Definition.Mirror`, 'x'],
    [`${SPLITTER}.Splits[0].Definition.RequestHeaders.Append`, {}],
    [`${SPLITTER}.LoadBalancer.LocalityWeights`, true],
    [`${HASHING}[0].FilterState`, 'x'],
  ]
  for (const [place, value] of unknown) {
    it(`reports the unknown field ${place}`, () => {
      assert.deepEqual(parseChain(bend(HTTP_CHAIN, place, value)).ignored, [place])
    })
  }

  it('reports a hash policy by an unknown part of a request, and leaves it out', () => {
    const changed = parseChain(bend(HTTP_CHAIN, `${HASHING}[3].Field`, 'body'))
    assert.deepEqual(changed.ignored, [`${HASHING}[3].Field`])
    const node = changed.nodes.get('splitter:api.default.default')
    assert.ok(node?.type === 'splitter')
    assert.equal(node.loadBalancer?.hashPolicies.length, 4)
  })

  const DURATION = 'expected a duration such as "5s", got'
  const COUNT = 'expected a whole number of 0 or more, got a number'
  const durations: [value: unknown, problem: string][] = [
    ['x', `${DURATION} a string`],
    ['5', `${DURATION} a string`],
    [true, 'expected a string, got a boolean'],
    [{}, 'expected a string, got an object'],
  ]
  const refusedDurations = [`${DESTINATION}.RequestTimeout`, `${DESTINATION}.IdleTimeout`].flatMap((place) =>
    durations.map(([value, problem]): [string, unknown, string] => [place, value, problem]),
  )
  const refusedWeights = [-1, 100.01, '50', true].map((value): [string, unknown, string] => [
    `${SPLITTER}.Splits[0].Weight`,
    value,
    `expected a number from 0 to 100, got a ${typeof value}`,
  ])
  refusesValues(parseChain, HTTP_CHAIN, [
    ...refusedDurations,
    ...refusedWeights,
    [`${RESOLVER}.RequestTimeout`, 'x', `${DURATION} a string`],
    [`${RESOLVER}.RequestTimeout`, true, 'expected a string, got a boolean'],
    [`${ROUTER}.Routes`, {}, 'expected an array, got an object'],
    [ROUTE, null, 'expected an object, got null'],
    [`${ROUTE}.NextNode`, '', 'expected a non-empty string, got a string'],
    [`${ROUTE}.Definition`, [], 'expected an object, got an array'],
    [MATCH, 'x', 'expected an object, got a string'],
    [`${MATCH}.HTTP`, [], 'expected an object, got an array'],
    [`${MATCH}.HTTP.PathExact`, 5, 'expected a string, got a number'],
    [`${MATCH}.HTTP.CaseInsensitive`, 'true', 'expected true or false, got a string'],
    [`${MATCH}.HTTP.Header`, {}, 'expected an array, got an object'],
    [`${MATCH}.HTTP.Header[0]`, 'x', 'expected an object, got a string'],
    [`${MATCH}.HTTP.Header[0].Name`, '', 'expected a non-empty string, got a string'],
    [`${MATCH}.HTTP.Header[0].Exact`, 5, 'expected a string, got a number'],
    [`${MATCH}.HTTP.Header[1].Invert`, 1, 'expected true or false, got a number'],
    [`${MATCH}.HTTP.Header[4].Present`, 'x', 'expected true or false, got a string'],
    [`${MATCH}.HTTP.QueryParam`, 'x', 'expected an array, got a string'],
    [`${MATCH}.HTTP.QueryParam[0].Name`, undefined, 'expected a non-empty string, got nothing'],
    [`${MATCH}.HTTP.QueryParam[1].Regex`, [], 'expected a string, got an array'],
    [`${MATCH}.HTTP.Methods`, 'GET', 'expected an array, got a string'],
    [`${MATCH}.HTTP.Methods[0]`, '', 'expected a non-empty string, got a string'],
    [DESTINATION, 'api', 'expected an object, got a string'],
    [`${DESTINATION}.PrefixRewrite`, 5, 'expected a string, got a number'],
    [`${DESTINATION}.NumRetries`, 'x', 'expected a whole number, got a string'],
    [`${DESTINATION}.NumRetries`, 0.5, 'expected a whole number, got a number'],
    [`${DESTINATION}.NumRetries`, -1, COUNT],
    [`${DESTINATION}.RetryOnConnectFailure`, 1, 'expected true or false, got a number'],
    [`${DESTINATION}.RetryOn`, 'reset', 'expected an array, got a string'],
    [`${DESTINATION}.RetryOn[0]`, 5, 'expected a non-empty string, got a number'],
    [`${DESTINATION}.RetryOnStatusCodes`, 500, 'expected an array, got a number'],
    [`${DESTINATION}.RetryOnStatusCodes[0]`, '500', 'expected a whole number, got a string'],
    [`${DESTINATION}.RequestHeaders`, [], 'expected an object, got an array'],
    [`${DESTINATION}.RequestHeaders.Set`, [], 'expected an object, got an array'],
    [`${DESTINATION}.RequestHeaders.Add["X-Add"]`, 5, 'expected a string, got a number'],
    [`${DESTINATION}.RequestHeaders.Remove`, 'x', 'expected an array, got a string'],
    [`${DESTINATION}.RequestHeaders.Remove[0]`, null, 'expected a non-empty string, got null'],
    [`${SPLITTER}.Splits`, {}, 'expected an array, got an object'],
    [`${SPLITTER}.Splits[0]`, 5, 'expected an object, got a number'],
    [`${SPLITTER}.Splits[0].NextNode`, undefined, 'expected a non-empty string, got nothing'],
    [`${SPLITTER}.Splits[0].Definition`, 'x', 'expected an object, got a string'],
    [`${SPLITTER}.LoadBalancer.RingHashConfig`, 5, 'expected an object, got a number'],
    [`${SPLITTER}.LoadBalancer.RingHashConfig.MinimumRingSize`, -5, COUNT],
    [`${SPLITTER}.LoadBalancer.RingHashConfig.MaximumRingSize`, 'x', 'expected a whole number, got a string'],
    [HASHING, {}, 'expected an array, got an object'],
    [`${HASHING}[0]`, 'x', 'expected an object, got a string'],
    [`${HASHING}[0].Field`, 5, 'expected a string, got a number'],
    [`${HASHING}[0].FieldValue`, 5, 'expected a string, got a number'],
    [`${HASHING}[0].Terminal`, 'x', 'expected true or false, got a string'],
    [`${HASHING}[1].CookieConfig`, 'x', 'expected an object, got a string'],
    [`${HASHING}[1].CookieConfig.TTL`, 'x', `${DURATION} a string`],
    [`${HASHING}[1].CookieConfig.TTL`, '-1s', `${DURATION} a string`],
    [`${HASHING}[1].CookieConfig.Path`, 5, 'expected a string, got a number'],
    [`${HASHING}[2].CookieConfig.Session`, 1, 'expected true or false, got a number'],
    [`${HASHING}[4].SourceIP`, 'x', 'expected true or false, got a string'],
  ])
})
