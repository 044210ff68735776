// Requests for prepared queries on the services that script-services.ts registers.
import type { Recorder } from './comparison.js'

const definitions: Record<string, unknown> = {
  'without a body': '',
  'of an empty object': {},
  'with an unknown field': { Name: 'x', Bogus: 1, Service: { Service: 'web' } },
  'without a service': { Name: 'x' },
  'without a name': { Service: { Service: 'web' } },
}

const queries: Record<string, unknown> = {
  plain: { Name: 'plain', Service: { Service: 'native' } },
  all: {
    Name: 'all',
    Token: 'secret',
    Service: {
      Service: 'web',
      Failover: { NearestN: 2, Datacenters: ['dc9', 'dc1'] },
      OnlyPassing: true,
      Near: '_agent',
      Tags: ['A', '!c'],
    },
    DNS: { TTL: '1m30s' },
  },
  connect: { Name: 'connect', Service: { Service: 'native', Connect: true } },
  banned: { Name: 'banned', Service: { Service: 'native', Tags: ['!a'] } },
  missing: { Name: 'missing', Service: { Service: 'native', Tags: ['a'] } },
}

export async function preparedQueries(record: Recorder): Promise<void> {
  for (const [name, body] of Object.entries(definitions)) {
    await record(`query ${name}`, 'POST /v1/query', { body })
  }
  const ids: Record<string, string> = {}
  for (const [name, body] of Object.entries(queries)) {
    const { body: created } = await record(`query ${name}, created`, 'POST /v1/query', { body })
    ids[name] = (created as { ID: string }).ID
  }
  await record('query of a taken name', 'POST /v1/query', {
    body: { Name: 'PLAIN', Service: { Service: 'web' } },
  })
  for (const call of [
    `${ids['plain']}/execute`,
    `${ids['plain']}/explain`,
    'plain/execute',
    'PLAIN/execute',
    'plain/execute?dc=dc1',
    'plain/execute?dc=nope',
    'plain/execute?connect=true',
    'all/execute',
    'all/explain',
    'connect/execute?near=_agent',
    'banned/execute',
    'missing/execute',
    'nope/execute',
    'nope/explain',
  ]) {
    await record(`query/${call.replace(ids['plain'] ?? '', 'ID')}`, `GET /v1/query/${call}`)
  }
  await record('query, deleted', `DELETE /v1/query/${ids['plain']}`)
  await record('query, executed after the deletion', 'GET /v1/query/plain/execute')
}
