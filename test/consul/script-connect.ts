// Requests for certificates and their rotation, and blocking queries.
import assert from 'node:assert/strict'
import type { Answered, Recorder } from './comparison.js'

export async function certificates(record: Recorder): Promise<void> {
  await record('roots', 'GET /v1/connect/ca/roots')
  await record('roots elsewhere', 'GET /v1/connect/ca/roots?dc=nope')
  await record('roots at a bad index', 'GET /v1/connect/ca/roots?index=abc')
  await record('agent roots, first', 'GET /v1/agent/connect/ca/roots')
  await record('agent roots, again', 'GET /v1/agent/connect/ca/roots')
  await record('agent roots elsewhere', 'GET /v1/agent/connect/ca/roots?dc=nope')
  await record('leaf, first', 'GET /v1/agent/connect/ca/leaf/web')
  await record('leaf, again', 'GET /v1/agent/connect/ca/leaf/web')
  await record('leaf at an old index', 'GET /v1/agent/connect/ca/leaf/web?index=1&wait=1s')
  await record('leaf of an odd name', 'GET /v1/agent/connect/ca/leaf/a%20b')
  await record('leaf elsewhere', 'GET /v1/agent/connect/ca/leaf/web?dc=nope')
  await record('leaf, deleted', 'DELETE /v1/agent/connect/ca/leaf/web')
  await record('CA configuration', 'GET /v1/connect/ca/configuration')
}

/** Sends blocking queries, and makes the changes that they wait for. */
export async function blocking(record: Recorder): Promise<void> {
  const definition = { Name: 'watched', Port: 1, Connect: { Native: true } }
  const put = 'PUT /v1/agent/service/register'
  await record('register watched', put, { body: definition })
  await record.until('GET /v1/health/connect/watched', { has: ['watched'], lacks: ['"node"'] })
  const watches: Record<string, string> = {
    'health/service': '/v1/health/service/watched',
    'health/connect': '/v1/health/connect/watched',
  }
  const answers: Promise<Answered>[] = []
  for (const [name, path] of Object.entries(watches)) {
    const { index } = await record(`${name} before`, `GET ${path}`)
    answers.push(record(`${name} after`, `GET ${path}?index=${index}&wait=30s`))
  }
  const { index: hash } = await record('agent service before', 'GET /v1/agent/service/watched')
  answers.push(record('agent service after', `GET /v1/agent/service/watched?hash=${hash}&wait=30s`))
  const listed = '/v1/connect/intentions'
  const { index } = await record('intentions before', `GET ${listed}`)
  answers.push(record('intentions after', `GET ${listed}?index=${index}&wait=30s`))
  answers.push(
    record('match after', `GET ${listed}/match?by=destination&name=watched&index=${index}&wait=30s`),
  )
  await record('register watched again', put, { body: { ...definition, Port: 2 } })
  await record('intend for watched', `POST ${listed}`, {
    body: { SourceName: 'watched', DestinationName: 'watched', Action: 'deny' },
  })
  await Promise.all(answers)
}

export async function rotation(record: Recorder): Promise<void> {
  const path = '/v1/connect/ca/configuration'
  const bodies: Record<string, unknown> = {
    'without a body': '',
    'without a provider': {},
    'of an unknown provider': { Provider: 'bogus' },
    'with too short a life': { Provider: 'consul', Config: { LeafCertTTL: '5m' } },
    'in snake_case': { Provider: 'consul', Config: {}, force_without_cross_signing: false },
    'with a short life': { Provider: 'consul', Config: { LeafCertTTL: '1h' } },
    'with a new key': { Provider: 'consul', Config: { LeafCertTTL: '72h', PrivateKey: rotationKey } },
  }
  for (const [name, body] of Object.entries(bodies)) {
    await record(`CA configuration ${name}`, `PUT ${path}`, { body })
  }
  await record('CA configuration after the rotation', `GET ${path}`)
  const roots = await record('roots after the rotation', 'GET /v1/connect/ca/roots')
  assert.equal((roots.body as { Roots: unknown[] }).Roots.length, 2)
  await record('leaf of an unwatched service after the rotation', 'GET /v1/agent/connect/ca/leaf/web')
  await record('leaf of a new service after the rotation', 'GET /v1/agent/connect/ca/leaf/fresh')
}

export async function withoutConnect(record: Recorder): Promise<void> {
  for (const path of ['connect/ca/roots', 'agent/connect/ca/roots', 'agent/connect/ca/leaf/web']) {
    await record(path, `GET /v1/${path}`)
  }
  await record('configuration', 'GET /v1/connect/ca/configuration')
  await record('intentions', 'GET /v1/connect/intentions')
  const body = { Target: 'web', ClientCertURI: 'spiffe://x.consul/ns/default/dc/dc1/svc/a' }
  await record('authorize', 'POST /v1/agent/connect/authorize', { body })
}

/** A test key for the rotation. */
export const rotationKey = `-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIKaqVx2IKn08hYe08MTEShTsfmz05j1tPVdJQTQoVk4KoAoGCCqGSM49
AwEHoUQDQgAEjCjlp4Y0D25RjaYRqC/fbG0t56aCDSLDFvep3za3SPTnJCDihKkc
g8Id6CCW3gFiQ0Nufxjva9nVzhb9CXRqeQ==
-----END EC PRIVATE KEY-----
`
