import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TestAgent } from '../../src/testing/index.js'

import { asn1Structure } from './asn1-structure.js'
import { compare, createRecorder, type Difference, type Recorder, type Recording } from './comparison.js'
import { consulVersion, skip as noConsul, startConsul } from './real-agent.js'
import { aclScript } from './script-acl.js'
import { blocking, certificates, rotation, rotationKey, withoutConnect } from './script-connect.js'
import { authorization, intentions } from './script-intentions.js'
import { preparedQueries } from './script-queries.js'
import { checks, discovery, registration } from './script-services.js'

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
    call: /^filter malformed/,
    what: 'body',
    reason: 'Consul lists everything that could stand where the mistake is',
  },
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
  await record('leader', 'GET /v1/status/leader')
  await certificates(record)
  await registration(record)
  await discovery(record)
  await preparedQueries(record)
  await checks(record)
  await intentions(record)
  await authorization(record)
  await blocking(record)
  await rotation(record)
  await record('acl off: tokens', 'GET /v1/acl/tokens')
  await record('acl off: create', 'PUT /v1/acl/token', { body: {} })
}
