// Intentions with permissions: the same requests are decided by Envoy, as a sidecar of Consul, by `serve`, and by our sidecar.
import './consul-binary.js'
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { Duplex } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { DEFAULT_NORMALIZATION } from '../../src/agent/endpoints/mesh-entry.js'
import { type Permission, parsePermissions } from '../../src/agent/endpoints/permissions.js'
import { PermissionRules, type Verdict } from '../../src/authorize/requests/permission-rules.js'
import { ReceivedHead, type ReceivedRequest } from '../../src/authorize/requests/received-request.js'
import { normalizePath } from '../../src/matching/path-normalization.js'
import type { RequestHead } from '../../src/matching/request-matcher.js'
import { type RealAgent, startConsul } from '../consul/real-agent.js'
import { agentJson, joiner, until } from '../consul/service-mesh.js'
import { freePort } from '../fixtures/free-ports.js'
import { portOf } from '../fixtures/mesh.js'
import { seeded } from '../fixtures/random.js'
import { skip, startSidecar } from './envoy.js'
import {
  type CasePermission,
  type CaseRequest,
  kindsOf,
  makePermissions,
  makeRequest,
} from './permission-cases.js'
import { startProxy } from '../proxy/connect-proxy.js'
import { RawClient, echoedHead, headerBytes, startHeadEcho } from './raw-http.js'

type DefaultPolicy = 'allow' | 'deny'

const SOURCES = 40
const REQUESTS = 75
const CLIENTS = 8
const TOKEN = '9a1cf6b2-7a0e-4b57-8d39-6f1f5f0b7c11'

/** A request that both have decided. */
interface Decided {
  readonly policy: DefaultPolicy
  readonly permissions: readonly CasePermission[]
  readonly head: RequestHead
  readonly request: CaseRequest
  readonly isAllowed: boolean
  readonly verdict: Verdict
}

const decided: Decided[] = []

describe('permissions of intentions', { skip }, () => {
  for (const policy of ['deny', 'allow'] as const) {
    it(`are decided as Envoy does, where the default policy is ${policy}`, async (t) => {
      await compare(t, policy)
    })
  }

  it('were decided for every kind of rule', () => {
    const counts = new Map<string, number>()
    const count = (kind: string): void => void counts.set(kind, (counts.get(kind) ?? 0) + 1)
    for (const { policy, permissions, request, isAllowed, verdict } of decided) {
      count(`default ${policy}`)
      count(isAllowed ? 'allowed' : 'denied')
      if (verdict.action === 'default') count('no permission')
      else for (const kind of new Set(kindsOf(permissions[verdict.permission! - 1]!))) count(kind)
      const roles = request.headers.filter((text, i) => i % 2 === 0 && text.toLowerCase() === 'x-role').length
      const asksRole = permissions.some(({ HTTP }) => HTTP.Header?.some(({ Name }) => Name === 'x-role'))
      if (asksRole && roles === 0) count('absent')
      if (asksRole && roles > 1) count('repeated')
    }
    const kinds = [
      ...[
        'default deny',
        'default allow',
        'allow',
        'deny',
        'no permission',
        'absent',
        'repeated',
        'inverted',
      ],
      ...['PathExact', 'PathPrefix', 'PathRegex', 'Methods', 'Exact', 'Prefix', 'Suffix', 'Regex', 'Present'],
      'pseudo header',
    ]
    const shown = JSON.stringify([...counts])
    for (const kind of kinds) assert.ok((counts.get(kind) ?? 0) >= 100, `${kind}: ${shown}`)
    assert.ok(decided.length >= 5_000, shown)
    for (const result of ['allowed', 'denied'])
      assert.ok((counts.get(result) ?? 0) >= 0.3 * decided.length, `${result}: ${shown}`)
  })

  const faults: Record<string, (decision: Decided) => Promise<boolean>> = {
    'skips the inversion of rules': ({ policy, permissions, head }) =>
      decideBy(policy, changed(permissions, notInverted), head),
    'joins the lines of a header': ({ policy, permissions, head }) =>
      decideBy(policy, permissions, {
        method: head.method,
        path: head.path,
        lines: (name) => {
          const lines = head.lines(name)
          return lines.length > 1 ? [lines.join(',')] : lines
        },
      }),
    'asks the next intention when no permission is for a request': async ({ policy, permissions, head }) => {
      const { action } = await verdictOf(permissions, head)
      return action === 'default' ? otherPolicy(policy) === 'allow' : action === 'allow'
    },
    'takes the prefix of a path by segments': ({ policy, permissions, head }) =>
      decideBy(policy, changed(permissions, bySegments), head),
    'leaves the query in the path': ({ policy, permissions, head }) =>
      decideBy(policy, permissions, {
        method: head.method,
        path: head.path.replaceAll('?', '%3F'),
        lines: (name) => head.lines(name),
      }),
  }
  for (const [fault, decide] of Object.entries(faults)) {
    it(`would fail for code that ${fault}`, async () => {
      let differing = 0
      for (const decision of decided) if ((await decide(decision)) !== decision.isAllowed) differing += 1
      assert.ok(differing > 0)
    })
  }
})

/** Sends the same requests to an Envoy, to a server of ours, and to our sidecar, for sources that each have permissions of their own. */
async function compare(t: TestContext, policy: DefaultPolicy): Promise<void> {
  const firstSeed = policy === 'deny' ? 1 : 2
  const random = seeded(firstSeed)
  const consul = await startConsul(t, {
    grpc: true,
    ...(policy === 'deny' && { acl: { defaultPolicy: 'deny', managementToken: TOKEN } }),
  })
  const put = (path: string, body: object): Promise<unknown> =>
    agentJson(consul, path, {
      method: 'PUT',
      body: JSON.stringify(body),
      headers: { 'X-Consul-Token': TOKEN },
    })
  const all = Array.from({ length: SOURCES }, () => makePermissions(random))
  await put('/v1/config', { Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
  const sources = all.map((Permissions, i) => ({ Name: `source-${i}`, Permissions }))
  // It would decide if the intention of the source did not.
  const any = { Name: '*', Action: otherPolicy(policy) }
  await put('/v1/config', { Kind: 'service-intentions', Name: 'api', Sources: [...sources, any] })
  const envoyPort = await startEnvoy(t, consul, put)
  const api = joiner(t, consul)('api', { agent: { address: consul.address, env: {}, token: TOKEN } })
  const listener = await api.serve(
    createServer((request, response) => {
      response.setHeader('x-path', request.url ?? '')
      response.end()
    }),
    { port: 0, host: '127.0.0.1' },
  )
  const sidecarPort = await startOurSidecar(t, consul)
  const indexes = all.keys()
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      for (const i of indexes) {
        const permissions = all[i]!
        // Of its own: the order in which clients take turns must not matter.
        const requests = seeded(1_000 * firstSeed + i)
        const open = await connector(consul, `source-${i}`)
        const client = (port: number): RawClient => new RawClient(() => open(port))
        const clients = {
          envoy: client(envoyPort),
          ours: client(portOf(listener)),
          sidecar: client(sidecarPort),
        }
        for (let n = 0; n < REQUESTS; n += 1)
          await compareOne({ policy, permissions, request: makeRequest(requests), ...clients })
        for (const each of Object.values(clients)) each.close()
      }
    }),
  )
}

async function compareOne(the: {
  readonly policy: DefaultPolicy
  readonly permissions: readonly CasePermission[]
  readonly request: CaseRequest
  readonly envoy: RawClient
  readonly ours: RawClient
  readonly sidecar: RawClient
}): Promise<void> {
  const { policy, permissions, request, envoy, ours, sidecar } = the
  const { method, path, host, headers } = request
  const body = ['POST', 'PUT', 'PATCH', 'DELETE'].includes(method) ? ['content-length', '0'] : []
  const lines = headerBytes(['host', host, ...headers, ...body])
  const bytes = (target: string): string => `${method} ${target} HTTP/1.1\r\n${lines}\r\n`
  const details = JSON.stringify([policy, request, permissions])
  const normalized = normalizePath(path, DEFAULT_NORMALIZATION)
  const [our, its] = await Promise.all([ours.send(bytes(path)), sidecar.send(bytes(path))])
  assert.equal(its.status, our.status, `the sidecar: ${details}`)
  if (!('path' in normalized)) {
    assert.equal(our.status, 400, details)
    return
  }
  // The Envoy of this version of Consul does not normalize paths.
  const { status } = await envoy.send(bytes(normalized.path))
  assert.equal(our.status, status, details)
  const isAllowed = status === 200
  if (isAllowed) {
    assert.equal(our.headers[our.headers.indexOf('x-path') + 1], normalized.path, details)
    const [start = ''] = echoedHead(its).split('\r\n')
    assert.equal(start, `${method} ${normalized.path} HTTP/1.1`, details)
  } else assert.equal(status, 403, details)
  const received: ReceivedRequest = {
    ...{ method, target: path, authority: undefined, isHttp2: false },
    rawHeaders: ['host', host, ...headers],
  }
  const head = new ReceivedHead(received, normalized.path, undefined)
  const verdict = await verdictOf(permissions, head)
  decided.push({ policy, permissions, head, request, isAllowed, verdict })
}

/** Starts an Envoy as the sidecar of `api`. @returns its port for other services */
async function startEnvoy(
  t: TestContext,
  consul: RealAgent,
  put: (path: string, body: object) => Promise<unknown>,
): Promise<number> {
  const [port, appPort] = [await freePort(), await startHeadEcho(t, [])]
  await put('/v1/agent/service/register', {
    Name: 'api',
    Port: appPort,
    Connect: { SidecarService: { Port: port, Address: '127.0.0.1' } },
  })
  const envoy = await startSidecar(t, consul, 'api', TOKEN)
  await until('Envoy listens', async () => (await envoy.admin('/listeners')).includes(`:${port}`))
  return port
}

/** Starts our sidecar as another instance of `api`. @returns its port for other services */
async function startOurSidecar(t: TestContext, consul: RealAgent): Promise<number> {
  const [port, appPort] = [await freePort(), await startHeadEcho(t, [])]
  const addresses = ['-service-addr', `127.0.0.1:${appPort}`, '-listen', `127.0.0.1:${port}`]
  await startProxy(t, consul.address, ['-service', 'api', ...addresses], {
    env: { CONNECT_PROXY_TOKEN: TOKEN },
  })
  return port
}

/** Returns a function that connects to a port with the certificate of a service. */
async function connector(consul: RealAgent, name: string): Promise<(port: number) => Duplex> {
  const headers = { 'X-Consul-Token': TOKEN }
  const { CertPEM: cert, PrivateKeyPEM: key } = await agentJson<Record<string, string>>(
    consul,
    `/v1/agent/connect/ca/leaf/${name}`,
    { headers },
  )
  const { Roots } = await agentJson<{ Roots: { RootCert: string }[] }>(consul, '/v1/agent/connect/ca/roots', {
    headers,
  })
  const ca = Roots.map(({ RootCert }) => RootCert)
  return (port) => {
    const host = '127.0.0.1'
    const socket = tlsConnect({ port, host, cert, key, ca, checkServerIdentity: () => undefined })
    socket.on('error', () => undefined)
    return socket
  }
}

const compiled = new WeakMap<readonly CasePermission[], Promise<PermissionRules>>()

async function verdictOf(permissions: readonly CasePermission[], head: RequestHead): Promise<Verdict> {
  const rules = compiled.get(permissions) ?? PermissionRules.compile(parse(permissions))
  compiled.set(permissions, rules)
  return (await rules).decide(head)
}

function parse(permissions: readonly CasePermission[]): readonly Permission[] {
  return parsePermissions(permissions, 'Permissions')
}

async function decideBy(
  policy: DefaultPolicy,
  permissions: readonly CasePermission[],
  head: RequestHead,
): Promise<boolean> {
  const { action } = await verdictOf(permissions, head)
  return (action === 'default' ? policy : action) === 'allow'
}

type Change = (permission: CasePermission) => CasePermission

const notInverted: Change = ({ Action, HTTP }) => {
  const { Header = [] } = HTTP
  return { Action, HTTP: { ...HTTP, Header: Header.map((rule) => ({ ...rule, Invert: false })) } }
}

const bySegments: Change = ({ Action, HTTP: { PathPrefix, ...http } }) => {
  if (PathPrefix === undefined) return { Action, HTTP: http }
  return { Action, HTTP: { ...http, PathRegex: `${PathPrefix.replace(/\/$/, '')}(/.*)?` } }
}

const changes = new Map<Change, Map<readonly CasePermission[], CasePermission[]>>()

/** Changes permissions, each list once. */
function changed(permissions: readonly CasePermission[], change: Change): CasePermission[] {
  const known = changes.get(change) ?? new Map<readonly CasePermission[], CasePermission[]>()
  changes.set(change, known)
  const found = known.get(permissions) ?? permissions.map(change)
  known.set(permissions, found)
  return found
}

function otherPolicy(policy: DefaultPolicy): DefaultPolicy {
  return policy === 'allow' ? 'deny' : 'allow'
}
