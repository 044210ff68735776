import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { HeaderChanges, HeaderModifiers } from '../../src/agent/endpoints/chain-nodes.js'
import type { HashPolicy } from '../../src/agent/endpoints/chain-load-balancer.js'
import type { HttpMatch, PathRule } from '../../src/agent/endpoints/http-rules.js'
import { RequestHead } from '../../src/http/routes/request-head.js'
import { type Decision, RouteTable, changedHeaders } from '../../src/http/routes/route-table.js'
import type { Route, RouteLeg } from '../../src/resolve/chain/routes.js'
import { scripted, seeded } from '../fixtures/random.js'

const NO_CHANGES: HeaderChanges = { remove: [], set: [], add: [] }
const NO_MODIFIERS: HeaderModifiers = { request: NO_CHANGES, response: NO_CHANGES }
const EVERY_REQUEST: HttpMatch = { path: undefined, headers: [], query: [], methods: [] }

function leg(key: string, share = 1, headers: Partial<HeaderModifiers> = {}): RouteLeg {
  return { key, share, headers: { ...NO_MODIFIERS, ...headers } }
}

function route(settings: Partial<Route> & { readonly to?: string } = {}): Route {
  const { to = 'leg', ...others } = settings
  return {
    match: EVERY_REQUEST,
    prefixRewrite: undefined,
    requestTimeoutMs: 15_000,
    idleTimeoutMs: Infinity,
    retry: { most: 1, onConnectFailure: false, onStatusCodes: [], on: [] },
    headers: NO_MODIFIERS,
    hashPolicies: [],
    legs: [leg(to)],
    ...others,
  }
}

function path(kind: PathRule['kind'], value: string): HttpMatch {
  return { ...EVERY_REQUEST, path: { kind, value, ignoreCase: false } }
}

async function compile(...routes: Route[]) {
  const ignored: string[] = []
  const table = await RouteTable.compile({ routes, legs: new Map() }, (problem) => ignored.push(problem))
  return {
    ignored,
    decide: (options: Record<string, unknown> = {}, random: () => number = () => 0): Decision | undefined =>
      table.decide(new RequestHead({ origin: 'https://web', method: 'GET', path: '/', ...options }), random),
  }
}

function changes(given: Partial<HeaderChanges>): HeaderChanges {
  return { ...NO_CHANGES, ...given }
}

describe('RouteTable: the route', () => {
  it('is the first one that matches', async () => {
    const { decide } = await compile(
      route({ match: path('exact', '/a'), to: 'exact' }),
      route({ match: path('prefix', '/a'), to: 'prefix' }),
      route({ match: { ...EVERY_REQUEST, methods: ['POST'] }, to: 'method' }),
      route({ to: 'rest' }),
    )
    const cases: [method: string, path: string, leg: string][] = [
      ['GET', '/a', 'exact'],
      ['POST', '/a?b', 'exact'],
      ['GET', '/ab', 'prefix'],
      ['POST', '/b', 'method'],
      ['GET', '/b', 'rest'],
    ]
    for (const [method, path, leg] of cases) assert.equal(decide({ method, path })?.legKey, leg, path)
  })

  it('is none if no route matches', async () => {
    const { decide } = await compile(route({ match: path('prefix', '/a') }))
    assert.equal(decide({ path: '/b' }), undefined)
    assert.equal((await compile()).decide(), undefined)
  })

  it('brings its time limits and its retries', async () => {
    const { decide } = await compile(
      route({
        requestTimeoutMs: 1,
        idleTimeoutMs: 2,
        retry: { most: 3, onConnectFailure: true, onStatusCodes: [418], on: [] },
      }),
    )
    const { requestTimeoutMs, idleTimeoutMs, retry } = decide()!.rules
    assert.deepEqual([requestTimeoutMs, idleTimeoutMs, retry?.most], [1, 2, 3])
    assert.deepEqual([...(retry?.conditions ?? [])], ['connect-failure', 'retriable-status-codes'])
    assert.equal((await compile(route())).decide()?.rules.retry, undefined)
  })
})

describe('RouteTable: the splits', () => {
  const legs = [leg('a', 1), leg('b', 4_999), leg('c', 5_000)]

  it('get requests by their shares', async () => {
    const { decide } = await compile(route({ legs: [leg('a', 1_000), leg('b', 3_000), leg('c', 6_000)] }))
    const random = seeded(1)
    const counts: Record<string, number> = { a: 0, b: 0, c: 0 }
    for (let i = 0; i < 10_000; i += 1) counts[decide({}, random)!.legKey]! += 1
    const expected = { a: 1_000, b: 3_000, c: 6_000 }
    const chiSquare = Object.entries(expected).reduce(
      (sum, [key, count]) => sum + (counts[key]! - count) ** 2 / count,
      0,
    )
    // The 99.9th percentile for 2 degrees of freedom.
    assert.ok(chiSquare < 13.82, JSON.stringify(counts))
  })

  const edges: [random: number, leg: string][] = [
    [0, 'a'],
    [0.000099, 'a'],
    [0.0001, 'b'],
    [0.4999, 'b'],
    [0.5, 'c'],
    [1 - 2 ** -53, 'c'],
  ]
  for (const [random, expected] of edges) {
    it(`lead to ${expected} with the random number ${random}`, async () => {
      const { decide } = await compile(route({ legs }))
      assert.equal(decide({}, () => random)?.legKey, expected)
    })
  }

  it('with the share 0 get no requests', async () => {
    const { decide } = await compile(route({ legs: [leg('none', 0), leg('all', 10_000), leg('last', 0)] }))
    for (const random of [0, 0.5, 1 - 2 ** -53]) assert.equal(decide({}, () => random)?.legKey, 'all')
  })

  it('may have shares whose sum is not 100 %', async () => {
    const { decide } = await compile(route({ legs: [leg('a', 3_333), leg('b', 3_333), leg('c', 3_333)] }))
    const legsOf = [0, 0.34, 0.67, 0.99999].map((random) => decide({}, () => random)?.legKey)
    assert.deepEqual(legsOf, ['a', 'b', 'c', 'c'])
  })

  it('are drawn once for each request, and not for a single leg', async () => {
    const { decide } = await compile(route({ legs }))
    const random = scripted(0, 0.9, 0.3)
    assert.deepEqual(
      [1, 2, 3].map(() => decide({}, random)?.legKey),
      ['a', 'c', 'b'],
    )
    const single = await compile(route())
    assert.equal(single.decide({}, () => assert.fail('drawn'))?.legKey, 'leg')
  })
})

describe('RouteTable: header changes', () => {
  it('of the split come before those of the route', async () => {
    const ofRoute = {
      request: changes({ set: [['x-set', 'route']], add: [['x-add', 'route']] }),
      response: changes({ add: [['x-r', 'route']] }),
    }
    const ofLeg = {
      request: changes({ set: [['x-set', 'leg']], add: [['x-add', 'leg']] }),
      response: changes({ add: [['x-r', 'leg']] }),
    }
    const { decide } = await compile(route({ headers: ofRoute, legs: [leg('a', 1, ofLeg)] }))
    const { headers, responseChanges } = decide()!
    assert.deepEqual(headers, ['x-add', 'leg', 'x-set', 'route', 'x-add', 'route'])
    assert.deepEqual(changedHeaders([], responseChanges), ['x-r', 'leg', 'x-r', 'route'])
  })

  it('without a change are left out', async () => {
    const { decide } = await compile(route({ headers: { request: NO_CHANGES, response: NO_CHANGES } }))
    const { headers, responseChanges } = decide()!
    assert.deepEqual([headers, responseChanges], [undefined, []])
  })

  it('of one split do not apply to another one', async () => {
    const request = changes({ set: [['x-leg', 'a']] })
    const { decide } = await compile(route({ legs: [leg('a', 1, { request }), leg('b', 1)] }))
    assert.deepEqual(decide({}, () => 0)?.headers, ['x-leg', 'a'])
    assert.equal(decide({}, () => 0.9)?.headers, undefined)
  })
})

describe('RouteTable: the path', () => {
  const cases: [match: HttpMatch, rewrite: string | undefined, path: string, expected: string][] = [
    [path('prefix', '/sp'), '/', '/sp', '/'],
    [path('prefix', '/sp'), '/', '/sp/x', '//x'],
    [path('prefix', '/sp'), '/', '/spare', '/are'],
    [path('prefix', '/sp'), '/', '/sp?q=/sp', '/?q=/sp'],
    [path('prefix', '/caf\u00e9'), '/tea', '/caf\u00c3\u00a9/x', '/tea/x'],
    [path('exact', '/old'), '/new', '/old?a=b', '/new?a=b'],
    [path('regex', '/o.*'), '/new', '/old/er?a=b', '/new?a=b'],
    [EVERY_REQUEST, '/base/', '/x?a=b', '/base/x?a=b'],
    [EVERY_REQUEST, undefined, '//a/../b?c', '//a/../b?c'],
  ]
  for (const [match, prefixRewrite, given, expected] of cases) {
    const rule = match.path === undefined ? 'every path' : `the ${match.path.kind} ${match.path.value}`
    it(`${given} becomes ${expected} with the rewrite ${prefixRewrite} for ${rule}`, async () => {
      const { decide } = await compile(route({ match, prefixRewrite }))
      assert.equal(decide({ path: given })?.path, expected)
    })
  }

  it('has the query of the option', async () => {
    const { decide } = await compile(route({ match: path('prefix', '/a'), prefixRewrite: '/b' }))
    assert.equal(decide({ path: '/a/c', query: { d: 'e' } })?.path, '/b/c?d=e')
  })
})

describe('RouteTable: the hash', () => {
  const policy = (given: Partial<HashPolicy>): HashPolicy => ({
    source: 'header',
    name: 'x-user',
    terminal: false,
    newCookie: undefined,
    ...given,
  })

  it('is that of the policies of the route', async () => {
    const { decide } = await compile(route({ hashPolicies: [policy({})] }))
    const hashOf = (user: string): bigint | undefined => decide({ headers: { 'X-User': user } })?.hash
    assert.equal(typeof hashOf('a'), 'bigint')
    assert.equal(hashOf('a'), hashOf('a'))
    assert.notEqual(hashOf('a'), hashOf('b'))
    assert.equal(decide()?.hash, undefined)
    assert.deepEqual(decide()?.cookies, [])
    assert.equal((await compile(route())).decide()?.hash, undefined)
  })

  const cookies: [newCookie: { path: string | undefined; ttlMs: number }, attributes: string][] = [
    [{ path: '/p', ttlMs: 90_500 }, '; Max-Age=90; Path=/p; HttpOnly'],
    [{ path: undefined, ttlMs: 0 }, '; HttpOnly'],
    [{ path: undefined, ttlMs: 999 }, '; HttpOnly'],
    [{ path: '/', ttlMs: 1_000 }, '; Max-Age=1; Path=/; HttpOnly'],
  ]
  for (const [newCookie, attributes] of cookies) {
    it(`sets a cookie with${attributes.replaceAll(';', ',')}, which leads to the same hash`, async () => {
      const { decide } = await compile(
        route({ hashPolicies: [policy({ source: 'cookie', name: 'sticky', newCookie })] }),
      )
      const { hash, cookies } = decide()!
      const [, value, rest] = /^sticky="([0-9a-f]{16})"(.*)$/.exec(cookies[0] ?? '') ?? []
      assert.deepEqual([cookies.length, rest], [1, attributes])
      const again = decide({ headers: { cookie: `a=b; sticky="${value}"` } })!
      assert.deepEqual([again.hash, again.cookies], [hash, []])
      assert.notEqual(decide()?.hash, hash)
    })
  }
})

describe('RouteTable: ignored parts', () => {
  it('are reported, and the rest is followed', async () => {
    const request = changes({
      remove: ['host', 'x-gone'],
      set: [
        ['content-length', '1'],
        ['x-command', '%PROTOCOL%'],
        ['x-kept', '100%%'],
      ],
      add: [
        ['x y', '1'],
        ['x-control', 'a\nb'],
        ['x-empty', ''],
      ],
    })
    const { decide, ignored } = await compile(
      route({ match: path('regex', '/(a'), to: 'invalid' }),
      route({
        to: 'valid',
        headers: { request, response: changes({ remove: [':status'] }) },
        retry: { most: 1, onConnectFailure: false, onStatusCodes: [], on: ['5xx', 'future'] },
      }),
    )
    const {
      legKey: leg,
      headers,
      responseChanges,
      rules,
    } = decide({ path: '/a', headers: { 'X-Gone': '1' } })!
    assert.equal(leg, 'valid')
    assert.deepEqual(headers, ['x-kept', '100%'])
    assert.deepEqual(responseChanges, [])
    assert.deepEqual([...(rules.retry?.conditions ?? [])], ['5xx'])
    const about = [
      '/(a',
      '"host"',
      'content-length',
      'x-command',
      'x y',
      'x-control',
      'x-empty',
      ':status',
      'future',
    ]
    for (const part of about) {
      assert.equal(ignored.filter((problem) => problem.includes(part)).length, 1, part)
    }
    assert.equal(ignored.length, about.length)
  })

  it('of a route with an invalid expression: the route matches nothing', async () => {
    const { decide, ignored } = await compile(route({ match: path('regex', '/a(?!b).*') }))
    assert.equal(decide({ path: '/ac' }), undefined)
    assert.equal(ignored.length, 1)
  })
})
