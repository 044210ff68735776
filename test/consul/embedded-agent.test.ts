import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'

import { asn1Structure } from './asn1-structure.js'
import { compare, createRecorder, type Difference, type Recorder, type Recording } from './comparison.js'
import { consulVersion, skip as noConsul, startConsul } from './real-agent.js'
import { aclScript } from './script-acl.js'
import { chains } from './script-chains.js'
import { blocking, certificates, rotation, rotationKey, withoutConnect } from './script-connect.js'
import { authorization, intentions } from './script-intentions.js'
import { preparedQueries } from './script-queries.js'
import { checks, discovery, registration } from './script-services.js'

/** Later versions have more fields and other messages. */
const skip = noConsul || (consulVersion?.startsWith('1.8.') === false && 'requires Consul 1.8')

const MESSAGE = 'one message for all endpoints, with the name of what is not supported'
const ONE_PROBLEM = 'reports one problem at a time'
const NO_INDEX = 'errors and tokens have no index'

/** Headers that the embedded agent does not send. */
const headers: Difference[] = [
  { call: /./, what: 'headers.x-consul-knownleader', reason: 'has no cluster' },
  { call: /./, what: 'headers.x-consul-lastcontact', reason: 'has no cluster' },
  { call: /./, what: 'headers.x-cache', reason: 'has no cache' },
]

/** Details that no client of the embedded agent needs. */
const details: Difference[] = [
  { call: /./, what: /\.Hash$/, reason: 'has no hashes of tokens and intentions' },
  { call: /./, what: /^body\.Nodes\..*\.(Service)?Tags$/, reason: 'shows no tags as an empty list' },
]

/** Parts of the results of prepared queries that the embedded agent leaves out. */
const queries: Difference[] = [
  { call: /./, what: 'headers.x-consul-effective-consistency', reason: 'all reads are consistent' },
  ...['Index', 'LastContact', 'KnownLeader', 'ConsistencyLevel'].map((name) => ({
    call: /^(query\/|execute a query|explain a query)/,
    what: `body.${name}`,
    reason: 'repeats headers that the agent does not send',
  })),
  ...['Session', 'Template', 'CreateIndex', 'ModifyIndex'].map((name) => ({
    call: /explain/,
    what: `body.Query.${name}`,
    reason: 'has no sessions and templates',
  })),
  ...['IgnoreCheckIDs', 'NodeMeta', 'ServiceMeta', 'Failover.Datacenters', 'Tags'].map((name) => ({
    call: /explain/,
    what: `body.Query.Service.${name}`,
    reason: 'shows no empty fields, or shows them as empty lists',
  })),
]

/** Parts of config entries and chains that the embedded agent leaves out or shows otherwise. */
const chainDifferences: Difference[] = [
  ...['status', 'headers', 'body'].flatMap((what) => [
    { call: 'entries of an unknown kind', what, reason: 'has no entries of any other kind' },
    { call: 'chain by POST with an unknown field', what, reason: MESSAGE },
  ]),
  { call: /^(entry|chain by POST) without a body$/, what: 'body', reason: MESSAGE },
  { call: /^entry (without a|of an unknown) kind$/, what: 'body', reason: MESSAGE },
  { call: 'entry with an unknown default subset', what: 'body', reason: 'one message for all subsets' },
  { call: /^(entries|read an entry)/, what: /CreateIndex$/, reason: 'has the index of the last change' },
  { call: /^entries/, what: /^body\.\d+\.[a-z]/, reason: 'shows entries as they were sent' },
  {
    call: /^entries/,
    what: /^body\.\d+\.(ConnectTimeout|Redirect|Protocol|MeshGateway|Expose)$/,
    reason: 'shows entries as they were sent',
  },
  {
    call: /^entries of (service-splitter|service-router|proxy-defaults)$/,
    what: 'headers.x-consul-index',
    reason: 'has an index for each kind',
  },
  { call: /^read an unknown entry$|^chain elsewhere$/, what: 'headers.x-consul-index', reason: NO_INDEX },
  { call: /^chain/, what: /\.Partition$/, reason: 'has chains in the form of Consul 1.14' },
  { call: /^chain/, what: 'body.Chain.CustomizationHash', reason: 'does not hash overrides' },
]

/** The intended differences to Consul 1.8.7. */
const intended: Difference[] = [
  ...headers,
  ...queries,
  ...details,
  ...chainDifferences,
  { call: /./, what: 'headers.age', reason: 'has no cache' },
  {
    call: /./,
    what: /TaggedAddresses(\.(lan|wan)_ipv[46])?$/,
    reason: 'adds no addresses by family',
  },
  { call: 'agent self', what: 'body.DebugConfig', reason: 'has few settings' },
  { call: 'agent self', what: 'body.Coord', reason: 'has no network coordinates' },
  { call: 'agent self', what: 'body.Member', reason: 'has no gossip' },
  { call: 'agent self', what: 'body.Stats', reason: 'has no statistics' },
  { call: 'root path', what: 'status', reason: 'has no user interface' },
  { call: 'root path', what: 'headers', reason: 'has no user interface' },
  { call: 'root path', what: 'body', reason: 'has no user interface' },
  {
    call: /elsewhere$|unknown datacenter$|dc=nope$|^filter malformed/,
    what: 'headers.x-consul-index',
    reason: NO_INDEX,
  },
  { call: /^filter malformed/, what: 'body', reason: 'Consul lists all tokens that it expects' },
  { call: /^CA configuration/, what: 'body.CreateIndex', reason: 'the configuration has no index' },
  { call: /^CA configuration/, what: 'body.ModifyIndex', reason: 'the configuration has no index' },
  { call: /with an unknown field|of an array$|with a port as a string$/, what: 'body', reason: MESSAGE },
  { call: /^(intention|authorize|CA configuration) without a body$/, what: 'body', reason: MESSAGE },
  { call: /^intention (without a body|with an unknown field)$/, what: 'status', reason: MESSAGE },
  { call: 'check register of an unknown status', what: 'body', reason: MESSAGE },
  { call: /^register of a (native )?proxy/, what: 'body', reason: ONE_PROBLEM },
  { call: /^intention (with|of an)/, what: 'body', reason: ONE_PROBLEM },
  { call: 'update intention partially', what: 'body', reason: ONE_PROBLEM },
  { call: 'post to an intention', what: 'headers.allow', reason: 'does not read single intentions' },
  ...[0, 1].flatMap((instance) =>
    ['Datacenter', 'Config'].map((name) => ({
      call: /^health\/(service|connect) (shop|shop-proxy|snake-proxy)$/,
      what: `body.${instance}.Service.Proxy.Upstreams.0.${name}`,
      reason: 'shows no empty fields of upstreams',
    })),
  ),
]

/** The intended differences with ACLs. */
const intendedWithAcls: Difference[] = [
  ...headers,
  ...queries,
  ...details,
  { call: /^token (with an unknown field|without a body)$/, what: 'body', reason: MESSAGE },
  {
    call: /^(token of|create a token|acl\/token\/self|connect\/ca\/configuration)/,
    what: 'body.CreateIndex',
    reason: NO_INDEX,
  },
  {
    call: /^(token of|create a token|acl\/token\/self|connect\/ca\/configuration)/,
    what: 'body.ModifyIndex',
    reason: NO_INDEX,
  },
  { call: /^(token of management|acl\/token\/self)/, what: 'body.Policies.0.ID', reason: 'has one policy' },
  { call: 'acl/tokens: root', what: 'body', reason: 'as for single tokens' },
  { call: /^acl\//, what: 'headers.x-consul-index', reason: NO_INDEX },
  { call: /: unknown$/, what: 'headers.x-consul-index', reason: NO_INDEX },
  {
    call: /^(explain a query|execute a query with a bad token|execute an unknown query)/,
    what: 'headers.x-consul-index',
    reason: NO_INDEX,
  },
  {
    call: 'health/connect/db: anonymous',
    what: 'headers.x-consul-index',
    reason: 'Consul returns no index if it filters all instances',
  },
  { call: /^register a check of the node: (anonymous|web)$/, what: 'body', reason: MESSAGE },
  { call: /^config\//, what: /CreateIndex$/, reason: 'has the index of the last change' },
  { call: /^discovery-chain\//, what: /\.Partition$/, reason: 'has chains in the form of Consul 1.14' },
  { call: /^discovery-chain\/.*: anonymous$/, what: 'headers.x-consul-index', reason: NO_INDEX },
]

/** The intended differences without Connect. */
const intendedWithoutConnect: Difference[] = [
  ...headers,
  { call: 'connect/ca/roots', what: 'headers.x-consul-index', reason: NO_INDEX },
]

test('answers like a real agent', { skip }, async (t) => {
  const embedded = await TestAgent.start()
  t.after(() => embedded.close())
  const real = await startConsul(t)
  const expected = await runScript(real.url, script)
  const actual = await runScript(embedded.url, script)
  assert.deepEqual(compare(expected, actual, intended), [])
})

test('enforces ACLs like a real agent', { skip }, async (t) => {
  const acl = { defaultPolicy: 'deny', managementToken: 'e95b599e-166e-7d80-08ad-aee76e7ddf19' } as const
  const embedded = await TestAgent.start({ acl: { enabled: true, ...acl } })
  t.after(() => embedded.close())
  const real = await startConsul(t, { acl })
  const tokens = (record: Recorder): Promise<void> => aclScript(record, acl.managementToken)
  const expected = await runScript(real.url, tokens)
  const actual = await runScript(embedded.url, tokens)
  assert.deepEqual(compare(expected, actual, intendedWithAcls), [])
})

test('answers like a real agent without Connect', { skip }, async (t) => {
  const embedded = await TestAgent.start({ connect: false })
  t.after(() => embedded.close())
  const real = await startConsul(t, { extraConfig: { connect: { enabled: false } } })
  const expected = await runScript(real.url, withoutConnect)
  const actual = await runScript(embedded.url, withoutConnect)
  assert.deepEqual(compare(expected, actual, intendedWithoutConnect), [])
})

test('issues certificates with the structure of real ones', { skip }, async (t) => {
  const embedded = await TestAgent.start()
  t.after(() => embedded.close())
  const real = await startConsul(t)
  const expected = await certificateStructures(real.url)
  // A root; a leaf and its key; and after the rotation a leaf with the cross-signed root.
  assert.deepEqual(
    expected.map((pems) => pems.length),
    [1, 2, 3],
  )
  assert.deepEqual(await certificateStructures(embedded.url), expected)
})

async function certificateStructures(url: string): Promise<string[][]> {
  const structures = async (path: string): Promise<string[]> => {
    const response = await fetch(url + path)
    const pems = (await response.text())
      .replaceAll('\\n', '\n')
      .match(/-----BEGIN [^-]+-----[^-]+-----END [^-]+-----/g)
    return (pems ?? []).map(asn1Structure)
  }
  const before = [await structures('/v1/connect/ca/roots'), await structures('/v1/agent/connect/ca/leaf/web')]
  const body = JSON.stringify({ Provider: 'consul', Config: { LeafCertTTL: '72h', PrivateKey: rotationKey } })
  await fetch(`${url}/v1/connect/ca/configuration`, { method: 'PUT', body })
  return [...before, await structures('/v1/agent/connect/ca/leaf/odd.Name')]
}

async function runScript(url: string, run: (record: Recorder) => Promise<void>): Promise<Recording> {
  const { record, recording } = createRecorder(url)
  await run(record)
  return recording
}

async function script(record: Recorder): Promise<void> {
  await record('root path', 'GET /')
  await record('unknown path', 'GET /v1/nope')
  await record('wrong method', 'POST /v1/agent/services')
  await record('options', 'OPTIONS /v1/health/service/web')
  await record('agent self', 'GET /v1/agent/self')
  await certificates(record)
  await registration(record)
  await discovery(record)
  await preparedQueries(record)
  await chains(record)
  await checks(record)
  await intentions(record)
  await authorization(record)
  await blocking(record)
  await rotation(record)
  await record('acl off: tokens', 'GET /v1/acl/tokens')
  await record('acl off: create', 'PUT /v1/acl/token', { body: {} })
}
