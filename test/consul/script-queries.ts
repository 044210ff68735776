// Calls for prepared queries, in one datacenter and over two.
import type { Recorder } from './comparison.js'

const service = { Service: 'cat' }

const definitions: Record<string, unknown> = {
  'of nothing': '',
  'of an empty object': {},
  'of an array': [],
  'in snake_case': { Name: 'x', Service: { Service: 'web', only_passing: true } },
  'with an unknown field': { Name: 'x', Bogus: 1, Service: service },
  'without a service': { Name: 'x' },
  'without a name': { Service: service },
  'with an id': { ID: 'x', Name: 'x', Service: service },
  'with a bad NearestN': { Name: 'x', Service: { ...service, Failover: { NearestN: -1 } } },
  'with a TTL that is none': { Name: 'x', Service: service, DNS: { TTL: 'x' } },
  'with a negative TTL': { Name: 'x', Service: service, DNS: { TTL: '-1s' } },
  'with a hidden token': { Name: 'x', Service: service, Token: '<hidden>' },
  'with bad metadata': { Name: 'x', Service: { ...service, NodeMeta: { 'a b': 'c' } } },
  'with a template of no type': { Name: 'x', Service: service, Template: { Type: 'x' } },
  'with an unknown variable': {
    Name: 'x',
    Service: { Service: 'a${name.bogus}' },
    Template: { Type: 'name_prefix_match' },
  },
  'with an unknown variable in a tag': {
    Name: 'x',
    Service: { Service: 'a', Tags: ['a', '${bogus}'] },
    Template: { Type: 'name_prefix_match' },
  },
  'with an open interpolation': {
    Name: 'x',
    Service: { Service: '${name.full' },
    Template: { Type: 'name_prefix_match' },
  },
  'with a bad expression': {
    Name: 'x',
    Service: service,
    Template: { Type: 'name_prefix_match', Regexp: '(' },
  },
}

const queries: Record<string, unknown> = {
  plain: { Name: 'plain', Service: { Service: 'odd' } },
  all: {
    Name: 'all',
    Token: 'secret',
    Service: {
      Service: 'cat',
      Failover: { NearestN: 2, Datacenters: ['dc9', 'dc1'] },
      OnlyPassing: true,
      IgnoreCheckIDs: ['late'],
      Near: 'n1',
      Tags: ['A', '!c'],
      NodeMeta: { os: 'linux' },
      ServiceMeta: { v: '1' },
      Connect: false,
    },
    DNS: { TTL: '1m30s' },
  },
  connect: { Name: 'connect', Service: { Service: 'cat', Connect: true, Tags: ['!a'] } },
  near: { Name: 'near', Service: { Service: 'cat', Near: 'n2', Tags: ['!b'] } },
  warned: { Name: 'warned', Service: { Service: 'cat', Tags: ['b'] } },
  passing: { Name: 'passing', Service: { Service: 'cat', Tags: ['b'], OnlyPassing: true } },
  ignoring: {
    Name: 'ignoring',
    Service: { Service: 'cat', Tags: ['b'], OnlyPassing: true, IgnoreCheckIDs: ['late'] },
  },
  nowhere: { Name: 'nowhere', Service: { Service: 'cat', NodeMeta: { os: 'plan9' } } },
  template: {
    Name: 'geo-',
    Service: { Service: '${match(1)}', Tags: ['${match(2)}', '${name.suffix}|${name.prefix}', '$${x}'] },
    Template: { Type: 'name_prefix_match', Regexp: '^geo-(.*?)-(.*)$' },
  },
  trimmed: {
    Name: 'geo-trim-',
    Service: { Service: '${name.suffix}', Tags: [' ${match(7)} ', 'x${match(0)}'] },
    Template: { Type: 'name_prefix_match', Regexp: '(?i)^GEO', RemoveEmptyTags: true },
  },
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
  const plain = ids['plain'] ?? ''
  await record('query of a taken name', 'POST /v1/query', { body: { Name: 'PLAIN', Service: service } })
  await record('query of the name of an id', 'POST /v1/query', { body: { Name: plain, Service: service } })
  for (const [name, id] of Object.entries({ plain, template: ids['template'] ?? '' })) {
    for (const verb of ['execute', 'explain'])
      await record(`${verb} ${name} by id`, `GET /v1/query/${id}/${verb}`)
  }
  await executions(record)
  await changes(record, plain)
}

async function executions(record: Recorder): Promise<void> {
  for (const call of [
    'plain/execute',
    'PLAIN/execute',
    'plain/execute?stale',
    'plain/execute?consistent',
    'plain/execute?stale&consistent',
    'plain/execute?limit=0',
    'plain/execute?limit=x',
    'plain/execute?dc=dc1',
    'plain/execute?dc=nope',
    'plain/execute?connect=true',
    'plain/explain?dc=nope',
    'plain/explain?limit=x',
    'all/execute',
    'all/explain',
    'connect/execute?near=n2',
    'connect/execute?near=n2&limit=1',
    'near/execute?limit=1',
    'warned/execute',
    'warned/execute?connect=true',
    'passing/execute',
    'ignoring/execute',
    'nowhere/execute',
    'geo-odd-x/explain',
    'GEO-odd-x/explain',
    'geo-nomatch/explain',
    'geo-nomatch/execute',
    'geo-/explain',
    'geo-trim-odd/explain',
    'geo-trim-odd/execute',
    'nope/execute',
    'nope/explain',
    'execute',
    'a/b/execute',
    '11111111-1111-1111-1111-111111111111/execute',
  ]) {
    await record(`query/${call}`, `GET /v1/query/${call}`)
  }
  for (const [method, path] of [
    ['PUT', 'plain/execute'],
    ['POST', 'plain'],
    ['DELETE', 'plain/explain'],
  ]) {
    await record(`${method} query/${path}`, `${method} /v1/query/${path}`)
  }
}

async function changes(record: Recorder, id: string): Promise<void> {
  const unknown = '11111111-1111-1111-1111-111111111111'
  const body = { Name: 'plainer', Service: { Service: 'odd', Tags: ['none'] } }
  for (const name of ['plain', unknown]) {
    await record(`query ${name} by no id, read`, `GET /v1/query/${name}`)
    await record(`query ${name} by no id, updated`, `PUT /v1/query/${name}`, { body })
    await record(`query ${name} by no id, deleted`, `DELETE /v1/query/${name}`)
  }
  await record('query, updated to a taken name', `PUT /v1/query/${id}`, { body: { ...body, Name: 'near' } })
  await record('query, updated to no service', `PUT /v1/query/${id}`, { body: { Name: 'x' } })
  await record('query, updated', `PUT /v1/query/${id}`, { body })
  await record('query, read after the update', `GET /v1/query/${id}`)
  await record('query, executed after the update', 'GET /v1/query/plainer/execute')
  await record('query, executed by its old name', 'GET /v1/query/plain/execute')
  await record('query, deleted', `DELETE /v1/query/${id}`)
  await record('query, read after the end', `GET /v1/query/${id}`)
  const template = { Service: { Service: '${name.full}' }, Template: { Type: 'name_prefix_match' } }
  await record('query for all names', 'POST /v1/query', { body: template })
  await record('query for all names, again', 'POST /v1/query', { body: template })
  await record('query for all names, executed', 'GET /v1/query/odd/execute')
}

/** What the first of two datacenters, dc1 and dc2, says of itself and of the other. */
export async function twoDatacenters(record: Recorder): Promise<void> {
  await record.until('GET /v1/catalog/datacenters', { has: ['"dc2"'] })
  await record.until('GET /v1/catalog/nodes', { has: ['lan_ipv4'] })
  await record.until('GET /v1/catalog/nodes?dc=dc2', { has: ['lan_ipv4'] })
  await record('datacenters', 'GET /v1/catalog/datacenters')
  const far = { Node: 'm1', Address: '10.2.0.1', Datacenter: 'dc2' }
  await record('register far away', 'PUT /v1/catalog/register', {
    body: { ...far, Service: { Service: 'far', Port: 80, Tags: ['x'], Connect: { Native: true } } },
  })
  await record('register here', 'PUT /v1/catalog/register', {
    body: { Node: 'n1', Address: '10.0.0.1', Service: { Service: 'here', Port: 80 } },
  })
  for (const path of [
    'health/service/far?dc=dc2',
    'health/service/far?dc=dc1',
    'health/service/here?dc=dc2',
    'health/connect/far?dc=dc2&passing&near=_agent',
    'health/service/far?dc=dc2&filter=Bogus==1',
    'health/service/far?dc=dc3',
    'health/checks/far?dc=dc2',
    'health/state/any?dc=dc2',
    'catalog/services?dc=dc2',
    'catalog/service/far?dc=dc2',
    'catalog/nodes?dc=dc2',
    'query?dc=dc2',
    'query/nope/execute?dc=dc2',
  ]) {
    await record(path, `GET /v1/${path}`)
  }
  const failovers: Record<string, unknown> = {
    'to the nearest': { Service: 'far', Failover: { NearestN: 1 } },
    'to more than there are': { Service: 'far', Failover: { NearestN: 9, Datacenters: ['dc2'] } },
    'to a list': { Service: 'far', Failover: { Datacenters: ['dc9', 'dc1', 'dc2'] } },
    'to a list that repeats itself': { Service: 'nobody', Failover: { Datacenters: ['dc2', 'dc2'] } },
    'to nowhere': { Service: 'far' },
    'not needed': { Service: 'here', Failover: { NearestN: 1 } },
    'by tag': { Service: 'far', Tags: ['!x'], Failover: { NearestN: 1 } },
    'of Connect': { Service: 'far', Connect: true, Failover: { NearestN: 1 } },
  }
  for (const [name, service] of Object.entries(failovers)) {
    const body = { Name: name.replaceAll(' ', '-'), Service: service, DNS: { TTL: '3s' } }
    await record(`query that fails over ${name}`, 'POST /v1/query', { body })
    await record(`execute, fails over ${name}`, `GET /v1/query/${body.Name}/execute`)
  }
  await record('execute for Connect where there is none', 'GET /v1/query/not-needed/execute?connect=true')
  await record('query far away', 'POST /v1/query?dc=dc2', {
    body: { Name: 'away', Service: { Service: 'far' } },
  })
  await record('execute far away', 'GET /v1/query/away/execute?dc=dc2')
  await record('explain far away', 'GET /v1/query/away/explain?dc=dc2')
  await record('execute far away, here', 'GET /v1/query/away/execute')
}
