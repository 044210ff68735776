// The same requests with and without permissions.
import type { Recorder } from './comparison.js'

export async function aclScript(record: Recorder, management: string): Promise<void> {
  const anonymous = {}
  const unknown = { token: 'bad' }
  const root = { token: management }
  const bodies: Record<string, unknown> = {
    'with an unknown field': { Bogus: 1 },
    'without a body': '',
    'of an unknown policy': { Policies: [{ Name: 'nope' }] },
    'of management': { Policies: [{ Name: 'global-management' }] },
  }
  for (const [name, body] of Object.entries(bodies)) {
    await record(`token ${name}`, 'PUT /v1/acl/token', { ...root, body })
  }
  const identity = { Description: 'web', ServiceIdentities: [{ ServiceName: 'web' }], Local: true }
  const created = await record('token of web', 'PUT /v1/acl/token', { ...root, body: identity })
  const { SecretID: secret, AccessorID: accessor } = created.body as { SecretID: string; AccessorID: string }
  const web = { token: secret }

  const callers = { anonymous, unknown, web, root }
  const names = Object.keys(callers) as (keyof typeof callers)[]
  const native = { Port: 1, Connect: { Native: true }, Check: { TTL: '1h', Status: 'passing' } }
  // Leaves come first: once a proxy is registered, a real agent fetches its leaf in advance.
  const calls: Record<string, [string, unknown?]> = {
    'authorize for web': [
      'POST /v1/agent/connect/authorize',
      { Target: 'web', ClientCertURI: 'spiffe://x.consul/ns/default/dc/dc1/svc/a' },
    ],
    'authorize for db': [
      'POST /v1/agent/connect/authorize',
      { Target: 'db', ClientCertURI: 'spiffe://x.consul/ns/default/dc/dc1/svc/a' },
    ],
    'leaf of web': ['GET /v1/agent/connect/ca/leaf/web'],
    'leaf of db': ['GET /v1/agent/connect/ca/leaf/db'],
    'leaf of the sidecar': ['GET /v1/agent/connect/ca/leaf/web-sidecar-proxy'],
    'register db': ['PUT /v1/agent/service/register', { Name: 'db', ...native }],
    'register web': ['PUT /v1/agent/service/register', { Name: 'web', ...native }],
    'register a sidecar': [
      'PUT /v1/agent/service/register',
      { Name: 'web-sidecar-proxy', Kind: 'connect-proxy', Port: 1, Proxy: { DestinationServiceName: 'web' } },
    ],
    'register a proxy of db': [
      'PUT /v1/agent/service/register',
      { Name: 'web-sidecar-proxy', Kind: 'connect-proxy', Port: 1, Proxy: { DestinationServiceName: 'db' } },
    ],
    'register a check of the node': [
      'PUT /v1/agent/check/register',
      { Name: 'n', TTL: '1h', Status: 'passing' },
    ],
    'register a check of db': [
      'PUT /v1/agent/check/register',
      { Name: 'd', ServiceID: 'db', TTL: '1h', Status: 'passing' },
    ],
    'pass web': ['PUT /v1/agent/check/pass/service:web'],
    'pass db': ['PUT /v1/agent/check/pass/service:db'],
    'pass an unknown check': ['PUT /v1/agent/check/pass/nope'],
    'deregister an unknown service': ['PUT /v1/agent/service/deregister/nope'],
    'create a token': ['PUT /v1/acl/token', {}],
  }
  for (const [label, [request, body]] of Object.entries(calls)) {
    for (const name of names) {
      await record(`${label}: ${name}`, request, {
        ...callers[name],
        ...(body === undefined ? {} : { body }),
      })
    }
  }
  await record.until('GET /v1/health/service/web?passing', { has: ['"service:web"', '"n"'] }, root)
  await record.until('GET /v1/health/service/db?passing', { has: ['"service:db"', '"d"', '"n"'] }, root)
  await record.until('GET /v1/health/connect/db', { has: ['web-sidecar-proxy'] }, root)

  const rule = { SourceName: 'a', DestinationName: 'db', Action: 'allow' }
  for (const name of names) {
    await record(`intend: ${name}`, 'POST /v1/connect/intentions', { ...callers[name], body: rule })
  }
  for (const Name of ['db', 'web']) {
    const entry = { Kind: 'service-resolver', Name, ConnectTimeout: '1s' }
    for (const name of names)
      await record(`entry for ${Name}: ${name}`, 'PUT /v1/config', { ...callers[name], body: entry })
  }
  const reads = [
    'agent/services',
    'agent/checks',
    'agent/service/db',
    'agent/service/nope',
    'health/service/web',
    'health/connect/db',
    'connect/intentions',
    'connect/intentions/match?by=destination&name=web',
    'connect/intentions/match?by=destination&name=db',
    'connect/ca/configuration',
    'acl/tokens',
    'acl/token/self',
    'config/service-resolver',
    'config/service-resolver/db',
    'discovery-chain/db',
    'discovery-chain/web',
  ]
  for (const path of reads) {
    for (const name of names) await record(`${path}: ${name}`, `GET /v1/${path}`, callers[name])
  }
  await preparedQueries(record, callers)
  // This endpoint needs no token.
  await record('connect/ca/roots', 'GET /v1/connect/ca/roots', unknown)
  await record('agent self, denied', 'GET /v1/agent/self', web)
  await record('token in the query', `GET /v1/agent/connect/ca/leaf/web?token=bad`, web)
  for (const name of names) {
    await record(`delete the entry for db: ${name}`, 'DELETE /v1/config/service-resolver/db', callers[name])
  }
  for (const [label, id] of [
    ['db', 'db'],
    ['its own', 'web'],
  ]) {
    await record(`deregister ${label}`, `PUT /v1/agent/service/deregister/${id}`, web)
  }
  await record('delete a token', `DELETE /v1/acl/token/${accessor}`, root)
}

async function preparedQueries(record: Recorder, callers: Record<string, { token?: string }>): Promise<void> {
  const { root = {} } = callers
  const definition = { Token: 'bad', Service: { Service: 'web' } }
  const created = await record('query', 'POST /v1/query', { ...root, body: { ...definition, Name: 'own' } })
  await record('query as its caller', 'POST /v1/query', {
    ...root,
    body: { Name: 'any', Service: { Service: 'web', OnlyPassing: true } },
  })
  const { ID: id } = created.body as { ID: string }
  const calls: Record<string, [string, unknown?]> = {
    'create a query': ['POST /v1/query', { Name: 'x', Service: { Service: 'web' } }],
    'explain a query': ['GET /v1/query/any/explain'],
    'execute a query': ['GET /v1/query/any/execute'],
    'execute a query with a bad token of its own': ['GET /v1/query/own/execute'],
    'execute an unknown query': ['GET /v1/query/own2/execute?dc=nope'],
    'delete a query': [`DELETE /v1/query/${id}`],
  }
  for (const [label, [request, body]] of Object.entries(calls)) {
    for (const [name, caller] of Object.entries(callers)) {
      const options = body === undefined ? caller : { ...caller, body }
      await record(`${label}: ${name}`, request, options)
    }
  }
}
