import type { TestContext } from 'node:test'
import { parsePermissions } from '../src/agent/endpoints/permissions.js'
import { DEFAULT_NORMALIZATION } from '../src/agent/endpoints/mesh-entry.js'
import { decideRequest } from '../src/authorize/requests/decide-request.js'
import { PermissionRules } from '../src/authorize/requests/permission-rules.js'
import { PermissionPolicy } from '../src/authorize/requests/request-policy.js'
import { TestAgent } from '../src/testing/index.js'
import { type EnvoyPair, hasConsulForEnvoy, hasEnvoy, startEnvoyPair, startEnvoysOfConsul } from './envoy.js'
import { type Benchmark, median, round } from './measure.js'
import type { Kind, Load } from './native-kinds.js'
import { type Measured, type Server, measure, script } from './native-run.js'
import { startProgram } from './process.js'
import { withFixtures } from './scope.js'

const ROUNDS = 5
const DECISIONS = 200_000
/** 40 bytes; only the last permission is for it. */
const PATH = '/store/items/0123456789/reviews?page=200'
const LOAD: Load = { concurrency: 16, seconds: 4, path: PATH }

/** Six exact or prefix paths, two headers, a method, and an expression. */
const PERMISSIONS: { Action: 'allow' | 'deny'; HTTP: Record<string, unknown> }[] = [
  { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
  { Action: 'deny', HTTP: { PathExact: '/metrics' } },
  { Action: 'deny', HTTP: { PathPrefix: '/internal/' } },
  { Action: 'deny', HTTP: { PathPrefix: '/store/items/0123456789/prices' } },
  { Action: 'deny', HTTP: { PathExact: '/store' } },
  { Action: 'deny', HTTP: { Header: [{ Name: 'x-debug', Present: true }] } },
  { Action: 'deny', HTTP: { Header: [{ Name: 'x-role', Exact: 'guest' }] } },
  { Action: 'deny', HTTP: { Methods: ['DELETE'] } },
  { Action: 'deny', HTTP: { PathRegex: '/store/.*/drafts' } },
  { Action: 'allow', HTTP: { PathPrefix: '/store/items' } },
]

const EXPRESSIONS = Array.from({ length: 10 }, (_, i) => ({
  Action: 'deny',
  HTTP: { PathRegex: `/store/[a-z]+/[0-9]+/kind-${i}` },
}))

/** Requests of native clients with and without permissions, and through a pair of Envoys with the same permissions. */
const benchmark: Benchmark = {
  question: 'What do ten permissions cost a request, and how does that compare with a pair of Envoys?',
  async run() {
    return { ...(await decisions()), ...(await withFixtures(compare)) }
  },
}
export default benchmark

async function decisions(): Promise<Record<string, Record<string, number>>> {
  return {
    'a decision by ten permissions': { 'µs/decision': await decide(PERMISSIONS) },
    'a decision by ten expressions': { 'µs/decision': await decide(EXPRESSIONS) },
  }
}

async function decide(permissions: readonly object[]): Promise<number> {
  const rules = await PermissionRules.compile(parsePermissions(permissions, 'permissions'))
  const policy = new PermissionPolicy({
    ...{ intention: 'web => api', rules, defaultAllows: false },
    normalization: DEFAULT_NORMALIZATION,
  })
  const rawHeaders = [
    ...['Host', 'api.service.consul', 'Connection', 'keep-alive', 'Accept', '*/*', 'User-Agent', 'bench'],
    ...['Accept-Encoding', 'gzip, deflate', 'X-Request-Id', '5f0c9f1e-7a0e-4b57-8d39-6f1f5f0b7c11'],
  ]
  const request = { method: 'GET', target: PATH, authority: undefined, rawHeaders, isHttp2: false }
  const times: number[] = []
  for (let i = 0; i <= ROUNDS; i += 1) {
    const begin = performance.now()
    for (let n = 0; n < DECISIONS; n += 1) decideRequest(request, policy)
    if (i > 0) times.push(((performance.now() - begin) * 1_000) / DECISIONS)
  }
  return round(median(times), 2)
}

/** Envoys whose configuration has only what the comparison needs, and Envoys that Consul configures. */
const MINIMAL = 'minimal Envoys, ten permissions'
const CONSULS = "Consul's Envoys, ten permissions"

interface Contestant {
  readonly kind: Kind
  readonly address: string
  readonly server: Server
}

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const open = await TestAgent.start({ version: '1.15' })
  const ruled = await TestAgent.start({ version: '1.15', defaultPolicy: 'deny' })
  scope.after(() => Promise.all([open.close(), ruled.close()]))
  ruled.setIntention('native-web', 'native-api', PERMISSIONS as never)
  const body = JSON.stringify({ Kind: 'service-defaults', Name: 'native-api', Protocol: 'http' })
  // For both: clients of an HTTP service route each request.
  for (const { url } of [open, ruled]) await fetch(`${url}/v1/config`, { method: 'PUT', body })
  const contestants: Record<string, Contestant> = {
    'native, no permissions': await native(scope, open.address),
    'native, ten permissions': await native(scope, ruled.address),
    // What is left when a mesh costs nothing.
    'plain text, no mesh': await behind(scope, open.address, (application) =>
      Promise.resolve({ ports: { http: application }, cpuSeconds: () => 0 }),
    ),
  }
  if (hasEnvoy()) {
    const minimal = { address: open.address, env: {} }
    contestants[MINIMAL] = await behind(scope, open.address, (application) =>
      startEnvoyPair(scope, minimal, { http: application }, 'http', [rbacFilter()]),
    )
    if (hasConsulForEnvoy()) {
      contestants[CONSULS] = await behind(scope, open.address, (application) =>
        startEnvoysOfConsul(scope, application, PERMISSIONS),
      )
    }
  }
  const results = new Map<string, Measured[]>(Object.keys(contestants).map((name) => [name, []]))
  // Interleaved, so that changes of the machine affect all of them.
  for (let i = 0; i < ROUNDS; i += 1) {
    for (const [name, { kind, address, server }] of Object.entries(contestants))
      results.get(name)?.push(await measure(kind, address, server, LOAD))
  }
  const against = (base: string, own: readonly Measured[], figure: keyof Measured): number =>
    round(median(own.map((m, i) => m[figure] / (results.get(base)?.[i]?.[figure] ?? NaN))), 2)
  return Object.fromEntries(
    [...results].map(([name, own]) => [
      name,
      {
        'requests/s': round(median(own.map(({ perSecond }) => perSecond)), 0),
        'p50 ms': round(median(own.map(({ p50 }) => p50)), 3),
        'p99 ms': round(median(own.map(({ p99 }) => p99)), 3),
        'CPU µs/request': round(median(own.map(({ cpuMs }) => cpuMs * 1_000)), 1),
        'requests/s vs. no permissions': against('native, no permissions', own, 'perSecond'),
        'requests/s vs. minimal Envoys': against(MINIMAL, own, 'perSecond'),
        'CPU vs. minimal Envoys': against(MINIMAL, own, 'cpuMs'),
        "requests/s vs. Consul's Envoys": against(CONSULS, own, 'perSecond'),
        "CPU vs. Consul's Envoys": against(CONSULS, own, 'cpuMs'),
      },
    ]),
  )
}

async function native(scope: TestContext, address: string): Promise<Contestant> {
  const program = await startProgram(scope, script('native-server.ts', 'native', address), {
    ready: 'ready ',
  })
  return { kind: 'native', address, server: { port: 0, cpuSeconds: () => program.cpuSeconds() } }
}

/** An application that is reached through a pair of proxies. */
async function behind(
  scope: TestContext,
  address: string,
  startPair: (application: number) => Promise<EnvoyPair>,
): Promise<Contestant> {
  const kind = 'Envoy, http'
  const program = await startProgram(scope, script('native-server.ts', kind, address), { ready: 'ready ' })
  const port = Number(/ready (\d+)/.exec(program.output())?.[1])
  const pair = await startPair(port)
  return {
    kind,
    address,
    server: { port: pair.ports['http'] ?? 0, cpuSeconds: () => program.cpuSeconds() + pair.cpuSeconds() },
  }
}

/** The filter as Consul writes it for the default policy deny: the last permission allows, without those before it. */
function rbacFilter(): object {
  const conditions = PERMISSIONS.map(({ HTTP }) => envoyCondition(HTTP))
  const [allowed, ...denied] = conditions.reverse()
  const rules = [allowed, ...denied.map((rule) => ({ not_rule: rule }))]
  const policy = { permissions: [{ and_rules: { rules } }], principals: [{ any: true }] }
  return {
    name: 'rbac',
    typed_config: {
      '@type': 'type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC',
      rules: { policies: { web: policy } },
    },
  }
}

function envoyCondition(http: Record<string, unknown>): object {
  const { PathPrefix: prefix, PathExact: exact, PathRegex: regex, Methods, Header } = http
  if (Methods !== undefined) {
    const string_match = { safe_regex: { regex: (Methods as string[]).join('|') } }
    return { header: { name: ':method', string_match } }
  }
  if (Header !== undefined) {
    const [{ Name: name, Exact } = { Name: '' }] = Header as { Name: string; Exact?: string }[]
    return {
      header: {
        name,
        ...(Exact === undefined ? { present_match: true } : { string_match: { exact: Exact } }),
      },
    }
  }
  const path = prefix !== undefined ? { prefix } : exact !== undefined ? { exact } : { safe_regex: { regex } }
  return { url_path: { path } }
}
