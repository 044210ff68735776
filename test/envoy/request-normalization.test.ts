// How requests are made comparable before permissions decide them, the rules that Consul 1.14 does not know, and headers
// that Envoy treats specially: the same requests are decided by Envoy and by our functions.
import './consul-binary.js'
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import {
  type Http2ServerRequest,
  type OutgoingHttpHeaders,
  connect as http2Connect,
  createSecureServer,
} from 'node:http2'
import type { Duplex } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { isDeepStrictEqual } from 'node:util'
import { DEFAULT_NORMALIZATION, type RequestNormalization } from '../../src/agent/endpoints/mesh-entry.js'
import { parsePermissions } from '../../src/agent/endpoints/permissions.js'
import { decideRequest } from '../../src/authorize/requests/decide-request.js'
import { PermissionRules } from '../../src/authorize/requests/permission-rules.js'
import { PermissionPolicy, type RequestPolicy } from '../../src/authorize/requests/request-policy.js'
import { freePort } from '../fixtures/free-ports.js'
import { portOf, startMesh } from '../fixtures/mesh.js'
import { seeded } from '../fixtures/random.js'
import { skip, startStaticEnvoy } from './envoy.js'
import { type PermissionTable, UNDERSCORES, rbacConfig } from './envoy-rbac.js'
import {
  type CaseHeader,
  type CasePermission,
  type CaseRequest,
  kindsOf,
  makePermissions,
  makeRequest,
} from './permission-cases.js'
import { RawClient, echoedHead, headerBytes, startHeadEcho } from './raw-http.js'

/** What happens to a request: the path of an allowed one, or the status of another. */
interface Outcome {
  readonly path?: string
  readonly status?: number
  readonly location?: string
}

const SETTINGS: readonly RequestNormalization[] = [true, false].flatMap((normalize) =>
  [true, false].flatMap((mergeSlashes) =>
    (['keep', 'reject', 'redirect', 'unescape'] as const).map((escapedSlashes) => ({
      ...DEFAULT_NORMALIZATION,
      ...{ normalize, mergeSlashes, escapedSlashes },
    })),
  ),
)

const TOKENS = [
  ...[
    '/',
    '/',
    '/',
    '/',
    '.',
    '..',
    './',
    '../',
    '/.',
    '/..',
    '//',
    ';',
    ';x',
    '..;',
    '..;/',
    '\\',
    '\\..\\',
  ],
  ...['%2E', '%2e', '%2F', '%2f', '%5c', '%5C', '%00', '%41', '%7e', '%25', '%252e', '%3B', '%3f', '%c3%a9'],
  ...[
    '%',
    '%2',
    '%g1',
    '"',
    '<',
    '|',
    '^',
    '{',
    '~',
    '!',
    '*',
    ':',
    '@',
    'a',
    'b',
    'admin',
    '=',
    '?',
    '?/../a',
  ],
]
const PATHS_OF_EACH = 400
const CLIENTS = 4

describe('paths are made comparable as Envoy does', { skip }, () => {
  it('for random paths, on every setting', async (t) => {
    const random = seeded(3)
    const counts = { same: 0, changed: 0, 400: 0, 307: 0 }
    const makePaths = (): string[] => Array.from({ length: PATHS_OF_EACH }, () => randomPath(random))
    await comparePaths(t, SETTINGS, makePaths, (path, { path: found, status }) => {
      if (status === 400 || status === 307) counts[status] += 1
      else counts[found === path ? 'same' : 'changed'] += 1
    })
    t.diagnostic(JSON.stringify(counts))
    for (const count of Object.values(counts)) assert.ok(count >= 400, JSON.stringify(counts))
  })

  it('for every byte, and for every escape', async (t) => {
    const bytes = Array.from({ length: 0xff - 0x20 }, (_, i) => String.fromCharCode(0x21 + i))
    const escapes = Array.from({ length: 0x100 }, (_, i) => `%${i.toString(16).padStart(2, '0')}`)
    const all = [...new Set([...bytes, ...escapes, ...escapes.map((text) => text.toUpperCase())])]
    // The other settings are for several slashes, which no path has here.
    const settings = SETTINGS.filter(({ mergeSlashes }) => !mergeSlashes)
    await comparePaths(t, settings, () => all.map((text) => `/a${text}b`))
  })
})

function randomPath(random: () => number): string {
  const length = 1 + Math.floor(random() * 8)
  return `/${Array.from({ length }, () => TOKENS[Math.floor(random() * TOKENS.length)]!).join('')}`
}

/** Sends paths to Envoy, with each of the settings, and compares what its upstream gets with our outcome. */
async function comparePaths(
  t: TestContext,
  settings: readonly RequestNormalization[],
  makePaths: () => readonly string[],
  compared: (path: string, outcome: Outcome) => void = () => undefined,
): Promise<void> {
  const ports = await startRbac(t, settings, [])
  const queue = settings.entries()
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      for (const [i, normalization] of queue) {
        const client = new RawClient(ports[i]!)
        const decide = decider(allowAll(normalization))
        for (const path of makePaths()) {
          const request = { method: 'GET', path, host: 'x', headers: [] }
          const outcome = await askEnvoy(client, request)
          assert.deepEqual(decide(request), outcome, JSON.stringify([path, normalization]))
          compared(path, outcome)
        }
        client.close()
      }
    }),
  )
}

/** Starts an Envoy with a listener for each of the settings. @returns their ports */
async function startRbac(
  t: TestContext,
  settings: readonly RequestNormalization[],
  tables: readonly PermissionTable[],
): Promise<number[]> {
  const ports = await Promise.all(settings.map(() => freePort()))
  const listeners = settings.map((normalization, i) => ({ port: ports[i]!, normalization }))
  await startStaticEnvoy(t, rbacConfig(listeners, tables, await startHeadEcho(t, [])))
  return ports
}

function allowAll(normalization: RequestNormalization): RequestPolicy {
  const decision = { authorized: true, basis: 'permissions', reason: 'all requests' } as const
  return { normalization, decide: () => ({ ...decision, intention: undefined, permission: undefined }) }
}

/** The request of a test in bytes. */
function bytesOf({ method, path, host, headers }: CaseRequest): string {
  const body = ['POST', 'PUT', 'PATCH', 'DELETE'].includes(method) ? ['content-length', '0'] : []
  return `${method} ${path} HTTP/1.1\r\n${headerBytes(['host', host, ...headers, ...body])}\r\n`
}

async function askEnvoy(client: RawClient, request: CaseRequest): Promise<Outcome> {
  const { status, headers } = await client.send(bytesOf(request))
  if (status === 307) return { status, location: headers[headers.indexOf('location') + 1]! }
  return status === 200 ? { path: echoedHead({ headers }).split(' ')[1]! } : { status }
}

/** @param decided - receives the number of the permission that decided, from 1 */
function decider(
  policy: RequestPolicy,
  decided: (permission: number | undefined) => void = () => undefined,
): (request: CaseRequest) => Outcome {
  return ({ method, path, host, headers }) => {
    const rawHeaders = ['host', host, ...headers]
    const received = { method, target: path, authority: undefined, rawHeaders, isHttp2: false }
    const { head, decision, status, location } = decideRequest(received, policy)
    if (decision.basis !== 'malformed') decided(decision.permission)
    if (decision.authorized) return { path: head.path }
    return location === undefined ? { status } : { status, location }
  }
}

const TABLES = 80
const REQUESTS_OF_EACH = 40
/** Conditions that Consul 1.14 does not know. */
const NEW_KINDS = ['Contains', 'IgnoreCase'] as const

describe('permissions with conditions of Consul 1.20.1', { skip }, () => {
  for (const defaultPolicy of ['deny', 'allow'] as const) {
    it(`are decided as Envoy does, where the default policy is ${defaultPolicy}`, async (t) => {
      const random = seeded(defaultPolicy === 'deny' ? 4 : 5)
      const tables = Array.from({ length: TABLES }, () => makeTable(random, defaultPolicy))
      // Before any client, so that the order in which they take turns does not matter.
      const requests = tables.map(() => Array.from({ length: REQUESTS_OF_EACH }, () => makeRequest(random)))
      const ports = await startRbac(t, SETTINGS, tables)
      const counts = new Map<string, number>()
      const count = (kind: string): void => void counts.set(kind, (counts.get(kind) ?? 0) + 1)
      const queue = tables.entries()
      await Promise.all(
        Array.from({ length: CLIENTS }, async () => {
          for (const [i, table] of queue) {
            const setting = i % SETTINGS.length
            const client = new RawClient(ports[setting]!)
            const policy = await policyOf(table, SETTINGS[setting]!)
            const decide = decider(policy, (permission) => {
              const kinds =
                permission === undefined ? ['no permission'] : kindsOf(table.permissions[permission - 1]!)
              for (const kind of new Set(kinds)) count(kind)
            })
            for (const made of requests[i]!) {
              const request = { ...made, host: `t${i}.x` }
              const outcome = decide(request)
              const details = JSON.stringify([request, SETTINGS[setting], table])
              assert.deepEqual(outcome, await askEnvoy(client, request), details)
              count('all')
              count(outcome.status === undefined ? 'allowed' : String(outcome.status))
            }
            client.close()
          }
        }),
      )
      const shown = JSON.stringify([...counts])
      t.diagnostic(shown)
      for (const kind of ['400', '307', 'no permission', 'inverted', ...NEW_KINDS])
        assert.ok((counts.get(kind) ?? 0) >= 50, `${kind}: ${shown}`)
      for (const kind of ['allowed', '403', ...NEW_KINDS])
        assert.ok((counts.get(kind) ?? 0) >= 100, `${kind}: ${shown}`)
    })
  }
})

/** Makes permissions without rules on the host, which names the table. */
function makeTable(random: () => number, defaultPolicy: PermissionTable['defaultPolicy']): PermissionTable {
  const isForHost = ({ HTTP }: CasePermission): boolean =>
    HTTP.Header?.some(({ Name }) => Name === 'host' || Name === ':authority') === true
  return { defaultPolicy, permissions: makePermissions(random, true).filter((each) => !isForHost(each)) }
}

async function policyOf(
  { defaultPolicy, permissions }: PermissionTable,
  normalization: RequestNormalization,
): Promise<RequestPolicy> {
  const rules = await PermissionRules.compile(parsePermissions(permissions, 'Permissions'))
  assert.deepEqual(rules.problems, [])
  const defaultAllows = defaultPolicy === 'allow'
  return new PermissionPolicy({ intention: 'web => api', rules, defaultAllows, normalization })
}

/** A request with headers that Envoy treats specially, and a rule on a header; without one, its path is allowed. */
interface SpecialRequest {
  readonly rule?: CaseHeader
  /** The first line of HTTP/1; `PATH` stands for the path that the rule is for. @default GET PATH HTTP/1.1 */
  readonly start?: string
  /** The header lines of HTTP/1: name, value, name, value. @default host: api */
  readonly lines?: readonly string[]
  /** The headers of HTTP/2 besides `:path`. */
  readonly http2?: OutgoingHttpHeaders
}

function special(rules: readonly CaseHeader[], all: readonly (readonly string[])[]): SpecialRequest[] {
  return all.flatMap((lines) => rules.map((rule) => ({ rule, lines: ['host', 'api', ...lines] })))
}

function special2(rules: readonly CaseHeader[], all: readonly OutgoingHttpHeaders[]): SpecialRequest[] {
  return all.flatMap((http2) => rules.map((rule) => ({ rule, http2: { ':authority': 'api', ...http2 } })))
}

/** Rules by which a value can be told. */
function rulesFor(Name: string, ...values: string[]): CaseHeader[] {
  const rules = [{ Name, Present: true }, ...values.map((Exact) => ({ Name, Exact }))]
  return rules.flatMap((rule) => [rule, { ...rule, Invert: true }])
}

function targets(starts: readonly string[], ...lines: string[]): SpecialRequest[] {
  return starts.map((start) => ({ start, lines: ['host', 'api', ...lines] }))
}

/** A request, and what each of the two does with it: its status, or `closed`. */
interface Difference {
  readonly request: SpecialRequest
  readonly statuses: readonly [envoy: string, ours: string]
  readonly why: string
}

function differ(
  why: string,
  all: readonly (readonly [requests: readonly SpecialRequest[], envoy: string, ours: string])[],
): Difference[] {
  return all.flatMap(([requests, ...statuses]) => requests.map((request) => ({ request, statuses, why })))
}

const PRESENT = (Name: string): CaseHeader => ({ Name, Present: true })
const ABSENT = (Name: string): CaseHeader => ({ Name, Present: true, Invert: true })

const SCHEMES = [...rulesFor(':scheme', 'http', 'https'), ...rulesFor('x-forwarded-proto', 'http', 'https')]
const FORWARDED = ['x-forwarded-for', 'x-forwarded-host', 'x-forwarded-port', 'x-client-trace-id', 'via']
const ENVOY_KEEPS = [
  'custom',
  'original-path',
  'external-address',
  'decorator-operation',
  'attempt-count',
].map((name) => `x-envoy-${name}`)
const HOSTS = [...rulesFor('host', 'api', 'other'), ...rulesFor(':authority', 'api', 'other')]
const COOKIES = rulesFor('cookie', 'a=1', 'b=2', 'a=1; b=2')
const HOST_BYTES = Array.from(' \t!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~\x80\xe9\xff', (byte) => `a${byte}b`)

/** Envoy and `serve` do the same. */
const SPECIAL: readonly SpecialRequest[] = [
  ...special(SCHEMES, [
    ...[[], ['x-forwarded-proto', 'http'], ['x-forwarded-proto', 'https'], ['x-forwarded-proto', 'HTTP']],
    ...[
      ['x-forwarded-proto', 'ftp'],
      ['x-forwarded-proto', 'http', 'x-forwarded-proto', 'https'],
    ],
  ]),
  ...special2(SCHEMES, [{}, { ':scheme': 'http' }, { ':scheme': 'HTTPS' }, { 'x-forwarded-proto': 'http' }]),
  ...SCHEMES.flatMap((rule) =>
    ['http', 'HTTP', 'https'].map((scheme) => ({ rule, start: `GET ${scheme}://apiPATH HTTP/1.1` })),
  ),
  ...[...FORWARDED, ...ENVOY_KEEPS].flatMap((name) => special(rulesFor(name, '1'), [[], [name, '1']])),
  ...special(rulesFor('x-request-id', 'abc'), [['x-request-id', 'abc']]),
  ...special(rulesFor('x-role', 'admin'), [
    ...[
      ['connection', 'close'],
      ['connection', 'keep-alive'],
      ['connection', 'TE, close'],
    ].map((lines) => [...[...lines, 'x-role', 'admin']]),
    ...[
      ['x-role', ' admin '],
      ['x-role', 'admin\t'],
    ],
  ]),
  ...special(
    [...rulesFor('te', 'trailers'), ...rulesFor('keep-alive'), ...rulesFor('transfer-encoding', 'chunked')],
    [[], ['te', 'trailers'], ['keep-alive', 'timeout=5'], ['transfer-encoding', 'chunked']],
  ),
  ...special2(rulesFor('te', 'trailers'), [{ te: 'trailers' }]),
  ...special(rulesFor('content-length', '0', '00'), [[], ['content-length', '0'], ['content-length', '00']]),
  ...special(rulesFor('http2-settings', 'AA'), [['connection', 'http2-settings', 'http2-settings', 'AA']]),
  ...special(rulesFor('upgrade', 'websocket'), [['connection', 'Upgrade', 'upgrade', 'websocket']]),
  ...special(COOKIES, [
    ['cookie', 'a=1', 'cookie', 'b=2'],
    ['cookie', 'a=1; b=2'],
  ]),
  ...special2(COOKIES, [{ cookie: ['a=1', 'b=2'] }, { cookie: ['b=2', 'a=1'] }, { cookie: 'a=1; b=2' }]),
  ...special(HOSTS, [[]]),
  ...special2(HOSTS, [{}, { host: 'api' }]),
  ...HOSTS.map((rule) => ({ rule, start: 'GET http://otherPATH HTTP/1.1' })),
  ...HOST_BYTES.map((host) => ({ lines: ['host', host] })),
  ...HOST_BYTES.filter((host) => /^[!-?A-~]+$/.test(host)).map((host) => ({ http2: { ':authority': host } })),
  ...targets(
    [
      ...['GET //other/any', 'GET ftp://api/any', 'GET http:///any', 'GET http:/any', 'GET http://a%20b/any'],
      ...[
        'GET http://a;b/any',
        'GET http://a,b/any',
        'GET http://[::1]/any',
        'GET http://a[b/any',
        'GET any',
      ],
      ...['GET http://api:80/any', 'GET http://api/x/../any', 'GET ?any', 'get PATH', 'Get PATH', 'FOO PATH'],
      ...['PROPFIND PATH', 'CONNECT http://x/any'],
    ].map((start) => `${start} HTTP/1.1`),
  ),
  { lines: [] },
  { lines: ['host', ''] },
  { http2: { ':authority': 'api', ':method': 'FOO' } },
  { http2: { ':authority': 'api', ':method': 'get' } },
]

/** Envoy and `serve` differ: what each does, and why. */
const DIFFERENCES: readonly Difference[] = [
  ...differ(
    'A server sees, and gives its handler, headers of the connection that Envoy removes or changes.',
    [
      [special([PRESENT('te')], [['te', 'gzip']]), '403', '200'],
      [special([{ Name: 'te', Exact: 'trailers' }], [['te', 'gzip, trailers']]), '200', '403'],
      [
        special(
          [PRESENT('connection')],
          [
            ['connection', 'close'],
            ['connection', 'keep-alive'],
          ],
        ),
        '403',
        '200',
      ],
      [special([PRESENT('upgrade')], [['upgrade', 'websocket']]), '403', '200'],
      [special([PRESENT('expect')], [['expect', '100-continue']]), '403', '200'],
    ],
  ),
  ...differ('Envoy ignores an upgrade to h2c, and refuses one that is not configured.', [
    [special([PRESENT('upgrade')], [['connection', 'upgrade', 'upgrade', 'h2c']]), '403', '200'],
    [special([PRESENT('upgrade')], [['connection', 'upgrade', 'upgrade', 'other']]), '403', '200'],
  ]),
  ...differ('Node.js knows no other expectation.', [
    [special([PRESENT('expect')], [['expect', 'other']]), '200', '417'],
  ]),
  ...differ('Envoy removes a header that Connection names. A server would give it to its handler.', [
    [special([PRESENT('x-role')], [['connection', 'x-role', 'x-role', 'admin']]), '403', '400'],
    [special([ABSENT('x-role')], [['connection', 'close, X-Role', 'x-role', 'admin']]), '200', '400'],
    [special([ABSENT('x-role')], [['connection', 'x-other']]), '200', '400'],
  ]),
  ...differ('Envoy removes its own instructions. To a server they are headers like any other.', [
    [
      ['internal', 'retry-on', 'max-retries', 'force-trace', 'ip-tags', 'upstream-rq-timeout-ms'].flatMap(
        (name) => special([PRESENT(`x-envoy-${name}`)], [[`x-envoy-${name}`, '1']]),
      ),
      '403',
      '200',
    ],
  ]),
  ...differ('Envoy makes an identifier. Rules of a server see what the client has sent.', [
    [special([PRESENT('x-request-id')], [[]]), '200', '403'],
    [special([ABSENT('x-request-id')], [[]]), '403', '200'],
  ]),
  ...differ('Envoy finds no route for a request without a scheme.', [
    [special([PRESENT('x-forwarded-proto')], [['x-forwarded-proto', '']]), '404', '200'],
  ]),
  ...differ('Envoy refuses other versions, of which rules make no difference.', [
    [targets(['GET PATH HTTP/1.0']), '426', '200'],
  ]),
  ...differ('The parser of Envoy does not know the method. Rules decide about any.', [
    [targets(['M-SEARCH PATH HTTP/1.1']), '400', '200'],
  ]),
  ...differ('Envoy supports no other encoding.', [
    [special([PRESENT('x-role')], [['x-role', '1', 'transfer-encoding', 'gzip, chunked']]), '501', '200'],
  ]),
  ...differ('A request that is malformed, or names two hosts, has no certain meaning.', [
    [[{ lines: ['host', 'api', 'host', 'api'] }, { lines: ['host', 'api', 'host', 'other'] }], '200', '400'],
    [[{ start: 'GET http://api/any HTTP/1.1', lines: [] }], '200', '400'],
    [[{ lines: ['host', 'api', 'x-role', '1\r\n 2'] }], '200', '400'],
    [targets(['GET http://user@api/any HTTP/1.1']), '200', '400'],
    [[{ http2: { ':authority': 'api', host: 'other' } }], '200', '400'],
    [[{ http2: { ':authority': 'a@b' } }], 'closed', '400'],
  ]),
  ...differ('Both refuse it, with another status.', [
    [targets(['OPTIONS * HTTP/1.1', 'GET http://api?x HTTP/1.1']), '404', '400'],
    [[{ http2: { ':authority': 'api', ':method': 'OPTIONS', ':path': '*' } }], '404', '400'],
  ]),
  ...differ('Envoy has no route for CONNECT. A server handles it, or Node.js answers for it.', [
    [targets(['CONNECT api:1 HTTP/1.1']), '404', '200'],
    [[{ http2: { ':authority': 'api:1', ':method': 'CONNECT' } }], '404', '405'],
  ]),
]

const START = 'GET PATH HTTP/1.1'

describe('headers that Envoy treats specially', { skip }, () => {
  it('are compared as Envoy does, but for the listed differences', async (t) => {
    const all = [...SPECIAL, ...DIFFERENCES.map(({ request }) => request)]
    const rules = new Map(
      all.flatMap(({ rule }) => (rule === undefined ? [] : [[JSON.stringify(rule), rule]])),
    )
    const paths = new Map([...rules.keys()].map((text, i) => [text, `/r${i}`]))
    const permissions: CasePermission[] = [
      ...[...rules].map(([text, rule]) => ({ PathExact: paths.get(text)!, Header: [rule] })),
      ...[{ PathExact: '/any' }, { Methods: ['OPTIONS'] }],
      { Methods: ['CONNECT'], Header: [{ Name: 'host', Exact: 'api:1' }] },
    ].map((HTTP) => ({ Action: 'allow', HTTP }))
    const { askEnvoy: envoy, askOurs } = await startBoth(t, permissions)
    const queue = all.entries()
    const problems: string[] = []
    await Promise.all(
      Array.from({ length: 2 * CLIENTS }, async () => {
        for (const [i, request] of queue) {
          const path = paths.get(JSON.stringify(request.rule)) ?? '/any'
          const answers = await Promise.all([envoy(request, path), askOurs(request, path)])
          const statuses = answers.map((answer) => answer.split(' ')[0]!)
          const expected = DIFFERENCES[i - SPECIAL.length]?.statuses
          const isExpected =
            expected === undefined ? answers[0] === answers[1] : isDeepStrictEqual(statuses, expected)
          if (!isExpected) problems.push(JSON.stringify({ request, answers, expected }))
        }
      }),
    )
    t.diagnostic(`${SPECIAL.length} requests are the same, ${DIFFERENCES.length} differ`)
    assert.deepEqual(problems, [])
  })
})

describe('headers with an underscore in their name', { skip }, () => {
  for (const underscores of ['allow', 'reject', 'drop'] as const) {
    it(`are treated as Envoy does: ${underscores}`, async (t) => {
      const rules = [PRESENT('x_role'), ABSENT('x_role'), PRESENT('x-role')]
      const permissions = rules.map((rule, i): CasePermission => {
        return { Action: 'allow', HTTP: { PathExact: `/r${i}`, Header: [rule] } }
      })
      const { askEnvoy: envoy, askOurs } = await startBoth(t, permissions, underscores)
      const lines = [[], ['x_role', '1'], ['X_Role', '1'], ['x-role', '1', 'y_', '1']]
      const headers = [{}, { x_role: '1' }, { 'x-role': '1', y_: '1' }]
      const all: SpecialRequest[] = [
        ...lines.map((each) => ({ lines: ['host', 'api', ...each] })),
        ...headers.map((each) => ({ http2: { ':authority': 'api', ...each } })),
      ]
      for (const request of all) {
        for (const i of rules.keys()) {
          const [theirs, ours] = await Promise.all([envoy(request, `/r${i}`), askOurs(request, `/r${i}`)])
          // Envoy resets the stream of HTTP/2.
          const expected = theirs === 'closed' && request.http2 !== undefined ? '400' : theirs
          assert.equal(ours, expected, JSON.stringify([request, rules[i]]))
        }
      }
    })
  }
})

/** Sends a request. @returns its status, and the path and the host that the handler of an allowed request gets */
type Ask = (request: SpecialRequest, path: string) => Promise<string>

/** Starts an Envoy and servers of ours, with the same permissions for `web`. */
async function startBoth(
  t: TestContext,
  permissions: readonly CasePermission[],
  underscores: RequestNormalization['underscores'] = 'allow',
): Promise<{ readonly askEnvoy: Ask; readonly askOurs: Ask }> {
  const { agent, join } = await startMesh(t, { defaultPolicy: 'deny' })
  const RequestNormalization = { HeadersWithUnderscoresAction: UNDERSCORES[underscores] }
  for (const entry of [
    { Kind: 'service-defaults', Name: 'api', Protocol: 'http' },
    { Kind: 'mesh', HTTP: { Incoming: { RequestNormalization } } },
  ])
    await fetch(`${agent.url}/v1/config`, { method: 'PUT', body: JSON.stringify(entry) })
  // Readonly lists are no JSON to the compiler.
  agent.setIntention('web', 'api', permissions as unknown as Parameters<typeof agent.setIntention>[2])
  const leafOf = (name: string): { key: string; cert: string } => {
    const { privateKeyPem: key, chainPem: cert } = agent.issueLeaf(name)
    return { key, cert }
  }
  const port = await freePort()
  const table = { defaultPolicy: 'deny', permissions } as const
  const normalization = { ...DEFAULT_NORMALIZATION, underscores }
  const listener = { port, normalization, table, tls: leafOf('api') }
  await startStaticEnvoy(t, rbacConfig([listener], [], await startHeadEcho(t, [])))
  const api = join('api')
  const seen = (url = '', host = ''): string =>
    Buffer.from(`GET ${url} \r\nhost: ${host}`, 'latin1').toString('hex')
  const server1 = createServer(({ url, headers }, response) => {
    response.setHeader('x-echo', seen(url, headers.host)).end()
  })
  server1.on('connect', (_request, socket: Duplex) => socket.end('HTTP/1.1 200 OK\r\n\r\n'))
  const server2 = createSecureServer({}, ({ url, authority }: Http2ServerRequest, response) => {
    response.setHeader('x-echo', seen(url, authority))
    response.end()
  })
  const [http1, http2] = [
    await api.serve(server1, { port: 0, host: '127.0.0.1' }),
    await api.serve(server2, { port: 0, host: '127.0.0.1' }),
  ]
  const web = leafOf('web')
  const asker =
    (port1: number, port2: number): Ask =>
    (request, path) => {
      const [to, protocol] = request.http2 === undefined ? [port1, 'http/1.1'] : [port2, 'h2']
      const options = { ...web, rejectUnauthorized: false, ALPNProtocols: [protocol] }
      const socket = tlsConnect({ port: to, host: '127.0.0.1', ...options }).on('error', () => undefined)
      return request.http2 === undefined ? ask1(socket, request, path) : ask2(socket, request.http2, path)
    }
  return { askEnvoy: asker(port, port), askOurs: asker(portOf(http1), portOf(http2)) }
}

async function ask1(
  socket: Duplex,
  { start = START, lines = ['host', 'api'] }: SpecialRequest,
  path: string,
): Promise<string> {
  const body = lines.includes('chunked') ? '0\r\n\r\n' : ''
  socket.write(`${start.replace('PATH', path)}\r\n${headerBytes(lines)}\r\n${body}`, 'latin1')
  let received = ''
  for await (const chunk of socket) {
    received = (received + (chunk as Buffer).toString('latin1')).replace(/^HTTP\/1.1 100 .*\r\n\r\n/, '')
    const [head, status = ''] = /^HTTP\/1.1 (\d+)[^]*?\r\n\r\n/.exec(received) ?? []
    if (head === undefined) continue
    socket.destroy()
    return shown(status, /\r\nx-echo: (.*)\r/i.exec(head)?.[1])
  }
  return 'closed'
}

async function ask2(socket: Duplex, headers: OutgoingHttpHeaders, path: string): Promise<string> {
  const session = http2Connect('https://api', { createConnection: () => socket })
  session.on('error', () => undefined)
  const isConnect = headers[':method'] === 'CONNECT'
  const stream = session.request(
    { ...(!isConnect && { ':path': path }), ...headers },
    { endStream: !isConnect },
  )
  const answer = await new Promise<string>((resolve) => {
    stream.on('error', () => undefined)
    stream.on('close', () => {
      resolve('closed')
    })
    stream.on('response', ({ ':status': status, 'x-echo': echo }) => {
      resolve(shown(String(status), echo as string | undefined))
    })
  })
  session.destroy()
  return answer
}

function shown(status: string, echo: string | undefined): string {
  if (echo === undefined) return status
  const head = Buffer.from(echo, 'hex').toString('latin1')
  return `${status} ${head.split(' ')[1]!} ${/\nhost: *(.*)/i.exec(head)?.[1]?.trim() ?? ''}`
}
