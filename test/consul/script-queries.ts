// Requests for prepared queries on the services that script-services.ts registers.
import type { Recorder } from './comparison.js'

const definitions: Record<string, unknown> = {
  'without a body': '',
  'of an empty object': {},
  'with an unknown field': { Name: 'x', Bogus: 1, Service: { Service: 'web' } },
  'without a service': { Name: 'x' },
  'without a name': { Service: { Service: 'web' } },
  'with an invalid TTL': { Name: 'x', Service: { Service: 'web' }, DNS: { TTL: 'x' } },
  'with a negative TTL': { Name: 'x', Service: { Service: 'web' }, DNS: { TTL: '-1s' } },
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
  await record('queries, none', 'GET /v1/query')
  for (const [name, body] of Object.entries(definitions)) {
    await record(`query ${name}`, 'POST /v1/query', { body })
  }
  const ids: Record<string, string> = {}
  for (const [name, body] of Object.entries(queries)) {
    const { body: created } = await record(`query ${name}, created`, 'POST /v1/query', { body })
    ids[name] = (created as { ID: string }).ID
    await record(`query ${name}, read`, `GET /v1/query/${ids[name]}`)
  }
  await record('query of a taken name', 'POST /v1/query', {
    body: { Name: 'PLAIN', Service: { Service: 'web' } },
  })
  for (const call of [
    `${ids['plain']}/execute`,
    `${ids['plain']}/explain`,
    'plain/execute',
    'PLAIN/execute',
    'plain/execute?stale',
    'plain/execute?limit=1',
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
  const body = { Name: 'plainer', Service: { Service: 'native', Tags: ['none'] } }
  const path = `/v1/query/${ids['plain']}`
  await record('query, updated', `PUT ${path}`, { body })
  await record('query, read after the update', `GET ${path}`)
  await record('query, executed after the update', 'GET /v1/query/plainer/execute')
  await record('query, executed by its old name', 'GET /v1/query/plain/execute')
  await record('query, deleted', `DELETE ${path}`)
  await record('query, read after the end', `GET ${path}`)
}
