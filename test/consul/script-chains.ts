// Requests for config entries, and for the discovery chains that result from them.
import assert from 'node:assert/strict'
import type { Answered, Recorder } from './comparison.js'

const kinds = ['service-resolver', 'service-defaults', 'service-splitter', 'service-router', 'proxy-defaults']

/** Valid and invalid entries, in the order in which they are written. */
const entries: Record<string, unknown> = {
  'without a body': '',
  'without a kind': { Name: 'api' },
  'of an unknown kind': { Kind: 'bogus', Name: 'api' },
  'with an unknown field': { Kind: 'service-resolver', Name: 'api', Bogus: 1 },
  'without a name': { Kind: 'service-resolver' },
  'of subsets': {
    Kind: 'service-resolver',
    Name: 'api',
    DefaultSubset: 'v1',
    Subsets: {
      v1: { Filter: 'Service.Meta.version == 1' },
      v2: { Filter: 'Service.Meta.version == 2', OnlyPassing: true },
      all: {},
    },
    ConnectTimeout: '7s',
  },
  'in snake_case': {
    kind: 'service-resolver',
    name: 'lower',
    connect_timeout: '1500ms',
    redirect: { service: 'api', service_subset: 'v2' },
  },
  'of a redirect': { Kind: 'service-resolver', Name: 'old', Redirect: { Service: 'api' } },
  'of a redirect to a redirect': { Kind: 'service-resolver', Name: 'older', Redirect: { Service: 'old' } },
  'of a redirect to another datacenter': {
    Kind: 'service-resolver',
    Name: 'far',
    Redirect: { Service: 'api', Datacenter: 'dc2' },
  },
  'of failover to another service': {
    Kind: 'service-resolver',
    Name: 'spare',
    Failover: { '*': { Service: 'old' } },
  },
  'of failover to a subset': {
    Kind: 'service-resolver',
    Name: 'subset-spare',
    DefaultSubset: 'v1',
    Subsets: { v1: { Filter: 'Service.Meta.version == 1' }, v2: { Filter: 'Service.Meta.version == 2' } },
    Failover: { v1: { ServiceSubset: 'v2' }, v2: { Service: 'spare' } },
  },
  'of failover to other datacenters': {
    Kind: 'service-resolver',
    Name: 'remote-spare',
    Failover: { '*': { Datacenters: ['dc2', 'dc1', 'dc3'] } },
  },
  'of failover to another service in other datacenters': {
    Kind: 'service-resolver',
    Name: 'remote-other',
    Failover: { '*': { Service: 'api', ServiceSubset: 'v2', Datacenters: ['dc3', 'dc2'] } },
  },
  'of failover to itself': {
    Kind: 'service-resolver',
    Name: 'selfish',
    Failover: { '*': { Service: 'selfish', Datacenters: ['dc1', 'dc2'] } },
  },
  'of a connect timeout only': { Kind: 'service-resolver', Name: 'slow', ConnectTimeout: '1500ms' },
  'without settings': { Kind: 'service-resolver', Name: 'plain' },
  'of a protocol': { Kind: 'service-defaults', Name: 'web', Protocol: 'HTTP' },
  'of no protocol': { Kind: 'service-defaults', Name: 'quiet' },
  'with an unknown default subset': { Kind: 'service-resolver', Name: 'lost', DefaultSubset: 'v9' },
  'of a redirect to an unknown subset': {
    Kind: 'service-resolver',
    Name: 'lost',
    Redirect: { Service: 'api', ServiceSubset: 'v9' },
  },
  'of failover to an unknown subset': {
    Kind: 'service-resolver',
    Name: 'lost',
    Failover: { '*': { Service: 'api', ServiceSubset: 'v9' } },
  },
  'of a redirect to a datacenter only': {
    Kind: 'service-resolver',
    Name: 'moved',
    Redirect: { Datacenter: 'dc2' },
  },
  'of a redirect to itself': { Kind: 'service-resolver', Name: 'lost', Redirect: { Service: 'lost' } },
  'of a half circle': { Kind: 'service-resolver', Name: 'ring', Redirect: { Service: 'other-ring' } },
  'that closes a circle': { Kind: 'service-resolver', Name: 'other-ring', Redirect: { Service: 'ring' } },
  'of an invalid filter': {
    Kind: 'service-resolver',
    Name: 'lost',
    Subsets: { v1: { Filter: 'Service.Meta.version ==' } },
  },
}

const services = [
  ...['api', 'lower', 'old', 'older', 'far', 'spare', 'subset-spare', 'remote-spare', 'remote-other'],
  ...['selfish', 'slow', 'plain', 'web', 'quiet', 'lost', 'moved', 'ring', 'unknown', 'WEB'],
]

export async function chains(record: Recorder): Promise<void> {
  for (const kind of kinds) await record(`no entries of ${kind}`, `GET /v1/config/${kind}`)
  await record('entries of an unknown kind', 'GET /v1/config/bogus')
  await record('entries elsewhere', 'GET /v1/config/service-resolver?dc=nope')
  await record('entries at a bad index', 'GET /v1/config/service-resolver?index=abc')
  for (const [name, body] of Object.entries(entries)) {
    await record(`entry ${name}`, 'PUT /v1/config', { body })
  }
  for (const kind of kinds) await record(`entries of ${kind}`, `GET /v1/config/${kind}`)
  await record('read an entry', 'GET /v1/config/service-resolver/api')
  await record('read an unknown entry', 'GET /v1/config/service-resolver/nope')
  for (const name of services) await record(`chain of ${name}`, `GET /v1/discovery-chain/${name}`)
  await record('chain without a name', 'GET /v1/discovery-chain/')
  await record('chain elsewhere', 'GET /v1/discovery-chain/api?dc=nope')
  await record('chain from elsewhere', 'GET /v1/discovery-chain/api?compile-dc=dc2')
  await record('chain of failover from elsewhere', 'GET /v1/discovery-chain/remote-spare?compile-dc=dc2')
  const overrides: Record<string, unknown> = {
    'without a body': '',
    'without overrides': {},
    'of a protocol': { OverrideProtocol: 'tcp' },
    'of the protocol in snake_case': { override_protocol: 'grpc' },
    'with an unknown field': { Bogus: 1 },
  }
  for (const [name, body] of Object.entries(overrides)) {
    await record(`chain by POST ${name}`, 'POST /v1/discovery-chain/web', { body })
  }
  const { index } = await record('entries before', 'GET /v1/config/service-resolver')
  const after = record('entries after', `GET /v1/config/service-resolver?index=${index}&wait=30s`)
  await record('delete an entry', 'DELETE /v1/config/service-resolver/plain')
  assertEntries(await after, 'plain')
  await record('delete an unknown entry', 'DELETE /v1/config/service-resolver/plain')
  await record('delete an entry that others need', 'DELETE /v1/config/service-resolver/api')
  await record('chain after the deletion', 'GET /v1/discovery-chain/plain')
}

function assertEntries({ body }: Answered, lacks: string): void {
  const names = (body as { Name: string }[]).map(({ Name }) => Name)
  assert.ok(names.length > 0 && !names.includes(lacks), names.join())
}
