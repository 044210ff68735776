// Requests for registration, discovery, and checks, both valid and invalid.
import type { Recorder } from './comparison.js'

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
  'without a body': '',
  'of a truncated object': '{',
  'of an array': [],
  'without a name': {},
  'with an unknown field': { Name: 'x', Bogus: 1 },
  'with a port as a string': { Name: 'x', Port: 'x' },
  'with a weight of 0': { Name: 'x', Weights: { Passing: 0 } },
  'with a weight for passing only': { Name: 'weighed', Port: 1, Weights: { Passing: 10 } },
  'with a weight for warning only': { Name: 'x', Weights: { Warning: 10 } },
  'with the address of all': { Name: 'x', Address: '0.0.0.0' },
  'with an address of IPv6': { Name: 'six', Port: 1, Address: 'fe80::1' },
  'with a name for an address': { Name: 'named', Port: 1, Address: 'a.example' },
  'with tagged addresses only': {
    Name: 'tagged',
    Port: 1,
    TaggedAddresses: { wan: { Address: '1.2.3.4' }, lan: { Address: '::1', Port: 6 } },
  },
  'with an unknown field of an address': { Name: 'x', TaggedAddresses: { lan: { Bogus: 1 } } },
  'of a proxy to nowhere': { Name: 'x', Kind: 'connect-proxy', Port: 1 },
  'of a proxy without a port': { Name: 'x', Kind: 'connect-proxy', Proxy: { DestinationServiceName: 'web' } },
  'of a native proxy': {
    Name: 'x',
    Kind: 'connect-proxy',
    Port: 2,
    Connect: { Native: true },
    Proxy: { DestinationServiceName: 'web' },
  },
  'with a check without a kind': { Name: 'x', Check: { Interval: '10s' } },
  'with an invalid TTL': { Name: 'x', Check: { TTL: 'abc' } },
  'with a TCP check without an interval': { Name: 'x', Check: { TCP: '127.0.0.1:1' } },
  'with a key of the metadata that Consul reserves': { Name: 'x', Meta: { 'consul-x': '1' } },
  'with a key of other characters': { Name: 'x', Meta: { 'a b': '1' } },
  'with an empty key': { Name: 'x', Meta: { '': '1' } },
  'with a long key': { Name: 'x', Meta: { ['k'.repeat(129)]: '1' } },
  'with a long value': { Name: 'x', Meta: { k: 'v'.repeat(513) } },
  'with too many keys': {
    Name: 'x',
    Meta: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, ''])),
  },
  'with the longest metadata': {
    Name: 'longest',
    Port: 1,
    Meta: { CONSUL: '', ['k'.repeat(128)]: 'v'.repeat(512) },
  },
  'of web': { Name: 'web', Port: 8080, Tags: ['a', 'b'], Meta: { v: '1' }, Check: { TTL: '1h' } },
  'of web again': { Name: 'web', Port: 8080, Tags: ['a', 'b'], Meta: { v: '1' }, Check: { TTL: '1h' } },
  'of web with an address': {
    Name: 'web',
    ID: 'web2',
    Port: 8081,
    Address: '10.0.0.1',
    TaggedAddresses: { lan: { Address: '10.0.0.1', Port: 99 } },
    Weights: { Passing: 10, Warning: 2 },
    EnableTagOverride: true,
    Checks: [
      { TTL: '1h', Status: 'passing' },
      { TTL: '1h', Name: 'second', Status: 'warning' },
    ],
  },
  'of a native service': {
    Name: 'native',
    Port: 8082,
    Connect: { Native: true },
    Check: { CheckID: 'mine', Name: 'My check', TTL: '1h', Status: 'passing', Notes: 'no' },
  },
  'of a proxy': proxy,
  'of a proxy in snake_case': {
    name: 'snake-proxy',
    kind: 'connect-proxy',
    port: 8084,
    proxy: {
      destination_service_name: 'shop',
      local_service_port: 8080,
      upstreams: [{ destination_name: 'db', local_bind_port: 9191 }],
    },
  },
  'of an unknown kind': { Name: 'odd', Kind: 'bogus', Proxy: { destination_service_name: 'shop' } },
  'in lower case': { name: 'lower', port: 1, enable_tag_override: true, connect: { native: true } },
}

export async function registration(record: Recorder): Promise<void> {
  for (const [name, body] of Object.entries(registrations)) {
    await record(`register ${name}`, 'PUT /v1/agent/service/register', { body })
  }
  await record('services of the agent', 'GET /v1/agent/services')
  for (const id of ['web', 'web2', 'native', 'shop-proxy', 'snake-proxy', 'odd', 'lower', 'nope']) {
    await record(`service ${id} of the agent`, `GET /v1/agent/service/${id}`)
  }
  for (const query of ['wait=abc', 'index=abc', 'hash=abc&wait=abc', 'wait=-1s']) {
    await record(`service of the agent with ${query}`, `GET /v1/agent/service/web?${query}`)
  }
  await record('service by another hash', 'GET /v1/agent/service/web?hash=abc&wait=10m')
  await record('deregister an unknown id', 'PUT /v1/agent/service/deregister/nope')
  await record('deregister without an id', 'PUT /v1/agent/service/deregister/')
  await record('deregister', 'PUT /v1/agent/service/deregister/lower')
  for (const name of ['shop-proxy', 'tagged', 'snake-proxy', 'odd'])
    await record.until(`GET /v1/health/service/${name}`, { has: [name] })
  await record.until('GET /v1/health/service/lower', { lacks: ['lower'] })
  await record.until('GET /v1/health/service/web', {
    has: ['"service:web"', '"service:web2:1"', '"service:web2:2"'],
  })
  await record.until('GET /v1/health/service/native?passing', { has: ['My check'] })
}

const filters: Record<string, string> = {
  equal: 'Service.Meta.v == "1"',
  'by key': 'Service.Meta["v"] == "1"',
  unequal: 'Service.Meta.v != "1"',
  both: 'Service.ID == "web2" and not (Service.Meta.v == "1" or Service.Port == 8080)',
  in: 'a in Service.Tags',
  'not in': '"a" not in Service.Tags',
  'in another case': 'A in Service.Tags',
  'in a text': '"2" in Service.ID',
  'by key, in': 'v in Service.Meta',
  'by a check': 'Checks.Status == critical',
  'by no check': 'Checks.Status != critical',
  'not by a check': 'not Checks.Status == critical',
  'by the node': 'Node.Node == "embedded" and Node.Meta["consul-network-segment"] == ""',
  'by a tagged address': 'Service.TaggedAddresses.lan.Port == 99',
  'by weight': 'Service.Weights.Passing == 10',
  'without space': '(Service.Port==8080)',
  'twice denied': 'not not Service.Port == 8080',
  'and before or': 'Service.Port == 8080 or Service.Port == 8081 and Service.ID == x',
  'malformed by an open string': 'Service.ID == "a',
  'malformed by an open parenthesis': '(Service.ID == a',
  'malformed by an index': 'Service.Meta[v] == 1',
  malformed: 'foo',
  'malformed by capitals': 'NOT Service.Port == 80',
  'malformed by more': 'Service.ID == a Service.ID == b',
  'malformed by less': 'Service.ID ==',
}

const filtersElsewhere: Record<string, string> = {
  'agent/services': 'a in Tags and Port == 8080',
  'connect/intentions': 'SourceName == nope',
}

export async function discovery(record: Recorder): Promise<void> {
  for (const path of ['health/service', 'health/connect']) {
    await record(`${path} web`, `GET /v1/${path}/web`)
    await record(`${path} WEB`, `GET /v1/${path}/WEB`)
    for (const name of ['weighed', 'six', 'named', 'tagged', 'snake-proxy', 'odd']) {
      await record(`${path} ${name}`, `GET /v1/${path}/${name}`)
    }
    await record(`${path} native`, `GET /v1/${path}/native`)
    await record(`${path} shop`, `GET /v1/${path}/shop`)
    await record(`${path} shop-proxy`, `GET /v1/${path}/shop-proxy`)
    await record(`${path} of an unknown service`, `GET /v1/${path}/nope`)
    await record(`${path} in an unknown datacenter`, `GET /v1/${path}/web?dc=nope`)
    await record(`${path} in its own datacenter`, `GET /v1/${path}/nope?dc=dc1`)
  }
  for (const path of ['health/service', 'health/connect']) {
    await record(`${path} without a name`, `GET /v1/${path}/`)
  }
  for (const query of ['passing', 'passing=1', 'passing=false', 'tag=a', 'tag=A&tag=b', 'tag=zz']) {
    await record(`health ${query}`, `GET /v1/health/service/web?${query}`)
  }
  for (const query of ['near=_agent', 'index=abc', 'wait=abc', 'wait=-1s']) {
    await record(`health ${query}`, `GET /v1/health/service/nope?${query}`)
  }
  await record('health at an index to come', 'GET /v1/health/service/web?index=999999&wait=10ms')
  for (const [name, filter] of Object.entries(filters)) {
    await record(`filter ${name}`, `GET /v1/health/service/web?filter=${encodeURIComponent(filter)}`)
  }
  for (const [path, filter] of Object.entries(filtersElsewhere)) {
    await record(`filter of ${path}`, `GET /v1/${path}?filter=${encodeURIComponent(filter)}`)
  }
}

export async function checks(record: Recorder): Promise<void> {
  for (const id of ['service:web', 'service:web2:1', 'mine', 'nope']) {
    for (const state of ['warn', 'fail', 'pass']) {
      await record(`${state} ${id}`, `PUT /v1/agent/check/${state}/${id}?note=hello`)
    }
  }
  await record('checks of the agent', 'GET /v1/agent/checks')
  const definitions: Record<string, unknown> = {
    'of the node': { Name: 'node check', ID: 'node', TTL: '1h', Status: 'passing' },
    'of a service': { Name: 'more', ID: 'more', ServiceID: 'web', TTL: '1h', Status: 'passing' },
    'of a service that is not there': { Name: 'more', ServiceID: 'nope', TTL: '10s' },
    'without a name': { TTL: '10s' },
    'without a kind': { Name: 'a' },
    'of an unknown status': { Name: 'a', TTL: '10s', Status: 'bogus' },
    'with an unknown field': { Name: 'a', TTL: '10s', Bogus: 1 },
    'that expires': { Name: 'short', ID: 'short', ServiceID: 'native', TTL: '50ms', Status: 'passing' },
    'of a closed port': { Name: 'closed', ServiceID: 'native', TCP: '127.0.0.1:1', Interval: '100ms' },
  }
  for (const [name, body] of Object.entries(definitions)) {
    await record(`check register ${name}`, 'PUT /v1/agent/check/register', { body })
  }
  await record.until('GET /v1/health/service/native', { has: ['refused', 'TTL expired'] })
  await record.until('GET /v1/health/service/web?passing', { has: ['"web"', '"node"', '"more"'] })
  await record('pass a TCP check', 'PUT /v1/agent/check/pass/closed')
  await record('checks that failed', 'GET /v1/health/service/native')
  await record('health with a check of the node', 'GET /v1/health/service/web?passing')
  await record('pass an expired check', 'PUT /v1/agent/check/pass/short?note=late')
  for (const id of ['short', 'closed', 'node', 'more', 'nope']) {
    await record(`check deregister ${id}`, `PUT /v1/agent/check/deregister/${id}`)
  }
}
