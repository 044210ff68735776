// Requests for intentions and authorization.
import type { Recorder } from './comparison.js'

/** Fields that `consul intention create` sends besides. */
const INTENTION_OF_CLI = { SourceNS: '', DestinationNS: '', SourceType: 'consul' }

const intentionBodies: Record<string, unknown> = {
  'without a body': '',
  'without names': {},
  'without a destination': { SourceName: 'a' },
  'without an action': { SourceName: 'a', DestinationName: 'web' },
  'with an unknown action': { SourceName: 'a', DestinationName: 'web', Action: 'maybe' },
  'with an unknown field': { SourceName: 'a', DestinationName: 'web', Action: 'deny', Bogus: 1 },
  'of another source type': { SourceName: '*', DestinationName: 'web', Action: 'deny', SourceType: 'bogus' },
  'a to web': {
    SourceName: 'a',
    DestinationName: 'web',
    Action: 'deny',
    Description: 'no',
    Meta: { k: 'v' },
  },
  'a to web again': { SourceName: 'a', DestinationName: 'web', Action: 'allow' },
  'all to web': { SourceName: '*', DestinationName: 'web', Action: 'deny' },
  'a to all': { SourceName: 'a', DestinationName: '*', Action: 'allow' },
  'all to all': { SourceName: '*', DestinationName: '*', Action: 'deny' },
  'b to db': { SourceName: 'b', DestinationName: 'db', Action: 'deny' },
  'as the command line sends it': {
    ...INTENTION_OF_CLI,
    SourceName: 'c',
    DestinationName: 'db',
    Action: 'deny',
  },
}

export async function intentions(record: Recorder): Promise<void> {
  const list = '/v1/connect/intentions'
  await record('no intentions', `GET ${list}`)
  await record('no match', `GET ${list}/match?by=destination&name=web`)
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
  for (const query of ['by=destination&name=web', 'by=destination&name=web&name=db']) {
    await record(`match ${query}`, `GET ${list}/match?${query}`)
  }
  for (const query of ['source=a&destination=web', 'source=c&destination=db', 'source=c&destination=other'])
    await record(`check ${query}`, `GET ${list}/check?${query}`)
  const rule = { SourceName: 'a', DestinationName: 'web', Action: 'allow' }
  const missing = '00000000-0000-0000-0000-000000000000'
  await record('update intention', `PUT ${list}/${id}`, { body: rule })
  await record('update intention partially', `PUT ${list}/${id}`, { body: { Action: 'allow' } })
  await record('update intention into a duplicate', `PUT ${list}/${id}`, {
    body: { SourceName: 'b', DestinationName: 'db', Action: 'allow' },
  })
  await record('update an unknown intention', `PUT ${list}/${missing}`, { body: rule })
  await record('intentions after the update', `GET ${list}`)
  await record('post to an intention', `POST ${list}/${id}`, { body: rule })
  await record('delete intention', `DELETE ${list}/${id}`)
  await record('delete intention again', `DELETE ${list}/${id}`)
}

export async function authorization(record: Recorder): Promise<void> {
  const service = 'spiffe://x.consul/ns/default/dc/dc1/svc'
  const bodies: Record<string, unknown> = {
    'without a body': '',
    'without a target': {},
    'with an unknown field': { Target: 'web', ClientCertURI: `${service}/a`, Bogus: 1 },
    'without a URI': { Target: 'web' },
    'without a scheme': { Target: 'web', ClientCertURI: 'foo' },
    'with another scheme': { Target: 'web', ClientCertURI: 'http://x.consul/foo' },
    'with a trust domain': { Target: 'web', ClientCertURI: 'spiffe://x.consul' },
    'with an unknown path': { Target: 'web', ClientCertURI: 'spiffe://x.consul/foo' },
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
