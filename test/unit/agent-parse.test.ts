import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import fc from 'fast-check'
import { type AuthorizeAnswer, askAuthorize, parseAuthorize } from '../../src/agent/endpoints/authorize.js'
import { path } from '../../src/agent/client.js'
import { parseChain } from '../../src/agent/endpoints/chain.js'
import { parseEntryVersions } from '../../src/agent/endpoints/config-entries.js'
import {
  type ConnectInstance,
  countInstances,
  fetchConnectInstances,
  parseConnectInstances,
} from '../../src/agent/endpoints/health.js'
import { fetchLeaf, parseLeaf } from '../../src/agent/endpoints/leaf.js'
import { parseGatewaysByDatacenter } from '../../src/agent/endpoints/mesh-gateways.js'
import {
  executeQuery,
  isSortedQuery,
  parseIsSorted,
  parseQueryAnswer,
} from '../../src/agent/endpoints/query.js'
import { parseManagedProxy, parseProxy } from '../../src/agent/endpoints/proxy.js'
import { fetchRoots, parseRoots } from '../../src/agent/endpoints/roots.js'
import { ShapeError } from '../../src/agent/json.js'
import { CONSUL_LEAF, CONSUL_ROOTS } from '../fixtures/consul-answers.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { type Json, NO_OBJECT, bend, refuses, refusesValues } from '../fixtures/malformed.js'

describe('parseRoots', () => {
  const [root] = CONSUL_ROOTS.Roots

  it('reads an answer of Consul', () => {
    assert.deepEqual(parseRoots(CONSUL_ROOTS), {
      trustDomain: CONSUL_ROOTS.TrustDomain,
      activeRootId: CONSUL_ROOTS.ActiveRootID,
      roots: [{ id: root!.ID, certificatePem: root!.RootCert, active: true }],
    })
  })

  it('reads a rotation, and ignores added and absent keys', () => {
    const body = {
      ...CONSUL_ROOTS,
      New: 1,
      Roots: [
        { ...root, Name: '' },
        { ...root, Active: false, Name: undefined, New: {} },
      ],
    }
    const { roots } = parseRoots(body)
    assert.deepEqual(
      roots.map(({ active }) => active),
      [true, false],
    )
  })

  it('reads an empty list and null as no roots', () => {
    assert.deepEqual(parseRoots(bend(CONSUL_ROOTS, 'Roots', [])).roots, [])
    assert.deepEqual(parseRoots(bend(CONSUL_ROOTS, 'Roots', null)).roots, [])
  })

  refuses(parseRoots, NO_OBJECT)
  refusesValues(parseRoots, CONSUL_ROOTS, [
    ['TrustDomain', undefined, 'expected a non-empty string, got nothing'],
    ['TrustDomain', '', 'expected a non-empty string, got a string'],
    ['TrustDomain', 5, 'expected a non-empty string, got a number'],
    ['ActiveRootID', null, 'expected a non-empty string, got null'],
    ['Roots', undefined, 'expected an array, got nothing'],
    ['Roots', { 0: root }, 'expected an array, got an object'],
    ['Roots[0]', root!.RootCert, 'expected an object, got a string'],
    ['Roots[0].ID', '', 'expected a non-empty string, got a string'],
    ['Roots[0].RootCert', undefined, 'expected a non-empty string, got nothing'],
    ['Roots[0].Active', 'true', 'expected true or false, got a string'],
    ['Roots[1]', null, 'expected an object, got null'],
  ])
})

describe('parseLeaf', () => {
  it('reads an answer of Consul, and one with only the two required keys', () => {
    const leaf = { chainPem: CONSUL_LEAF.CertPEM, privateKeyPem: CONSUL_LEAF.PrivateKeyPEM }
    assert.deepEqual(parseLeaf(CONSUL_LEAF), leaf)
    const { CertPEM, PrivateKeyPEM } = CONSUL_LEAF
    assert.deepEqual(parseLeaf({ CertPEM, PrivateKeyPEM }), leaf)
  })

  refuses(parseLeaf, NO_OBJECT)
  refusesValues(parseLeaf, CONSUL_LEAF, [
    ['CertPEM', undefined, 'expected a non-empty string, got nothing'],
    ['CertPEM', ['x'], 'expected a non-empty string, got an array'],
    ['PrivateKeyPEM', '', 'expected a non-empty string, got a string'],
    // The message names the type only: the value may be a key.
    ['PrivateKeyPEM', { secret: 'x' }, 'expected a non-empty string, got an object'],
  ])
})

describe('parseAuthorize', () => {
  const cases: [body: Json, answer: Omit<AuthorizeAnswer, 'ageMs'>][] = [
    // Consul 1.8.7
    [
      { Authorized: true, Reason: 'ACLs disabled, access is allowed by default' },
      { authorized: true, reason: 'ACLs disabled, access is allowed by default' },
    ],
    [
      { Authorized: false, Reason: 'Matched L4 intention' },
      { authorized: false, reason: 'Matched L4 intention' },
    ],
    [
      { Authorized: false, Reason: '', New: 1 },
      { authorized: false, reason: '' },
    ],
  ]
  for (const [body, answer] of cases) {
    it(`reads ${JSON.stringify(body)}`, () => {
      assert.deepEqual(parseAuthorize(body), answer)
    })
  }

  // Only the boolean true grants access.
  refuses(parseAuthorize, [
    ...NO_OBJECT,
    ['Authorized: expected true or false, got nothing', { Reason: 'x' }],
    ['Authorized: expected true or false, got a string', { Authorized: 'true', Reason: 'x' }],
    ['Authorized: expected true or false, got a number', { Authorized: 1, Reason: 'x' }],
    ['Authorized: expected true or false, got null', { Authorized: null, Reason: 'x' }],
    ['Reason: expected a string, got nothing', { Authorized: true }],
    ['Reason: expected a string, got an array', { Authorized: true, Reason: [] }],
  ])
})

describe('parseConnectInstances', () => {
  const node = { Node: 'n', Address: '10.0.0.1', Datacenter: 'dc1', TaggedAddresses: { lan: '10.0.0.1' } }
  const proxyService = {
    Kind: 'connect-proxy',
    ID: 'web-proxy',
    Service: 'web-proxy',
    Address: '10.0.0.2',
    Port: 21000,
    Connect: {},
    Proxy: { DestinationServiceName: 'web', DestinationServiceID: 'web-1' },
  }
  const nativeService = { ID: 'web-1', Service: 'web', Address: '', Port: 8080, Connect: { Native: true } }
  const proxy = { Node: node, Service: proxyService, Checks: [] }
  const native = { Node: node, Service: nativeService, Checks: null }
  const nowhere = { namespace: undefined, partition: undefined }
  const proxyInstance: ConnectInstance = {
    id: 'web-proxy',
    address: '10.0.0.2',
    port: 21000,
    wan: { address: '10.0.0.2', port: 21000 },
    defect: undefined,
    tags: [],
    mux: false,
    service: 'web',
    ...nowhere,
    datacenter: 'dc1',
    status: 'passing',
    weights: { passing: 1, warning: 1 },
  }
  const nativeInstance: ConnectInstance = {
    ...proxyInstance,
    id: 'web-1',
    address: '10.0.0.1',
    port: 8080,
    wan: { address: '10.0.0.1', port: 8080 },
  }

  const asProxy: [rule: string, entry: unknown][] = [
    ['a proxy: the service it represents, at the address of the proxy', proxy],
    ['Connect.Native false as a proxy', bend(proxy, 'Service.Connect', { Native: false })],
    ['a missing Connect as a proxy', bend(proxy, 'Service.Connect', undefined)],
    ['a Connect of null as a proxy', bend(proxy, 'Service.Connect', null)],
    [
      'a proxy of Consul 1.2',
      {
        Node: node,
        Service: { ...proxyService, Proxy: undefined, Connect: undefined, ProxyDestination: 'web' },
      },
    ],
    ['the newer of two spellings of the destination', bend(proxy, 'Service.ProxyDestination', 'old')],
    [
      'a proxy of Consul 1.3 with the newer spelling empty',
      {
        ...proxy,
        Service: { ...proxyService, Proxy: { DestinationServiceName: '' }, ProxyDestination: 'web' },
      },
    ],
    [
      'an empty namespace and partition as none',
      { ...proxy, Service: { ...proxyService, Namespace: '', Partition: null } },
    ],
    ['missing checks as passing', bend(proxy, 'Checks', undefined)],
  ]
  const good: [rule: string, body: unknown, instances: ConnectInstance[]][] = [
    ['an empty list', [], []],
    ['null, which Go writes for an empty list', null, []],
    ['a native instance: its own name, at the address of its node', [native], [nativeInstance]],
    ['native instances and proxies, in order', [native, proxy], [nativeInstance, proxyInstance]],
    [
      'a native instance with a destination as an instance of its own service',
      [bend(native, 'Service.Proxy', { DestinationServiceName: 'db' })],
      [nativeInstance],
    ],
    [
      'a namespace and a partition',
      [{ ...proxy, Service: { ...proxyService, Namespace: 'n', Partition: 'p' } }],
      [{ ...proxyInstance, namespace: 'n', partition: 'p' }],
    ],
    [
      'a missing datacenter',
      [bend(proxy, 'Node.Datacenter', undefined)],
      [{ ...proxyInstance, datacenter: undefined }],
    ],
    [
      'an IPv6 address',
      [bend(proxy, 'Service.Address', '::1')],
      [{ ...proxyInstance, address: '::1', wan: { address: '::1', port: 21000 } }],
    ],
    [
      'all instances except proxies without a destination',
      [
        bend(proxy, 'Service.Proxy', { DestinationServiceName: '' }),
        native,
        bend(proxy, 'Service.Proxy', undefined),
        bend(proxy, 'Service.Proxy', {}),
        bend(proxy, 'Service.Proxy', null),
      ],
      [nativeInstance],
    ],
    [
      'a gateway without address and port as no instance',
      [{ Node: {}, Service: { Kind: 'mesh-gateway', Proxy: {} } }],
      [],
    ],
    [
      'a terminating gateway as an instance of whichever service the server name selects',
      [{ ...proxy, Service: { ...proxyService, Kind: 'terminating-gateway', Service: 'gw', Proxy: {} } }],
      [{ ...proxyInstance, service: undefined }],
    ],
    [
      'an instance that cannot be dialed, with its defect, beside a valid instance',
      [bend(proxy, 'Service.Port', 0), native],
      [
        { ...proxyInstance, port: 0, wan: { address: '10.0.0.2', port: 0 }, defect: 'has no port' },
        nativeInstance,
      ],
    ],
    ...asProxy.map(([rule, entry]): [string, unknown, ConnectInstance[]] => [rule, [entry], [proxyInstance]]),
  ]
  for (const [rule, body, instances] of good) {
    it(`reads ${rule}`, () => {
      assert.deepEqual(parseConnectInstances(JSON.parse(JSON.stringify(body))), instances)
    })
  }

  const states: [checks: unknown[], status: ConnectInstance['status']][] = [
    [[], 'passing'],
    [['passing'], 'passing'],
    [['passing', 'passing'], 'passing'],
    [['warning'], 'warning'],
    [['passing', 'warning', 'passing'], 'warning'],
    [['critical'], 'critical'],
    [['warning', 'critical'], 'critical'],
    [['critical', 'warning'], 'critical'],
    [['passing', 'critical', 'passing'], 'critical'],
    [['maintenance'], 'critical'],
    // An unknown status counts as critical.
    [['passing', 'unknown'], 'critical'],
    [['warning', ''], 'critical'],
    [['Passing'], 'critical'],
  ]
  for (const [checks, status] of states) {
    it(`reads checks ${checks.join(', ') || '(none)'} as ${status}`, () => {
      const body = [{ ...proxy, Checks: checks.map((Status) => ({ CheckID: 'c', Status })) }]
      assert.equal(parseConnectInstances(body)[0]?.status, status)
    })
  }

  const weights: [input: unknown, weights: ConnectInstance['weights']][] = [
    [undefined, { passing: 1, warning: 1 }],
    [null, { passing: 1, warning: 1 }],
    [{}, { passing: 1, warning: 1 }],
    [
      { Passing: 10, Warning: 3 },
      { passing: 10, warning: 3 },
    ],
    [
      { Passing: 0, Warning: 0 },
      { passing: 0, warning: 0 },
    ],
    // A negative weight counts as 0.
    [
      { Passing: -1, Warning: 3 },
      { passing: 0, warning: 3 },
    ],
    [
      { Passing: 3, Warning: -100 },
      { passing: 3, warning: 0 },
    ],
    [{ Passing: 7 }, { passing: 7, warning: 1 }],
    [
      { Warning: 7, Passing: null },
      { passing: 1, warning: 7 },
    ],
  ]
  for (const [input, expected] of weights) {
    it(`reads the weights ${inspect(input)}`, () => {
      const body = [bend(proxy, 'Service.Weights', input)]
      assert.deepEqual(parseConnectInstances(body)[0]?.weights, expected)
    })
  }

  /** Returns a native instance with its own address, its WAN address, and the WAN address of its node. */
  const addressed = (own: unknown, wan: unknown, nodeWan: unknown): unknown => [
    {
      Node: { ...node, TaggedAddresses: nodeWan === undefined ? undefined : { wan: nodeWan } },
      Service: {
        ...nativeService,
        Address: own,
        TaggedAddresses: wan === undefined ? undefined : { lan: { Address: 'lan', Port: 1 }, wan },
      },
      Checks: [],
    },
  ]
  const reached: [rule: string, body: unknown, wan: ConnectInstance['wan']][] = [
    [
      'the WAN address of the instance',
      addressed('own', { Address: 'w', Port: 443 }, 'nw'),
      { address: 'w', port: 443 },
    ],
    [
      'the WAN address of the instance, with its port when the WAN port is missing',
      addressed('own', { Address: 'w' }, 'nw'),
      { address: 'w', port: 8080 },
    ],
    [
      'the WAN address of the instance, with its port when the WAN port is 0',
      addressed('own', { Address: 'w', Port: 0 }, 'nw'),
      { address: 'w', port: 8080 },
    ],
    [
      'the address of the instance when it has no WAN address',
      addressed('own', undefined, 'nw'),
      { address: 'own', port: 8080 },
    ],
    [
      'the WAN address of the node when the instance has no address',
      addressed('', undefined, 'nw'),
      { address: 'nw', port: 8080 },
    ],
    [
      'the address of the node when there is no other',
      addressed('', undefined, undefined),
      { address: '10.0.0.1', port: 8080 },
    ],
    [
      'the address of the node when the WAN address of the node is empty',
      addressed('', undefined, ''),
      { address: '10.0.0.1', port: 8080 },
    ],
    [
      'the WAN address of the instance before that of the node',
      addressed('', { Address: 'w', Port: 1 }, 'nw'),
      { address: 'w', port: 1 },
    ],
    [
      'the address of the instance when both WAN addresses are null',
      addressed('own', null, null),
      { address: 'own', port: 8080 },
    ],
  ]
  for (const [rule, body, wan] of reached) {
    it(`takes as the WAN address ${rule}`, () => {
      assert.deepEqual(parseConnectInstances(body)[0]?.wan, wan)
    })
  }

  const wanAt = (wan: unknown): unknown => bend(native, 'Service.TaggedAddresses', { wan })
  const defects: [rule: string, entry: unknown, defect: string | undefined][] = [
    ['the lowest port', bend(proxy, 'Service.Port', 1), undefined],
    ['the highest port', bend(proxy, 'Service.Port', 65535), undefined],
    ['a port of 0', bend(proxy, 'Service.Port', 0), 'has no port'],
    [
      'a path instead of a port',
      bend(bend(proxy, 'Service.Port', 0), 'Service.SocketPath', '/run/web.sock'),
      'listens on a Unix socket',
    ],
    ['a port below 0', bend(proxy, 'Service.Port', -1), 'has the port -1'],
    ['a port that is too high', bend(proxy, 'Service.Port', 65536), 'has the port 65536'],
    ['a host name', bend(proxy, 'Service.Address', 'db_1.example-x.com'), undefined],
    ['an IPv6 address with a zone', bend(proxy, 'Service.Address', 'fe80::1%eth0'), undefined],
    ['255 characters', bend(proxy, 'Service.Address', 'a'.repeat(255)), undefined],
    ['a space in the address', bend(proxy, 'Service.Address', 'a b'), 'has the address "a b"'],
    [
      'a URL as the address',
      bend(proxy, 'Service.Address', 'http://10.0.0.2:80'),
      'has the address "http://10.0.0.2:80"',
    ],
    ['a newline in the address', bend(proxy, 'Service.Address', 'a\nb'), String.raw`has the address "a\nb"`],
    [
      'an address of 256 characters, cut in the message',
      bend(proxy, 'Service.Address', 'a'.repeat(256)),
      `has the address "${'a'.repeat(64)}"`,
    ],
    ['a slash in the address of the node', bend(native, 'Node.Address', 'a/b'), 'has the address "a/b"'],
    [
      'an invalid port before an invalid address',
      bend(native, 'Service', { ...nativeService, Address: '*', Port: 0 }),
      'has no port',
    ],
  ]
  for (const [rule, item] of [
    ['a port of 65536', wanAt({ Address: 'w', Port: 65536 })],
    ['a port below 0', wanAt({ Address: 'w', Port: -5 })],
    ['a space in it', wanAt({ Address: 'w w', Port: 1 })],
    ['a space in that of the node', bend(native, 'Node.TaggedAddresses', { wan: 'w w' })],
  ] as const) {
    it(`ignores a WAN address with ${rule}`, () => {
      const [found] = parseConnectInstances([item])
      assert.equal(found?.defect, undefined)
      assert.deepEqual(found?.wan, { address: found?.address, port: found?.port })
    })
  }
  for (const [rule, item, defect] of defects) {
    it(`${defect === undefined ? 'accepts' : 'reports as a defect'} ${rule}`, () => {
      const found = parseConnectInstances([item, native])
      assert.deepEqual(
        found.map((instance) => instance.defect),
        [defect, undefined],
      )
    })
  }

  refuses(parseConnectInstances, [
    ['the body: expected an array, got nothing', undefined],
    ['the body: expected an array, got an object', {}],
    ['the body: expected an array, got a string', 'x'],
    ['[0]: expected an object, got null', [null]],
    ['[1]: expected an object, got a number', [proxy, 5]],
    [
      '[0].Node.Address: expected a non-empty string, got a string',
      [bend(bend(proxy, 'Service.Address', ''), 'Node.Address', '')],
    ],
    [
      '[0].Service.Service: expected a non-empty string, got nothing',
      [bend(native, 'Service.Service', undefined)],
    ],
    [
      '[0].Service.TaggedAddresses.wan.Port: expected a whole number, got a number',
      [bend(proxy, 'Service.TaggedAddresses.wan', { Address: 'a', Port: 0.5 })],
    ],
  ])
  const body = [proxy]
  refusesValues(parseConnectInstances, body, [
    ['[0].Node', undefined, 'expected an object, got nothing'],
    ['[0].Service', null, 'expected an object, got null'],
    ['[0].Service.ID', '', 'expected a non-empty string, got a string'],
    ['[0].Service.Address', 5, 'expected a string, got a number'],
    ['[0].Service.Port', undefined, 'expected a whole number, got nothing'],
    ['[0].Service.Port', '80', 'expected a whole number, got a string'],
    ['[0].Service.Port', 80.5, 'expected a whole number, got a number'],
    ['[0].Service.Connect', [], 'expected an object, got an array'],
    ['[0].Service.Connect.Native', 'yes', 'expected true or false, got a string'],
    ['[0].Service.Proxy', 'web', 'expected an object, got a string'],
    ['[0].Service.Proxy.DestinationServiceName', 5, 'expected a non-empty string, got a number'],
    ['[0].Service.Namespace', [], 'expected a non-empty string, got an array'],
    ['[0].Service.Partition', 5, 'expected a non-empty string, got a number'],
    ['[0].Service.Weights', 5, 'expected an object, got a number'],
    ['[0].Service.Weights.Passing', '5', 'expected a whole number, got a string'],
    ['[0].Service.Weights.Passing', -0.5, 'expected a whole number, got a number'],
    ['[0].Service.Weights.Warning', 0.5, 'expected a whole number, got a number'],
    ['[0].Service.TaggedAddresses', 'x', 'expected an object, got a string'],
    ['[0].Service.TaggedAddresses.wan', '1.2.3.4', 'expected an object, got a string'],
    ['[0].Service.TaggedAddresses.wan.Address', undefined, 'expected a string, got nothing'],
    ['[0].Node.Datacenter', true, 'expected a non-empty string, got a boolean'],
    ['[0].Node.TaggedAddresses', [], 'expected an object, got an array'],
    ['[0].Node.TaggedAddresses.wan', { Address: 'a' }, 'expected a string, got an object'],
    ['[0].Checks', 'passing', 'expected an array, got a string'],
    ['[0].Checks', {}, 'expected an array, got an object'],
    ['[0].Checks[0]', 'passing', 'expected an object, got a string'],
    ['[0].Checks[0].Status', undefined, 'expected a string, got nothing'],
    ['[0].Checks[0].Status', null, 'expected a string, got null'],
  ])
})

describe('parseQueryAnswer', () => {
  const entry = {
    Node: { Node: 'n', Address: '10.0.0.1' },
    Service: { ID: 'web-1', Service: 'web', Port: 8080, Connect: { Native: true } },
    Checks: [],
  }
  // Consul 1.8.7
  const answer = { Service: 'web', Nodes: [entry], DNS: { TTL: '10s' }, Datacenter: 'dc1', Failovers: 0 }

  it('reads the service, the datacenter, the instances, and the TTL', () => {
    const { instances, ...rest } = parseQueryAnswer(answer)
    assert.deepEqual(rest, {
      service: 'web',
      namespace: undefined,
      datacenter: 'dc1',
      nodes: ['n'],
      ttlMs: 10_000,
    })
    assert.deepEqual(
      instances.map(({ id, address, service }) => [id, address, service]),
      [['web-1', '10.0.0.1', 'web']],
    )
  })

  const optional: [rule: string, changes: Json, expected: Json][] = [
    ['a namespace', { Namespace: 'n' }, { namespace: 'n' }],
    ['an empty namespace', { Namespace: '' }, { namespace: undefined }],
    ['a missing datacenter', { Datacenter: undefined }, { datacenter: undefined }],
    ['an empty list of nodes', { Nodes: [] }, { instances: [] }],
    ['null for the nodes', { Nodes: null }, { instances: [] }],
    ['missing nodes', { Nodes: undefined }, { instances: [] }],
    ['a missing DNS object', { DNS: undefined }, { ttlMs: undefined }],
    ['a DNS of null', { DNS: null }, { ttlMs: undefined }],
    ['a DNS object without a TTL', { DNS: {} }, { ttlMs: undefined }],
    ['an empty TTL', { DNS: { TTL: '' } }, { ttlMs: undefined }],
    ['an invalid TTL', { DNS: { TTL: 'soon' } }, { ttlMs: undefined }],
    ['a TTL of 0', { DNS: { TTL: '0s' } }, { ttlMs: 0 }],
  ]
  for (const [rule, changes, expected] of optional) {
    it(`reads ${rule}`, () => {
      const found = parseQueryAnswer(JSON.parse(JSON.stringify({ ...answer, ...changes })))
      assert.deepEqual({ ...found, ...expected }, found)
    })
  }

  refuses(parseQueryAnswer, [
    ...NO_OBJECT,
    ['the body: expected an array, got an object', bend(answer, 'Nodes', {})],
    ['[0].Node: expected an object, got nothing', bend(answer, 'Nodes[0].Node', undefined)],
  ])
  refusesValues(parseQueryAnswer, answer, [
    ['Service', undefined, 'expected a non-empty string, got nothing'],
    ['Service', '', 'expected a non-empty string, got a string'],
    ['Namespace', 5, 'expected a non-empty string, got a number'],
    ['Datacenter', [], 'expected a non-empty string, got an array'],
    ['DNS', '10s', 'expected an object, got a string'],
    ['DNS.TTL', 10, 'expected a string, got a number'],
  ])
})

describe('parseIsSorted', () => {
  const explained = { Query: { ID: 'i', Name: 'nearest', Service: { Service: 'web', Near: '_agent' } } }
  for (const [near, isSorted] of [
    ['_agent', true],
    ['n1', true],
    ['', false],
    [null, false],
    [undefined, false],
  ] as const) {
    it(`is ${isSorted} for near ${String(near)}`, () => {
      assert.equal(parseIsSorted(bend(explained, 'Query.Service.Near', near)), isSorted)
    })
  }

  refuses(parseIsSorted, [
    ...NO_OBJECT,
    ['Query: expected an object, got nothing', {}],
    ['Query.Service: expected an object, got nothing', { Query: {} }],
  ])
  refusesValues(parseIsSorted, explained, [['Query.Service.Near', true, 'expected a string, got a boolean']])
})

describe('the parsers return a value or throw a ShapeError for any JSON', () => {
  const keys =
    'TrustDomain ActiveRootID Roots CertPEM Authorized Reason Node Nodes Checks Service Weights TaggedAddresses ' +
    'Query DNS TTL Proxy ProxyDestination Config Upstreams Chain ServiceName StartNode Targets Type Resolver Name __proto__'
  const { json } = fc.letrec<{ json: unknown }>((tie) => ({
    json: fc.oneof(
      { maxDepth: 4 },
      fc.jsonValue({ maxDepth: 1 }),
      fc.array(tie('json'), { maxLength: 3 }),
      fc.dictionary(fc.constantFrom(...keys.split(' ')), tie('json')),
    ),
  }))
  const parsers = [
    parseRoots,
    parseLeaf,
    parseAuthorize,
    parseConnectInstances,
    parseQueryAnswer,
    parseIsSorted,
    parseProxy,
    parseManagedProxy,
    parseChain,
    parseEntryVersions,
    parseGatewaysByDatacenter,
  ]
  for (const parse of parsers) {
    it(`holds for ${parse.name}`, () => {
      fc.assert(
        fc.property(json, (body) => {
          try {
            parse(body)
          } catch (error) {
            assert.ok(error instanceof ShapeError, `threw ${String(error)}`)
          }
        }),
        { seed: 20260101, numRuns: 1000 },
      )
    })
  }
})

describe('requests', () => {
  const query = { index: 5, waitMs: 1000, timeoutMs: 7 }

  it('fetchRoots and fetchLeaf send the parameters of a blocking query', () => {
    const agent = new FakeAgent()
    void fetchRoots(agent, query)
    void fetchLeaf(agent, 'my/service', query)
    const blocking = { query: { index: 5, hash: undefined, wait: '1000ms' }, signal: undefined, timeoutMs: 7 }
    assert.deepEqual(
      agent.requests.map(({ request }) => request),
      [
        { path: '/v1/agent/connect/ca/roots', ...blocking },
        {
          path: '/v1/agent/connect/ca/leaf/my%2Fservice',
          needs: 'service:write on "my/service"',
          ...blocking,
        },
      ],
    )
  })

  it('fetchConnectInstances allows stale answers, and takes the datacenter from the upstream before the settings', () => {
    const agent = new FakeAgent({ datacenter: 'own', namespace: 'n' })
    const { signal } = new AbortController()
    void fetchConnectInstances(agent, { service: 'my/web' }, { signal, timeoutMs: 7 })
    const selection = { partition: 'p', near: '_agent', filter: 'x == "y"' }
    void fetchConnectInstances(agent, { service: 'web', datacenter: 'other', ...selection }, query)
    const none = { near: undefined, filter: undefined }
    const start = { stale: true, index: undefined, hash: undefined, wait: undefined }
    assert.deepEqual(
      agent.requests.map(({ request }) => request),
      [
        {
          path: '/v1/health/connect/my%2Fweb',
          needs: 'service:read on "my/web" and node:read',
          query: { ...start, dc: 'own', ns: 'n', partition: undefined, ...none },
          signal,
          timeoutMs: 7,
        },
        {
          path: '/v1/health/connect/web',
          needs: 'service:read on "web" and node:read',
          query: { ...start, index: 5, wait: '1000ms', dc: 'other', ns: 'n', ...selection },
          signal: undefined,
          timeoutMs: 7,
        },
      ],
    )
  })

  it('countInstances counts all instances, with and without Connect', async () => {
    const agent = new FakeAgent({ datacenter: 'own', partition: 'p' })
    const { signal } = new AbortController()
    const counted = countInstances(agent, 'my web', { namespace: 'n' }, signal)
    const [{ request, answer }] = agent.requests as [(typeof agent.requests)[0]]
    assert.deepEqual(request, {
      path: '/v1/health/service/my%20web',
      query: { stale: true, dc: 'own', ns: 'n', partition: 'p' },
      signal,
    })
    answer({ body: [{}, 'whatever', null] })
    assert.equal(await counted, 3)
    for (const body of [[], null]) {
      const count = countInstances(agent, 'web', {}, signal)
      agent.requests.at(-1)!.answer({ body })
      assert.equal(await count, 0)
    }
    const rejected = assert.rejects(countInstances(agent, 'web', {}, signal), ShapeError)
    agent.requests.at(-1)!.answer({ body: {} })
    await rejected
  })

  it('executeQuery asks for Connect instances, and isSortedQuery explains the query', async () => {
    const agent = new FakeAgent({ datacenter: 'own' })
    const { signal } = new AbortController()
    const target = { query: 'a b', near: '_agent', namespace: 'n' }
    void executeQuery(agent, target, { signal })
    const sorted = isSortedQuery(agent, target, { signal, timeoutMs: 500 })
    const where = { dc: 'own', ns: 'n', partition: undefined }
    assert.deepEqual(
      agent.requests.map(({ request }) => request),
      [
        {
          path: '/v1/query/a%20b/execute',
          query: { connect: true, stale: true, near: '_agent', ...where },
          signal,
        },
        { path: '/v1/query/a%20b/explain', query: { stale: true, ...where }, signal, timeoutMs: 500 },
      ],
    )
    agent.requests[1]!.answer({ body: { Query: { Service: { Near: 'n1' } } } })
    assert.equal(await sorted, true)
  })

  it('askAuthorize sends target, identity, serial number, and the configured namespace', async () => {
    const ask = { target: 'db', clientCertUri: 'spiffe://x', clientCertSerial: '0a:0b' }
    const body = { Target: 'db', ClientCertURI: 'spiffe://x', ClientCertSerial: '0a:0b' }
    for (const [agent, expected] of [
      [new FakeAgent(), body],
      [new FakeAgent({ namespace: 'n' }), { ...body, Namespace: 'n' }],
    ] as const) {
      const { signal } = new AbortController()
      const answer = askAuthorize(agent, ask, { signal })
      const [{ request, answer: respond }] = agent.requests as [(typeof agent.requests)[0]]
      assert.deepEqual(request, {
        method: 'POST',
        path: '/v1/agent/connect/authorize',
        needs: 'service:write on "db"',
        body: expected,
        signal,
      })
      respond({ body: { Authorized: true, Reason: 'x' } })
      assert.deepEqual(await answer, { authorized: true, reason: 'x', ageMs: 0 })
    }
  })

  it('path encodes each value as one segment', () => {
    assert.equal(path`/v1/a/${'x/y'}/b/${'ü?#%'}`, '/v1/a/x%2Fy/b/%C3%BC%3F%23%25')
    assert.equal(path`/v1/plain`, '/v1/plain')
  })
})

/** A proxy as returned by Consul 1.8.7. */
const PROXY = {
  Kind: 'connect-proxy',
  ID: 'web-1-proxy',
  Service: 'web-proxy',
  Tags: [],
  Meta: null,
  Port: 8443,
  Address: '',
  Weights: { Passing: 1, Warning: 1 },
  EnableTagOverride: false,
  ContentHash: 'af2c8b1d0a1f3c4e',
  Proxy: {
    DestinationServiceName: 'web',
    DestinationServiceID: 'web-1',
    LocalServiceAddress: '127.0.0.1',
    LocalServicePort: 8080,
    Mode: '',
    Config: { bind_port: 1 },
    Upstreams: [{ DestinationName: 'db' }],
    MeshGateway: {},
    Expose: {},
  },
}

const MANAGED = {
  ProxyServiceID: 'web-1-proxy',
  TargetServiceID: 'web-1',
  TargetServiceName: 'web',
  ContentHash: 'e662ea2f64a5c0b5',
  ExecMode: 'daemon',
  Command: null,
  Config: { bind_port: 1 },
  Upstreams: null,
}

describe('parseProxy', () => {
  it('reads a registered proxy', () => {
    assert.deepEqual(parseProxy(PROXY), {
      id: 'web-1-proxy',
      kind: 'connect-proxy',
      service: 'web',
      serviceId: 'web-1',
      namespace: undefined,
      partition: undefined,
      address: undefined,
      port: 8443,
      localAddress: '127.0.0.1',
      localPort: 8080,
      localSocketPath: undefined,
      mode: undefined,
      config: { bind_port: 1 },
      upstreams: [{ DestinationName: 'db' }],
    })
  })

  it('reads the destination key of Consul before 1.4, and a service that is not a proxy', () => {
    const { Proxy, ...rest } = PROXY
    assert.ok(Proxy)
    assert.equal(parseProxy({ ...rest, ProxyDestination: 'web' }).service, 'web')
    const { kind, service, config, upstreams } = parseProxy({ ID: 'web', Service: 'web' })
    assert.deepEqual([kind, service, config, upstreams], ['', undefined, {}, []])
  })

  refuses(parseProxy, NO_OBJECT)
  refusesValues(parseProxy, PROXY, [
    ['ID', undefined, 'expected a non-empty string, got nothing'],
    ['Kind', 7, 'expected a string, got a number'],
    ['Port', '8443', 'expected a whole number, got a string'],
    ['Proxy', [], 'expected an object, got an array'],
    ['Proxy.Config', 'x', 'expected an object, got a string'],
    ['Proxy.Upstreams', {}, 'expected an array, got an object'],
    ['Proxy.LocalServicePort', 1.5, 'expected a whole number, got a number'],
    ['Proxy.LocalServiceAddress', {}, 'expected a string, got an object'],
  ])
})

describe('parseManagedProxy', () => {
  it('reads an answer of Consul before 1.6', () => {
    const { id, kind, service, serviceId, config, upstreams } = parseManagedProxy(MANAGED)
    assert.deepEqual(
      [id, kind, service, serviceId, config, upstreams],
      ['web-1-proxy', 'connect-proxy', 'web', 'web-1', { bind_port: 1 }, []],
    )
  })

  refuses(parseManagedProxy, NO_OBJECT)
  refusesValues(parseManagedProxy, MANAGED, [
    ['ProxyServiceID', undefined, 'expected a non-empty string, got nothing'],
    ['TargetServiceName', null, 'expected a non-empty string, got null'],
    ['Config', [], 'expected an object, got an array'],
    ['Upstreams', 'x', 'expected an array, got a string'],
  ])
})
