// Route rules, rewrites, and header changes: the same requests are decided by Envoy and by our functions.
import './consul-binary.js'
import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import type { HeaderChanges } from '../../src/agent/endpoints/chain-nodes.js'
import type { HeaderRule, HttpMatch, PathRule, QueryRule } from '../../src/agent/endpoints/http-rules.js'
import { applyChanges, checkChanges } from '../../src/http/routes/header-changes.js'
import { rewritePath } from '../../src/http/routes/path-rewrite.js'
import { isJoined } from '../../src/matching/header-matcher.js'
import { type RequestMatcher, compileMatch } from '../../src/matching/request-matcher.js'
import { freePort } from '../fixtures/free-ports.js'
import { seeded } from '../fixtures/random.js'
import { skip, startStaticEnvoy } from './envoy.js'
import { type TestRoute, envoyConfig } from './envoy-routes.js'
import { RawClient, headerBytes, parseHead, startHeadEcho } from './raw-http.js'

type Table = readonly TestRoute[]

interface TestRequest {
  readonly table: number
  readonly method: string
  readonly path: string
  /** The part of the host after the name of the table. */
  readonly host: string
  /** Name, value, name, value. */
  readonly headers: readonly string[]
}

/** What happens to a request. */
interface Outcome {
  /** The index of the route; undefined if none matches. */
  readonly route: number | undefined
  readonly path?: string
  readonly request?: readonly string[]
  readonly response?: readonly string[]
}

const NO_CHANGES: HeaderChanges = { remove: [], set: [], add: [] }
const EVERY: HttpMatch = { path: undefined, headers: [], query: [], methods: [] }

function route(match: Partial<HttpMatch>, more: Partial<TestRoute> = {}): TestRoute {
  return {
    match: { ...EVERY, ...match },
    rewrite: undefined,
    request: NO_CHANGES,
    response: NO_CHANGES,
    ...more,
  }
}

const UPSTREAM_HEADERS = ['x-a', '1', 'x-a', '2', 'x-b', '1', 'set-cookie', 'a=1', 'set-cookie', 'b=2']
/** Headers that Envoy adds, and those of the test itself. */
const NOT_COMPARED = new Set([
  ...['host', 'x-forwarded-proto', 'x-route', 'content-length', 'date', 'server', 'x-echo', 'connection'],
  ...['keep-alive', 'transfer-encoding'],
])

/** The lines of each header in order, sorted by name; those that Envoy joins in one line. */
function normalized(lines: readonly string[], joins: boolean): string[] {
  const values = new Map<string, string[]>()
  for (let i = 0; i < lines.length; i += 2) {
    const name = lines[i]!.toLowerCase()
    if (!NOT_COMPARED.has(name)) values.set(name, [...(values.get(name) ?? []), lines[i + 1]!.trim()])
  }
  return [...values.keys()].sort().flatMap((name) => {
    const all = values.get(name)!
    const shown = joins && isJoined(name) ? [all.filter((value) => value !== '').join(',')] : all
    return shown.map((value) => `${name}: ${value}`)
  })
}

class Ours {
  readonly #tables: readonly Table[]
  readonly #matchers: readonly (readonly RequestMatcher[])[]

  private constructor(tables: readonly Table[], matchers: readonly (readonly RequestMatcher[])[]) {
    this.#tables = tables
    this.#matchers = matchers
  }

  static async of(tables: readonly Table[]): Promise<Ours> {
    const invalid = (problem: string): never => assert.fail(problem)
    const compileAll = (table: Table): Promise<RequestMatcher[]> =>
      Promise.all(table.map(({ match }) => compileMatch(match, invalid)))
    return new Ours(tables, await Promise.all(tables.map(compileAll)))
  }

  decide({ table, method, path, host, headers }: TestRequest): Outcome {
    const lines = (name: string): string[] =>
      name === 'host'
        ? [`t${table}.${host}`]
        : headers.flatMap((text, i) =>
            i % 2 === 0 && text.toLowerCase() === name ? [headers[i + 1]!.trim()] : [],
          )
    const index = this.#matchers[table]!.findIndex((matches) => matches({ method, path, lines }))
    const found = this.#tables[table]![index]
    if (found === undefined) return { route: undefined }
    const changed = (given: readonly string[], all: readonly (HeaderChanges | undefined)[]): string[] =>
      all
        .map((changes) => checkChanges(changes ?? NO_CHANGES, () => undefined))
        .reduce<string[]>((before, changes) => applyChanges(before, changes), given.map(trimmed))
    const { rewrite, match, leg, request, response } = found
    return {
      route: index,
      path: rewrite === undefined ? path : rewritePath(path, match.path, rewrite),
      request: normalized(changed(headers, [leg?.request, request]), true),
      response: normalized(changed(UPSTREAM_HEADERS, [leg?.response, response]), false),
    }
  }
}

function trimmed(text: string): string {
  return text.trim()
}

async function askEnvoy(client: RawClient, request: TestRequest): Promise<Outcome | number> {
  const { table, method, path, host, headers } = request
  const length = method === 'POST' || method === 'PUT' ? ['content-length', '0'] : []
  const lines = headerBytes(['host', `t${table}.${host}`, ...headers, ...length])
  const { status, headers: response } = await client.send(`${method} ${path} HTTP/1.1\r\n${lines}\r\n`)
  if (status === 404) return { route: undefined }
  if (status !== 200) return status
  const echo = response[response.indexOf('x-echo') + 1]!
  const { start, headers: sent } = parseHead(Buffer.from(echo, 'hex').toString('latin1'))
  return {
    route: Number(sent[sent.indexOf('x-route') + 1]),
    path: start.slice(method.length + 1, -' HTTP/1.1'.length),
    request: normalized(sent, true),
    response: normalized(response, false),
  }
}

/** Sends all requests to Envoy over a few connections, and compares its decisions with ours. */
async function compare(
  t: TestContext,
  tables: readonly Table[],
  requests: readonly TestRequest[],
): Promise<Outcome[]> {
  const [port, ours] = [await freePort(), await Ours.of(tables)]
  await startStaticEnvoy(t, envoyConfig(tables, port, await startHeadEcho(t, UPSTREAM_HEADERS)))
  const queue = requests.values()
  const outcomes: Outcome[] = []
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      const client = new RawClient(port)
      for (const request of queue) {
        const outcome = ours.decide(request)
        const details = (): string => JSON.stringify([request, tables[request.table]])
        assert.deepEqual(await askEnvoy(client, request), outcome, details())
        outcomes.push(outcome)
      }
      client.close()
    }),
  )
  return outcomes
}

function path(kind: PathRule['kind'], value: string, ignoreCase = false): PathRule {
  return { kind, value, ignoreCase }
}

function header(
  name: string,
  kind: HeaderRule['kind'],
  value = '',
  more: Partial<HeaderRule> = {},
): HeaderRule {
  return { name, kind, value, invert: false, ignoreCase: false, ...more }
}

function query(kind: QueryRule['kind'], value = '', name = 'v'): QueryRule {
  return { name, kind, value }
}

const [INVERT, EITHER] = [{ invert: true }, { ignoreCase: true }]

const PATH_RULES = [
  path('exact', '/sp'),
  path('exact', '/sp?q'),
  path('exact', '/SP', true),
  path('exact', '/'),
  path('prefix', '/sp'),
  path('prefix', '/sp/'),
  path('prefix', '/sp?'),
  path('prefix', '/SP', true),
  path('prefix', '/api/v2'),
  path('prefix', '/'),
  path('regex', '/sp'),
  path('regex', '/SP', true),
  path('regex', '/s.*'),
  path('regex', '(?i)/SP.*'),
  path('regex', '(?i)/abc'),
  path('regex', '/[[:alpha:]]+'),
  path('regex', '/\\Qa.b\\E'),
  path('regex', '/(a+)+$'),
  path('regex', '/api/v[0-9]+/.*'),
  path('regex', '/(api|sp).*'),
  path('regex', '/a|/sp/x'),
  path('regex', '[^?]*'),
  path('regex', '/[^/]*'),
  path('regex', '.*%.*'),
]
const HEADER_VALUES = [
  'user',
  'admin',
  'user,admin',
  'ADMIN',
  '',
  ' admin ',
  'bad\xff',
  '\xe9bad',
  '\xc3\xa9',
  'a=1',
]
const HEADER_NAMES = ['x-role', 'X-B', 'accept', 'user-agent', 'cookie', 'Via', 'x-forwarded-for', 'te-x']
const HEADER_CONDITIONS: readonly (readonly [HeaderRule['kind'], string, Partial<HeaderRule>?])[] = [
  ['present', ''],
  ['present', '', INVERT],
  ['exact', 'admin'],
  ['exact', 'admin', INVERT],
  ['exact', 'user,admin'],
  ['exact', 'Admin', EITHER],
  ['exact', 'é'],
  ['exact', 'É', EITHER],
  ['prefix', 'adm'],
  ['prefix', 'ADM', { ...INVERT, ...EITHER }],
  ['suffix', 'min'],
  ['suffix', 'MIN', EITHER],
  ['contains', 'dmi'],
  ['contains', ',', INVERT],
  ['contains', 'SER', EITHER],
  ['regex', '.*dmin'],
  ['regex', '.*bad.*'],
  ['regex', '.*bad.*', INVERT],
  ['regex', '(?i)ADMIN|.'],
  ['regex', '..'],
  ['regex', '[^a]+'],
  ['regex', '.*'],
]
const PSEUDO_RULES = [
  header(':path', 'exact', '/sp'),
  header(':path', 'regex', '/sp\\?.*'),
  header(':path', 'prefix', '/s'),
  header(':path', 'suffix', 'v=1', INVERT),
  header(':method', 'exact', 'GET'),
  header(':method', 'regex', 'P.*', INVERT),
  header(':authority', 'suffix', '.x'),
  header(':authority', 'regex', 't[0-9]+\\.A:80'),
  header('host', 'suffix', '.a:80', EITHER),
  header('host', 'contains', '.X', INVERT),
  header(':status', 'present'),
  header('keep-alive', 'present', '', INVERT),
]
const QUERY_RULES = [
  query('present'),
  query('exact', '1'),
  query('exact', '%31'),
  query('exact', 'a+b'),
  query('exact', '1=2'),
  query('exact', '1?'),
  query('exact', '%zz'),
  query('exact', 'é'),
  query('regex', '.*'),
  query('regex', '[0-9]'),
  query('present', '', '?v'),
  query('present', '', '%76'),
  query('exact', '2', 'w'),
]
const PATHS = [
  ...['/', '//', '/sp', '/sp/', '/sp/x', '/spare', '/SP', '/Sp/x', '//sp', '/%73p', '/a/../sp', '/sp;v=1'],
  ...[
    '/sp%23',
    '/sp\\x',
    '/a.b',
    '/axb',
    '/aaa',
    '/aaa!',
    '/abc',
    '/ABC',
    '/api/v2/x',
    '/api/v10/',
    '/api',
    '/a',
  ],
  ...['/sp/x/sp', '/%zz', '/%00', '/..', '/./sp'],
]
const QUERIES = [
  ...['', '?', '?v', '?v=', '?v=1', '?v=2&v=1', '?v=1&v=2', '?V=1', '?a&v=1', '?v=%31', '?%76=1', '?v=a+b'],
  ...['?v=a%20b', '?v==1', '?v=1=2', '?&v=1', '?&&v=1', '?x=1;v=1', '?v&v=1', '?v=1?', '??v=1', '?v=1%26'],
  ...['?=1', '?v=%zz', '?v=%C3%A9', '?va=1', '?x=v=1', '?w=2&v=7', '?w=2', '?/sp', '?v=%', '?v=1&'],
]
const METHODS = ['GET', 'POST', 'PUT', 'HEAD', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE']

const GET: Omit<TestRequest, 'table' | 'path'> = { method: 'GET', host: 'x', headers: [] }

describe('Envoy', { skip, concurrency: false }, () => {
  it('decides every path by every rule as we do', async (t) => {
    const tables = PATH_RULES.map((rule) => [route({ path: rule }, { rewrite: '/' })])
    const requests = tables.flatMap((_, table) =>
      PATHS.flatMap((each) => ['', '?q=/sp'].map((more) => ({ ...GET, table, path: each + more }))),
    )
    await compare(t, tables, requests)
  })

  it('decides every query by every rule as we do', async (t) => {
    const tables = QUERY_RULES.map((rule) => [route({ query: [rule] })])
    const requests = tables.flatMap((_, table) =>
      QUERIES.map((each) => ({ ...GET, table, path: `/${each}` })),
    )
    await compare(t, tables, requests)
  })

  it('decides headers with one and with two lines as we do', async (t) => {
    const names = HEADER_NAMES.slice(0, 5)
    const tables = names.flatMap((name) =>
      HEADER_CONDITIONS.map(([kind, value, more]) => [
        route({ headers: [header(name.toLowerCase(), kind, value, more)] }),
      ]),
    )
    const pairs: string[][] = [
      [],
      ...HEADER_VALUES.map((value) => [value]),
      ...['user', 'bad\xff', '', 'admin'].flatMap((a) => ['admin', '\xe9bad', ''].map((b) => [a, b])),
    ]
    const requests = tables.flatMap((_, table) =>
      pairs.map((lines) => {
        const name = names[Math.floor(table / HEADER_CONDITIONS.length)]!
        return { ...GET, table, path: '/', headers: lines.flatMap((line) => [name, line]) }
      }),
    )
    await compare(t, tables, requests)
  })

  it('decides methods, hosts, and whole targets as we do', async (t) => {
    const tables = [
      ...PSEUDO_RULES.map((rule) => [route({ headers: [rule] })]),
      [route({ methods: ['GET', 'POST'] }), route({ methods: ['HEAD'] })],
    ]
    const requests = tables.flatMap((_, table) =>
      METHODS.flatMap((method) =>
        ['x', 'A:80'].flatMap((host) =>
          ['/sp', '/sp?v=1', '/x'].map((each) => ({
            ...{ table, method, host, path: each },
            headers: ['keep-alive', '5'],
          })),
        ),
      ),
    )
    await compare(t, tables, requests)
  })

  it('joins the lines of the same headers', async (t) => {
    const names = [
      ...['x-role', 'accept', 'accept-encoding', 'accept-language', 'access-control-allow-origin'],
      ...[
        'access-control-request-headers',
        'access-control-request-method',
        'access-control-request-private-network',
        'age',
        'allow',
        'authorization',
      ],
      ...['baggage', 'cache-control', 'content-disposition', 'content-encoding', 'content-language'],
      ...['content-location', 'content-md5', 'content-type', 'cookie', 'date', 'digest', 'dnt', 'early-data'],
      ...['etag', 'expires', 'forwarded', 'from', 'grpc-accept-encoding', 'grpc-encoding', 'grpc-message'],
      ...['grpc-status', 'grpc-timeout', 'if-match', 'if-modified-since', 'if-none-match', 'if-range'],
      ...['if-unmodified-since', 'last-modified', 'link', 'location', 'max-forwards', 'origin', 'pragma'],
      ...[
        'priority',
        'proxy-authenticate',
        'proxy-authorization',
        'range',
        'referer',
        'server',
        'set-cookie',
      ],
      ...['sec-fetch-mode', 'sec-websocket-key', 'sec-websocket-protocol', 'traceparent', 'tracestate'],
      ...['trailer', 'user-agent', 'vary', 'via', 'warning', 'www-authenticate', 'x-amz-date'],
      ...['x-b3-traceid', 'x-client-trace-id', 'x-envoy-attempt-count', 'x-envoy-decorator-operation'],
      ...['x-envoy-downstream-service-cluster', 'x-envoy-downstream-service-node'],
      ...['x-envoy-external-address', 'x-envoy-original-path', 'x-forwarded-for', 'x-forwarded-host'],
      ...['x-forwarded-port', 'x-forwarded-proto', 'x-ot-span-context', 'x-real-ip', 'x-request-id'],
    ]
    const tables = names.map((name) => [
      route({ headers: [header(name, 'exact', 'http,b')] }),
      route({ headers: [header(name, 'exact', 'b')] }),
    ])
    const port = await freePort()
    await startStaticEnvoy(t, envoyConfig(tables, port, await startHeadEcho(t, [])))
    const client = new RawClient(port)
    t.after(() => {
      client.close()
    })
    for (const [table, name] of names.entries()) {
      const outcome = await askEnvoy(client, { ...GET, table, path: '/', headers: [name, 'http', name, 'b'] })
      assert.ok(typeof outcome === 'object', name)
      assert.equal(outcome.route, isJoined(name) ? 0 : 1, name)
    }
  })

  it('changes headers as we do', async (t) => {
    const change = (changes: Partial<HeaderChanges>): HeaderChanges => ({ ...NO_CHANGES, ...changes })
    const changes: HeaderChanges[] = [
      change({ add: [['x-a', '9']] }),
      change({ set: [['x-a', '9']] }),
      change({ remove: ['x-a'] }),
      change({ add: [['x-a', '8']], set: [['x-a', '9']] }),
      change({ add: [['x-a', '8']], set: [['x-c', '9']], remove: ['x-a', 'x-b'] }),
      change({
        add: [
          ['x-n', ''],
          ['x-b', ''],
        ],
        set: [['x-a', '']],
      }),
      change({ add: [['x-n', 'a%%b']], set: [['x-a', '%%%%']] }),
      change({ add: [['x-n', 'é']], set: [['x-a', ' "q"\\\t ']] }),
    ]
    const requestOnly: HeaderChanges[] = [
      change({
        add: [
          ['accept', '9'],
          ['user-agent', '9'],
          ['cookie', 'c=3'],
          ['via', '9'],
        ],
      }),
      change({
        set: [
          ['accept', '9'],
          ['cookie', 'c=3'],
        ],
        remove: ['user-agent'],
      }),
    ]
    const responseOnly = change({ add: [['set-cookie', 'c=3']], set: [['x-b', '2']] })
    const leg = { request: change({ set: [['x-a', 'leg']], add: [['x-d', 'leg']] }), response: changes[0]! }
    const tables = [
      ...changes.map((each) => [route({}, { request: each, response: each })]),
      ...requestOnly.map((each) => [route({}, { request: each })]),
      [route({}, { response: responseOnly })],
      // Those of a leg come first.
      [route({}, { leg, request: change({ add: [['x-d', 'route']] }), response: changes[1]! })],
      [route({}, { leg, request: changes[1]!, response: change({ remove: ['x-a'] }) })],
    ]
    const headers = ['x-a', '1', 'X-B', '1', 'x-a', '2', 'Accept', 'a', 'accept', 'b', 'x-c', '1']
    const more = ['user-agent', 'u', 'cookie', 'a=1', 'cookie', 'b=2']
    const requests = tables.flatMap((_, table) =>
      [[], headers, [...headers, ...more]].map((lines) => ({ ...GET, table, path: '/', headers: lines })),
    )
    await compare(t, tables, requests)
  })

  it('decides, rewrites, and changes 4,000 generated requests as we do', async (t) => {
    const random = seeded(20_26)
    const one = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
    const some = <T>(most: number, make: () => T): T[] =>
      Array.from({ length: Math.floor(random() * (most + 1)) }, make)
    const isTrue = (share: number): boolean => random() < share

    const headerRule = (): HeaderRule => {
      if (isTrue(0.15)) return one(PSEUDO_RULES)
      const [kind, value, more] = one(HEADER_CONDITIONS)
      return header(one(HEADER_NAMES).toLowerCase(), kind, value, more)
    }
    const change = (names: readonly string[]): HeaderChanges => {
      const line = (): [string, string] => [one(names), one(['1', 'a%%b', 'é', '', 'x, y'])]
      // A configuration entry has each name once.
      return {
        remove: some(1, () => one(names)),
        set: [...new Map(some(2, line))],
        add: [...new Map(some(2, line))],
      }
    }
    const testRoute = (): TestRoute =>
      route(
        {
          path: isTrue(0.8) ? one(PATH_RULES) : undefined,
          headers: isTrue(0.4) ? some(2, headerRule) : [],
          query: isTrue(0.25) ? some(2, () => one(QUERY_RULES)) : [],
          methods: isTrue(0.2) ? [...new Set(some(3, () => one(METHODS)))] : [],
        },
        {
          rewrite: isTrue(0.5) ? one(['/', '/z', '/z/', '//y', '/z?w=1', '/%41']) : undefined,
          request: isTrue(0.5) ? change(['x-role', 'x-b', 'x-new', 'accept', 'cookie', 'via']) : NO_CHANGES,
          response: isTrue(0.5) ? change(['x-a', 'x-b', 'x-new', 'set-cookie']) : NO_CHANGES,
        },
      )
    const tables = Array.from({ length: 60 }, () => Array.from({ length: 6 }, testRoute))
    const requests = Array.from({ length: 4_000 }, (): TestRequest => ({
      table: Math.floor(random() * tables.length),
      method: isTrue(0.6) ? 'GET' : one(METHODS),
      path: one(PATHS) + (isTrue(0.5) ? one(QUERIES) : ''),
      host: one(['x', 'A:80', 'X']),
      headers: some(4, () => [one(HEADER_NAMES), one(HEADER_VALUES)]).flat(),
    }))
    const outcomes = await compare(t, tables, requests)
    // The tables must not decide all requests in the same way.
    for (const index of [0, 1, 2, 3, 4, 5, undefined]) {
      const count = outcomes.filter((outcome) => outcome.route === index).length
      assert.ok(count > 40, `route ${index}: ${count}`)
    }
  })
})
