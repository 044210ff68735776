import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'
import { asn1Structure } from './asn1-structure.js'
import { compare, createRecorder, type Answered, type Difference, type Recorder } from './comparison.js'
import { consulVersion, skip as noConsul, startConsul } from './real-agent.js'

/** Later versions have more fields and other words: the tables below are for this one. */
const skip = noConsul || (consulVersion?.startsWith('1.8.') === false && 'made for Consul 1.8')

/** Everything in which the embedded agent is meant to differ from Consul 1.8.7. */
const intended: Difference[] = [
  {
    call: 'agent self',
    what: 'body.DebugConfig',
    reason: 'a thousand settings of a program that this is not',
  },
  { call: 'agent self', what: 'body.Coord', reason: 'no network coordinates: there is no second node' },
  {
    call: 'agent self',
    what: 'body.Member',
    reason: 'no gossip, so no tags, addresses and protocol versions of it',
  },
  { call: 'agent self', what: 'body.Stats', reason: 'no raft, no serf, no Go runtime to count' },
  {
    call: /^intention exact/,
    what: 'status',
    reason: 'the endpoint came with 1.9: 1.8 takes "exact" for a malformed id',
  },
  { call: /^intention exact/, what: 'body', reason: 'as above' },
  { call: /^intention exact/, what: 'headers', reason: 'as above' },
  {
    call: /^filter (malformed|beyond)/,
    what: 'status',
    reason: 'a part of the filter language only: what is missing is said with a 400',
  },
  { call: /^filter (malformed|beyond)/, what: 'body', reason: 'as above' },
  { call: /^filter (malformed|beyond)/, what: 'headers', reason: 'as above' },
  { call: 'register of an array', what: 'body', reason: "the names of Go's own types are in the message" },
  { call: 'root path', what: 'status', reason: 'no user interface to redirect to' },
  { call: 'root path', what: 'headers', reason: 'as above' },
  { call: 'root path', what: 'body', reason: 'as above' },
]

/** And in what it differs with ACLs on. */
const intendedWithAcls: Difference[] = [
  {
    call: /: root$/,
    what: 'headers.x-cache',
    reason:
      'one cache for all tokens, where Consul has one for each: another token finds what the first one asked for',
  },
  { call: /: root$/, what: 'headers.age', reason: 'as above' },
  {
    call: 'health/connect/db: anonymous',
    what: 'headers.x-consul-index',
    reason:
      'Consul gives up before it looks at its index; a watcher that is denied is better off with the real one',
  },
  { call: 'health/connect/db: anonymous', what: 'headers.x-consul-knownleader', reason: 'as above' },
]

void test('the embedded agent answers as a real one does', { skip }, async (t) => {
  const embedded = await TestAgent.start()
  t.after(() => embedded.close())
  const real = await startConsul(t)
  const expected = await runScript(real.url, script)
  const actual = await runScript(embedded.url, script)
  assert.deepEqual(compare(expected, actual, intended), [])
})

void test('the embedded agent guards tokens as a real one does', { skip }, async (t) => {
  const acl = { defaultPolicy: 'deny', managementToken: 'e95b599e-166e-7d80-08ad-aee76e7ddf19' } as const
  const embedded = await TestAgent.start({ acl: { enabled: true, ...acl } })
  t.after(() => embedded.close())
  const real = await startConsul(t, { acl })
  const tokens = (record: Recorder): Promise<void> => aclScript(record, acl.managementToken)
  const expected = await runScript(real.url, tokens)
  const actual = await runScript(embedded.url, tokens)
  assert.deepEqual(compare(expected, actual, intendedWithAcls), [])
})

void test('the embedded agent is without Connect as a real one is', { skip }, async (t) => {
  const embedded = await TestAgent.start({ connect: false })
  t.after(() => embedded.close())
  const real = await startConsul(t, { extraConfig: { connect: { enabled: false } } })
  const expected = await runScript(real.url, withoutConnect)
  const actual = await runScript(embedded.url, withoutConnect)
  assert.deepEqual(compare(expected, actual, []), [])
})

void test('certificates are built as the real ones are', { skip }, async (t) => {
  const embedded = await TestAgent.start()
  t.after(() => embedded.close())
  const real = await startConsul(t)
  const expected = await certificateStructures(real.url)
  // A root, a leaf and its key; after the rotation the leaf has the cross-signed root besides.
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

async function runScript(url: string, run: (record: Recorder) => Promise<void>) {
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
  await record('leader', 'GET /v1/status/leader')
  await certificates(record)
  await registration(record)
  await discovery(record)
  await checks(record)
  await intentions(record)
  await authorization(record)
  await keyValues(record)
  await blocking(record)
  await rotation(record)
  await record('acl off: tokens', 'GET /v1/acl/tokens')
  await record('acl off: create', 'PUT /v1/acl/token', { body: {} })
}

const proxy = {
  Name: 'shop-proxy',
  Kind: 'connect-proxy',
  Port: 8083,
  Proxy: {
    DestinationServiceName: 'shop',
    DestinationServiceID: 'shop',
    LocalServiceAddress: '127.0.0.1',
    LocalServicePort: 8080,
    Config: { a: 1 },
    Upstreams: [
      { DestinationName: 'db', LocalBindPort: 9191 },
      {
        DestinationName: 'near',
        DestinationType: 'prepared_query',
        Datacenter: 'dc2',
        LocalBindAddress: '127.0.0.2',
        LocalBindPort: 9192,
        Config: { x: 1 },
      },
    ],
  },
}

const registrations: Record<string, unknown> = {
  'of nothing': '',
  'of half an object': '{',
  'of an array': [],
  'without a name': {},
  'with an unknown field': { Name: 'x', Bogus: 1 },
  'with the fields of 1.2': { Name: 'x', Kind: 'connect-proxy', Port: 1, ProxyDestination: 'web' },
  'with a port as text': { Name: 'x', Port: 'x' },
  'with a weight of 0': { Name: 'x', Weights: { Passing: 0 } },
  'of a proxy to nowhere': { Name: 'x', Kind: 'connect-proxy', Port: 1 },
  'of a proxy without a port': { Name: 'x', Kind: 'connect-proxy', Proxy: { DestinationServiceName: 'web' } },
  'of a native proxy': {
    Name: 'x',
    Kind: 'connect-proxy',
    Port: 2,
    Connect: { Native: true },
    Proxy: { DestinationServiceName: 'web' },
  },
  'of bad upstreams': {
    Name: 'x',
    Kind: 'connect-proxy',
    Port: 2,
    Proxy: { DestinationServiceName: 'web', Upstreams: [{ LocalBindPort: 9191 }, { DestinationName: 'x' }] },
  },
  'with a check of no kind': { Name: 'x', Check: { Interval: '10s' } },
  'with a TTL that is none': { Name: 'x', Check: { TTL: 'abc' } },
  'with a TCP check without an interval': { Name: 'x', Check: { TCP: '127.0.0.1:1' } },
  'of web': { Name: 'web', Port: 8080, Tags: ['a', 'b'], Meta: { v: '1' }, Check: { TTL: '100s' } },
  'of web once more': { Name: 'web', Port: 8080, Tags: ['a', 'b'], Meta: { v: '1' }, Check: { TTL: '100s' } },
  'of web with an address': {
    Name: 'web',
    ID: 'web2',
    Port: 8081,
    Address: '10.0.0.1',
    TaggedAddresses: { lan: { Address: '10.0.0.1', Port: 99 } },
    Weights: { Passing: 10, Warning: 2 },
    EnableTagOverride: true,
    Checks: [
      { TTL: '100s', Status: 'passing' },
      { TTL: '100s', Name: 'second', Status: 'warning' },
    ],
  },
  'of a native service': {
    Name: 'native',
    Port: 8082,
    Connect: { Native: true },
    Check: { CheckID: 'mine', Name: 'My check', TTL: '100s', Status: 'passing', Notes: 'no' },
  },
  'of a proxy': proxy,
  'in lower case': { name: 'lower', port: 1, enable_tag_override: true, connect: { native: true } },
}

async function registration(record: Recorder): Promise<void> {
  for (const [name, body] of Object.entries(registrations)) {
    await record(`register ${name}`, 'PUT /v1/agent/service/register', { body })
  }
  await record('services of the agent', 'GET /v1/agent/services')
  for (const id of ['web', 'web2', 'native', 'shop-proxy', 'lower', 'nope']) {
    await record(`service ${id} of the agent`, `GET /v1/agent/service/${id}`)
  }
  await record('service by another hash', 'GET /v1/agent/service/web?hash=abc&wait=10m')
  await record('deregister one that is not there', 'PUT /v1/agent/service/deregister/nope')
  await record('deregister nothing', 'PUT /v1/agent/service/deregister/')
  await record('deregister', 'PUT /v1/agent/service/deregister/lower')
  await record.until('GET /v1/catalog/services', (body) => JSON.stringify(body).includes('shop-proxy'))
  await record.until('GET /v1/catalog/services', (body) => !JSON.stringify(body).includes('lower'))
  // A registration reaches the catalog in pieces, the checks last.
  await record.until('GET /v1/health/service/native?passing', (body) =>
    JSON.stringify(body).includes('My check'),
  )
}

async function discovery(record: Recorder): Promise<void> {
  await record('catalog services', 'GET /v1/catalog/services')
  for (const path of ['catalog/service', 'health/service', 'health/connect', 'health/checks']) {
    await record(`${path} web`, `GET /v1/${path}/web`)
    await record(`${path} native`, `GET /v1/${path}/native`)
    await record(`${path} shop`, `GET /v1/${path}/shop`)
    await record(`${path} shop-proxy`, `GET /v1/${path}/shop-proxy`)
    await record(`${path} of nobody`, `GET /v1/${path}/nope`)
    await record(`${path} in a datacenter that is none`, `GET /v1/${path}/web?dc=nope`)
    await record(`${path} in its own datacenter`, `GET /v1/${path}/nope?dc=dc1`)
  }
  for (const path of ['catalog/service', 'health/service', 'health/connect']) {
    await record(`${path} without a name`, `GET /v1/${path}/`)
  }
  for (const query of [
    'passing',
    'passing=1',
    'passing=false',
    'passing=maybe',
    'tag=a',
    'tag=A&tag=b',
    'tag=zz',
  ]) {
    await record(`health ${query}`, `GET /v1/health/service/web?${query}`)
  }
  for (const query of [
    'stale',
    'consistent',
    'stale&consistent',
    'near=_agent',
    'index=abc',
    'wait=abc',
    'wait=-1s',
  ]) {
    await record(`health ${query}`, `GET /v1/health/service/nope?${query}`)
  }
  await record('health at an index to come', 'GET /v1/health/service/web?index=999999&wait=10ms')
  await record('catalog at an index to come', 'GET /v1/catalog/services?index=999999&wait=10ms')
  const filters = {
    equal: 'Service.Meta.v == "1"',
    'by key': 'Service.Meta["v"] == "1"',
    unequal: 'Service.Meta.v != "1"',
    both: 'Service.ID == "web2" and not (Service.Meta.v == "1" or Service.Port == 8080)',
    'on a selector that is none': 'Bogus == "web"',
    malformed: 'foo',
    'beyond what there is': 'Service.Tags contains "a"',
  }
  for (const [name, filter] of Object.entries(filters)) {
    await record(`filter ${name}`, `GET /v1/health/service/web?filter=${encodeURIComponent(filter)}`)
  }
}

async function checks(record: Recorder): Promise<void> {
  for (const id of ['service:web', 'service:web2:1', 'mine', 'nope']) {
    for (const state of ['warn', 'fail', 'pass']) {
      await record(`${state} ${id}`, `PUT /v1/agent/check/${state}/${id}?note=hello`)
    }
  }
  await record('checks of the agent', 'GET /v1/agent/checks')
  const updates: Record<string, unknown> = {
    good: { Status: 'critical', Output: 'ill' },
    'of a status that is none': { Status: 'bogus' },
    'of nothing': '',
  }
  for (const [name, body] of Object.entries(updates)) {
    await record(`check update ${name}`, 'PUT /v1/agent/check/update/mine', { body })
  }
  const definitions: Record<string, unknown> = {
    'of the node': { Name: 'node check', ID: 'node', TTL: '100s', Status: 'passing' },
    'of a service': { Name: 'more', ID: 'more', ServiceID: 'web', TTL: '100s', Status: 'passing' },
    'of a service that is not there': { Name: 'more', ServiceID: 'nope', TTL: '10s' },
    'without a name': { TTL: '10s' },
    'of no kind': { Name: 'a' },
    'of a status that is none': { Name: 'a', TTL: '10s', Status: 'bogus' },
    'with an unknown field': { Name: 'a', TTL: '10s', Bogus: 1 },
    'that expires': { Name: 'short', ID: 'short', ServiceID: 'native', TTL: '50ms', Status: 'passing' },
    'of a closed port': { Name: 'closed', ServiceID: 'native', TCP: '127.0.0.1:1', Interval: '100ms' },
  }
  for (const [name, body] of Object.entries(definitions)) {
    await record(`check register ${name}`, 'PUT /v1/agent/check/register', { body })
  }
  await record.until('GET /v1/agent/checks', (body) => JSON.stringify(body).includes('TTL expired'))
  await record.until('GET /v1/agent/checks', (body) => JSON.stringify(body).includes('refused'))
  await record.until('GET /v1/health/checks/native', (body) => JSON.stringify(body).includes('refused'))
  await record.until('GET /v1/health/checks/native', (body) => JSON.stringify(body).includes('TTL expired'))
  await record('pass a TCP check', 'PUT /v1/agent/check/pass/closed')
  await record('checks that failed', 'GET /v1/health/checks/native')
  await record('health with a check of the node', 'GET /v1/health/service/web?passing')
  await record('pass an expired check', 'PUT /v1/agent/check/pass/short?note=late')
  for (const id of ['short', 'closed', 'node', 'more', 'nope']) {
    await record(`check deregister ${id}`, `PUT /v1/agent/check/deregister/${id}`)
  }
}

async function certificates(record: Recorder): Promise<void> {
  await record('roots', 'GET /v1/connect/ca/roots')
  await record('roots as PEM', 'GET /v1/connect/ca/roots?pem=true')
  await record('roots elsewhere', 'GET /v1/connect/ca/roots?dc=nope')
  await record('roots at a bad index', 'GET /v1/connect/ca/roots?index=abc')
  await record('agent roots, first', 'GET /v1/agent/connect/ca/roots')
  await record('agent roots, again', 'GET /v1/agent/connect/ca/roots')
  await record('agent roots elsewhere', 'GET /v1/agent/connect/ca/roots?dc=nope')
  await record('leaf, first', 'GET /v1/agent/connect/ca/leaf/web')
  await record('leaf, again', 'GET /v1/agent/connect/ca/leaf/web')
  await record('leaf at an old index', 'GET /v1/agent/connect/ca/leaf/web?index=1&wait=1s')
  await record('leaf of an odd name', 'GET /v1/agent/connect/ca/leaf/a%20b')
  await record('leaf of a path', 'GET /v1/agent/connect/ca/leaf/a/b')
  await record('leaf of nobody', 'GET /v1/agent/connect/ca/leaf/')
  await record('leaf elsewhere', 'GET /v1/agent/connect/ca/leaf/web?dc=nope')
  await record('leaf, deleted', 'DELETE /v1/agent/connect/ca/leaf/web')
  await record('CA configuration', 'GET /v1/connect/ca/configuration')
}

const intentionBodies: Record<string, unknown> = {
  'of nothing': '',
  'without names': {},
  'without a destination': { SourceName: 'a' },
  'without an action': { SourceName: 'a', DestinationName: 'web' },
  'with an action that is none': { SourceName: 'a', DestinationName: 'web', Action: 'maybe' },
  'with an unknown field': { SourceName: 'a', DestinationName: 'web', Action: 'deny', Bogus: 1 },
  'with half a wildcard': { SourceName: 'a*', DestinationName: 'web', Action: 'allow' },
  'of another source type': { SourceName: '*', DestinationName: 'web', Action: 'deny', SourceType: 'bogus' },
  'a to web': {
    SourceName: 'a',
    DestinationName: 'web',
    Action: 'deny',
    Description: 'no',
    Meta: { k: 'v' },
  },
  'a to web again': { SourceName: 'a', DestinationName: 'web', Action: 'allow' },
  'from another namespace': { SourceName: 'a', SourceNS: 'foo', DestinationName: 'web', Action: 'allow' },
  'all to web': { SourceName: '*', DestinationName: 'web', Action: 'deny' },
  'a to all': { SourceName: 'a', DestinationName: '*', Action: 'allow' },
  'all to all': { SourceName: '*', DestinationName: '*', Action: 'deny' },
  'b to db': { SourceName: 'b', DestinationName: 'db', Action: 'deny' },
}

async function intentions(record: Recorder): Promise<void> {
  const list = '/v1/connect/intentions'
  await record('no intentions', `GET ${list}`)
  await record('no match', `GET ${list}/match?by=destination&name=web`)
  await record('check without intentions', `GET ${list}/check?source=a&destination=b`)
  let id = ''
  for (const [name, body] of Object.entries(intentionBodies)) {
    const created = await record(`intention ${name}`, `POST ${list}`, { body })
    if (name === 'a to web') id = (created.body as { ID: string }).ID
  }
  await record('intentions', `GET ${list}`)
  const watched = encodeURIComponent('DestinationName == "web" or DestinationName == "*"')
  await record('intentions, filtered', `GET ${list}?filter=${watched}`)
  await record('intentions at an old index', `GET ${list}?index=1&wait=1s`)
  await record('intentions at an index to come', `GET ${list}?index=999999&wait=10ms`)
  for (const query of [
    'by=destination&name=web',
    'by=destination&name=web&name=db',
    'by=source&name=a',
    'by=destination',
    'by=foo&name=web',
    'name=web',
  ]) {
    await record(`match ${query}`, `GET ${list}/match?${query}`)
  }
  for (const query of [
    'source=a&destination=web',
    'source=a&destination=other',
    'source=c&destination=other',
    'source=a',
    'destination=a',
    'source=a&destination=b&source-type=bogus',
  ]) {
    await record(`check ${query}`, `GET ${list}/check?${query}`)
  }
  const rule = { SourceName: 'a', DestinationName: 'web', Action: 'allow' }
  const missing = '00000000-0000-0000-0000-000000000000'
  await record('intention by id', `GET ${list}/${id}`)
  await record('intention by no id', `GET ${list}/nope`)
  await record('intention by another id', `GET ${list}/${missing}`)
  await record('update intention', `PUT ${list}/${id}`, { body: rule })
  await record('update intention halfway', `PUT ${list}/${id}`, { body: { Action: 'allow' } })
  await record('update intention into a twin', `PUT ${list}/${id}`, {
    body: { SourceName: 'b', DestinationName: 'db', Action: 'allow' },
  })
  await record('update no intention', `PUT ${list}/${missing}`, { body: rule })
  await record('update intention by no id', `PUT ${list}/nope`, { body: rule })
  await record('intention after the update', `GET ${list}/${id}`)
  await record('intention exact', `GET ${list}/exact?source=a&destination=web`)
  await record('post to an intention', `POST ${list}/${id}`, { body: rule })
  await record('delete intention', `DELETE ${list}/${id}`)
  await record('delete intention again', `DELETE ${list}/${id}`)
  await record('delete intention by no id', `DELETE ${list}/nope`)
}

async function authorization(record: Recorder): Promise<void> {
  const service = 'spiffe://x.consul/ns/default/dc/dc1/svc'
  const bodies: Record<string, unknown> = {
    'of nothing': '',
    'without a target': {},
    'with an unknown field': { Target: 'web', ClientCertURI: `${service}/a`, Bogus: 1 },
    'without a URI': { Target: 'web' },
    'with a word': { Target: 'web', ClientCertURI: 'foo' },
    'with another scheme': { Target: 'web', ClientCertURI: 'http://x.consul/foo' },
    'with a trust domain': { Target: 'web', ClientCertURI: 'spiffe://x.consul' },
    'with a path that is none': { Target: 'web', ClientCertURI: 'spiffe://x.consul/foo' },
    'with an agent': { Target: 'web', ClientCertURI: 'spiffe://x.consul/agent/client/dc/dc1/id/a' },
    'denied by a wildcard': { Target: 'web', ClientCertURI: `${service}/c`, ClientCertSerial: '01' },
    'allowed by a wildcard': { Target: 'other', ClientCertURI: `${service}/a` },
    'of another namespace': { Target: 'web', ClientCertURI: 'spiffe://x.consul/ns/foo/dc/dc1/svc/a' },
    'of another datacenter': { Target: 'other', ClientCertURI: 'spiffe://x.consul/ns/default/dc/dc2/svc/a' },
    'in lower case': { target: 'other', clientcerturi: `${service}/a` },
  }
  for (const [name, body] of Object.entries(bodies)) {
    await record(`authorize ${name}`, 'POST /v1/agent/connect/authorize', { body })
  }
  await record('authorize by PUT', 'PUT /v1/agent/connect/authorize', { body: {} })
}

async function keyValues(record: Recorder): Promise<void> {
  await record('no key', 'GET /v1/kv/a/b')
  await record('put', 'PUT /v1/kv/a/b', { body: 'one' })
  await record('put with flags', 'PUT /v1/kv/a/c?flags=42', { body: 'two' })
  await record('put nothing', 'PUT /v1/kv/empty')
  await record('put over', 'PUT /v1/kv/a/b?cas=0', { body: 'three' })
  await record('put too much', 'PUT /v1/kv/big', { body: 'x'.repeat(600_000) })
  await record('put without a key', 'PUT /v1/kv/')
  await record('get', 'GET /v1/kv/a/b')
  await record('get raw', 'GET /v1/kv/a/b?raw')
  await record('get empty', 'GET /v1/kv/empty')
  await record('get recursively', 'GET /v1/kv/a?recurse')
  await record('get keys', 'GET /v1/kv/a/?keys')
  await record('get keys of nothing', 'GET /v1/kv/nope?keys')
  await record('get without a key', 'GET /v1/kv/')
  await record('get at an index to come', 'GET /v1/kv/gone?index=999999&wait=10ms')
  await record('post a key', 'POST /v1/kv/x')
  await record('delete', 'DELETE /v1/kv/a/b')
  await record('delete recursively', 'DELETE /v1/kv/a?recurse')
  await record('delete without a key', 'DELETE /v1/kv/')
}

/** Watches, makes the change that they wait for, and takes what they answer. */
async function blocking(record: Recorder): Promise<void> {
  const definition = { Name: 'watched', Port: 1, Connect: { Native: true } }
  const put = 'PUT /v1/agent/service/register'
  await record('register watched', put, { body: definition })
  await record.until('GET /v1/health/connect/watched', (body) => JSON.stringify(body).includes('watched'))
  const watches: Record<string, string> = {
    'health/service': '/v1/health/service/watched',
    'health/connect': '/v1/health/connect/watched',
    'catalog service': '/v1/catalog/service/watched',
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
  answers.push(record('match after', `GET ${listed}/match?by=source&name=watched&index=${index}&wait=30s`))
  await record('register watched anew', put, { body: { ...definition, Port: 2 } })
  await record('intend for watched', `POST ${listed}`, {
    body: { SourceName: 'watched', DestinationName: 'watched', Action: 'deny' },
  })
  await Promise.all(answers)
}

async function rotation(record: Recorder): Promise<void> {
  const path = '/v1/connect/ca/configuration'
  const bodies: Record<string, unknown> = {
    'of nothing': '',
    'without a provider': {},
    'of a provider that is none': { Provider: 'bogus' },
    'with too short a life': { Provider: 'consul', Config: { LeafCertTTL: '5m' } },
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

async function withoutConnect(record: Recorder): Promise<void> {
  for (const path of ['connect/ca/roots', 'agent/connect/ca/roots', 'agent/connect/ca/leaf/web']) {
    await record(path, `GET /v1/${path}`)
  }
  await record('configuration', 'GET /v1/connect/ca/configuration')
  await record('intentions', 'GET /v1/connect/intentions')
  await record('check', 'GET /v1/connect/intentions/check?source=a&destination=web')
  const body = { Target: 'web', ClientCertURI: 'spiffe://x.consul/ns/default/dc/dc1/svc/a' }
  await record('authorize', 'POST /v1/agent/connect/authorize', { body })
}

async function aclScript(record: Recorder, management: string): Promise<void> {
  const anonymous = {}
  const unknown = { token: 'bad' }
  const root = { token: management }
  const bodies: Record<string, unknown> = {
    'with an unknown field': { Bogus: 1 },
    'of nothing': '',
    'of an identity without a name': { ServiceIdentities: [{ ServiceName: '' }] },
    'of an identity with a bad name': { ServiceIdentities: [{ ServiceName: 'Bad Name' }] },
    'of a policy that is none': { Policies: [{ Name: 'nope' }] },
    'of management': { Policies: [{ Name: 'global-management' }] },
  }
  for (const [name, body] of Object.entries(bodies)) {
    await record(`token ${name}`, 'PUT /v1/acl/token', { ...root, body })
  }
  const identity = { Description: 'web', ServiceIdentities: [{ ServiceName: 'web' }], Local: true }
  const created = await record('token of web', 'PUT /v1/acl/token', { ...root, body: identity })
  const { SecretID: secret, AccessorID: accessor } = created.body as { SecretID: string; AccessorID: string }
  const web = { token: secret }
  await record('token read', `GET /v1/acl/token/${accessor}`, root)
  await record('token of no id', 'GET /v1/acl/token/nope', root)
  await record('token of another id', 'GET /v1/acl/token/00000000-0000-0000-0000-00000000000a', root)

  const callers = { anonymous, unknown, web, root }
  const names = Object.keys(callers) as (keyof typeof callers)[]
  const native = { Port: 1, Connect: { Native: true }, Check: { TTL: '100s', Status: 'passing' } }
  // What a proxy needs comes first: once one is registered, a real agent fetches it ahead of time.
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
      { Name: 'n', TTL: '100s', Status: 'passing' },
    ],
    'register a check of db': [
      'PUT /v1/agent/check/register',
      { Name: 'd', ServiceID: 'db', TTL: '100s', Status: 'passing' },
    ],
    'pass web': ['PUT /v1/agent/check/pass/service:web'],
    'pass db': ['PUT /v1/agent/check/pass/service:db'],
    'pass nothing': ['PUT /v1/agent/check/pass/nope'],
    'deregister nothing': ['PUT /v1/agent/service/deregister/nope'],
    'create a token': ['PUT /v1/acl/token', {}],
    'put a key': ['PUT /v1/kv/foo', 'x'],
  }
  for (const [label, [request, body]] of Object.entries(calls)) {
    for (const name of names) {
      await record(`${label}: ${name}`, request, {
        ...callers[name],
        ...(body === undefined ? {} : { body }),
      })
    }
  }
  await record.until(
    'GET /v1/health/service/web?passing',
    (body) => JSON.stringify(body).includes('service:web'),
    root,
  )
  await record.until(
    'GET /v1/health/service/db?passing',
    (body) => JSON.stringify(body).includes('service:db'),
    root,
  )

  const rule = { SourceName: 'a', DestinationName: 'db', Action: 'allow' }
  for (const name of names) {
    await record(`intend: ${name}`, 'POST /v1/connect/intentions', { ...callers[name], body: rule })
  }
  const reads = [
    'agent/services',
    'agent/checks',
    'agent/service/db',
    'agent/service/nope',
    'catalog/services',
    'catalog/service/db',
    'health/service/web',
    'health/connect/db',
    'health/checks/db',
    'connect/intentions',
    'connect/intentions/match?by=destination&name=web',
    'connect/intentions/match?by=destination&name=db',
    'connect/intentions/match?by=source&name=db',
    'connect/intentions/check?source=a&destination=db',
    'connect/ca/configuration',
    'kv/foo',
    'acl/tokens',
    'acl/token/self',
  ]
  for (const path of reads) {
    for (const name of names) await record(`${path}: ${name}`, `GET /v1/${path}`, callers[name])
  }
  // These two ask for no token at all.
  for (const path of ['connect/ca/roots', 'status/leader']) await record(path, `GET /v1/${path}`, unknown)
  await record('agent self, denied', 'GET /v1/agent/self', web)
  await record('token in the query', `GET /v1/agent/connect/ca/leaf/web?token=bad`, web)
  for (const [label, id] of [
    ['db', 'db'],
    ['its own', 'web'],
  ]) {
    await record(`deregister ${label}`, `PUT /v1/agent/service/deregister/${id}`, web)
  }
  await record('delete a token', `DELETE /v1/acl/token/${accessor}`, root)
  await record('delete a token of no id', 'DELETE /v1/acl/token/nope', root)
}

/** A key of no worth, for the one rotation. */
const rotationKey = `-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIKaqVx2IKn08hYe08MTEShTsfmz05j1tPVdJQTQoVk4KoAoGCCqGSM49
AwEHoUQDQgAEjCjlp4Y0D25RjaYRqC/fbG0t56aCDSLDFvep3za3SPTnJCDihKkc
g8Id6CCW3gFiQ0Nufxjva9nVzhb9CXRqeQ==
-----END EC PRIVATE KEY-----
`
