// Calls for the catalog itself: nodes, services and checks that no agent registered.
import type { Recorder } from './comparison.js'

const registrations: Record<string, unknown> = {
  'of nothing': '',
  'of half an object': '{}',
  'without an address': { Node: 'n1' },
  'without a node': { Address: '10.0.0.1' },
  'with an unknown field': { Node: 'n1', Address: '10.0.0.1', Bogus: 1 },
  'with an unknown field of a service': { Node: 'n1', Address: '10.0.0.1', Service: { Bogus: 1 } },
  elsewhere: { Node: 'n1', Address: '10.0.0.1', Datacenter: 'nope' },
  'with an id that is none': { Node: 'n1', Address: '10.0.0.1', ID: 'x' },
  'of a service with an id only': { Node: 'n1', Address: '10.0.0.1', Service: { ID: 'x' } },
  'of a proxy to nowhere': {
    Node: 'n1',
    Address: '10.0.0.1',
    Service: { Service: 'x', Kind: 'connect-proxy' },
  },
  'of a node': {
    Node: 'n0',
    Address: '10.0.0.9',
    NodeMeta: { os: 'plan9' },
    TaggedAddresses: { wan: '9.9.9.9' },
  },
  'of a service with checks': {
    Node: 'n1',
    Address: '10.0.0.1',
    NodeMeta: { os: 'linux' },
    TaggedAddresses: { lan: '10.0.0.1', wan: '1.2.3.4' },
    Service: { ID: 'cat1', Service: 'cat', Port: 80, Tags: ['a', 'B'], Meta: { v: '1' } },
    Check: { Name: 'node ok', Status: 'passing' },
    Checks: [{ CheckID: 'late', Name: 'late', ServiceID: 'cat1', Status: 'warning', Output: 'slow' }],
  },
  'of a native service': {
    Node: 'n2',
    Address: '::1',
    Service: { Service: 'cat', Port: 80, Connect: { Native: true }, Weights: { Passing: 5, Warning: 2 } },
  },
  'of a service with an address': {
    Node: 'n2',
    Address: '::1',
    Service: {
      ID: 'cat3',
      Service: 'cat',
      Address: 'fe80::1',
      TaggedAddresses: { lan: { Address: '10.1.1.1', Port: 9 }, wan: { Address: '1.1.1.1' } },
      Port: 80,
      Weights: { Passing: 0, Warning: 3 },
    },
  },
  'without an update of the node': { Node: 'n2', Address: '::2', SkipNodeUpdate: true },
  'of a proxy': {
    Node: 'n3',
    Address: '10.0.0.3',
    Service: {
      ID: 'cat-proxy',
      Service: 'cat-proxy',
      Kind: 'connect-proxy',
      Port: 3,
      Proxy: { DestinationServiceName: 'cat' },
    },
    Check: {
      CheckID: 'tcp',
      Name: 'TCP',
      ServiceID: 'cat-proxy',
      Definition: { TCP: '10.0.0.3:3', Interval: '10s' },
    },
  },
  'of a proxy in snake_case': {
    node: 'n6',
    address: '10.0.0.6',
    service: {
      service: 'cat-proxy',
      kind: 'connect-proxy',
      port: 6,
      proxy: {
        destination_service_name: 'cat',
        local_service_port: 3,
        upstreams: [
          { destination_name: 'db', local_bind_port: 3, config: { a: 1 } },
          { destination_name: 'db', local_bind_port: 4, destination_type: 'prepared_query' },
        ],
      },
    },
  },
  'of a service in snake_case': {
    Node: 'n1',
    Address: '10.0.0.1',
    Service: { Service: 'x', enable_tag_override: true },
  },
  'of an address in snake_case': {
    Node: 'n1',
    Address: '10.0.0.1',
    Service: { Service: 'x', tagged_addresses: {} },
  },
  'of a node in snake_case': { Node: 'n1', Address: '10.0.0.1', node_meta: { os: 'plan9' } },
  'of a check in snake_case': { Node: 'n1', Address: '10.0.0.1', Check: { Name: 'x', check_id: 'x' } },
  'of a critical service': {
    Node: 'n4',
    Address: '10.0.0.4',
    Service: { Service: 'cat', Port: 4, Tags: ['a'] },
    Check: { Name: 'ill', ServiceID: 'cat' },
  },
  'of a check without a service': {
    Node: 'n4',
    Address: '10.0.0.4',
    Check: { Name: 'c', ServiceID: 'nope' },
  },
  'of a check without a name': { Node: 'n4', Address: '10.0.0.4', Check: { Status: 'passing' } },
  'of a check of another node': { Node: 'n4', Address: '10.0.0.4', Check: { Node: 'n1', Name: 'x' } },
  'of a check of an odd status': {
    Node: 'n5',
    Address: '10.0.0.5',
    Service: { Service: 'odd', Port: 5 },
    Check: { Name: 'c', ServiceID: 'odd', Status: 'bogus' },
  },
}

const deregistrations: Record<string, unknown> = {
  'of nothing': '',
  'without a node': {},
  'with an unknown field': { Node: 'n1', Bogus: 1 },
  elsewhere: { Node: 'n1', Datacenter: 'nope' },
  'of an unknown node': { Node: 'nope' },
  'of an unknown service': { Node: 'n1', ServiceID: 'nope' },
  'of an unknown check': { Node: 'n1', CheckID: 'nope' },
  'of a check': { Node: 'n1', CheckID: 'late' },
  'of a service': { Node: 'n2', ServiceID: 'cat3' },
  'of a node': { Node: 'n4' },
}

export async function catalog(record: Recorder): Promise<void> {
  // The agent's own node is there before all of it is.
  await record.until('GET /v1/catalog/nodes', { has: ['lan_ipv4'] })
  await record('datacenters', 'GET /v1/catalog/datacenters')
  for (const [name, body] of Object.entries(registrations)) {
    await record(`catalog register ${name}`, 'PUT /v1/catalog/register', { body })
  }
  // The servers of 1.2 had this and no other.
  await record('catalog register with the fields of 1.2', 'PUT /v1/catalog/register', {
    body: {
      Node: 'n7',
      Address: '10.0.0.7',
      Service: { Service: 'x', Kind: 'connect-proxy', Port: 1, ProxyDestination: 'cat' },
    },
  })
  await record('catalog deregister with the fields of 1.2', 'PUT /v1/catalog/deregister', {
    body: { Node: 'n7' },
  })
  await reads(record, 'registered')
  await near(record)
  for (const [name, body] of Object.entries(deregistrations)) {
    await record(`catalog deregister ${name}`, 'PUT /v1/catalog/deregister', { body })
  }
  await reads(record, 'deregistered')
}

async function reads(record: Recorder, when: string): Promise<void> {
  for (const path of [
    'catalog/nodes',
    'catalog/node/n1',
    'catalog/node/n6',
    'catalog/node/nope',
    'catalog/node/',
    'catalog/services',
    'catalog/service/cat',
    'catalog/connect/cat',
    'health/service/cat',
    'health/service/cat?passing',
    'health/service/cat?tag=b&tag=A',
    'health/service/cat?dc=dc1&stale',
    'health/connect/cat',
    'health/checks/cat',
    'health/node/n1',
    'health/node/nope',
    'health/node/',
    'health/state/any',
    'health/state/critical',
    'health/state/bogus',
    'health/state/',
  ]) {
    await record(`${path}, ${when}`, `GET /v1/${path}`)
  }
}

/** Where n1 stands at 1, n4 at 2, and nobody knows of the others. */
async function near(record: Recorder): Promise<void> {
  const place = (x: number): unknown => ({
    Vec: [x, 0, 0, 0, 0, 0, 0, 0],
    Error: 0.1,
    Height: 0.1,
    Adjustment: 0,
  })
  const updates: Record<string, unknown> = {
    'of n1': { Node: 'n1', Coord: place(1) },
    'of n4': { Node: 'n4', Coord: place(2) },
    'of nobody': { Node: 'nope', Coord: place(2) },
    'of few dimensions': { Node: 'n2', Coord: { Vec: [1] } },
    'of nothing': '',
  }
  for (const [name, body] of Object.entries(updates)) {
    await record(`coordinate ${name}`, 'PUT /v1/coordinate/update', { body })
  }
  await record.until('GET /v1/coordinate/nodes', { has: ['"n1"', '"n4"'] })
  for (const node of ['n1', 'n2', 'nope', '']) {
    await record(`coordinate of ${node}, read`, `GET /v1/coordinate/node/${node}`)
  }
  for (const node of ['n1', 'n4', 'n2', 'nope']) {
    for (const path of ['catalog/service/cat', 'health/service/cat', 'health/checks/cat']) {
      await record(`${path} near ${node}`, `GET /v1/${path}?near=${node}`)
    }
    await record(`passing near ${node}`, `GET /v1/health/service/cat?passing&near=${node}`)
  }
}
