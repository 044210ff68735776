import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import fc from 'fast-check'
import { type AuthorizeAnswer, askAuthorize, parseAuthorize } from '../../src/agent/endpoints/authorize.js'
import { path } from '../../src/agent/client.js'
import {
  type ConnectInstance,
  countInstances,
  fetchConnectInstances,
  parseConnectInstances,
} from '../../src/agent/endpoints/health.js'
import { fetchLeaf, parseLeaf } from '../../src/agent/endpoints/leaf.js'
import {
  executeQuery,
  isSortedQuery,
  parseDuration,
  parseIsSorted,
  parseQueryAnswer,
} from '../../src/agent/endpoints/query.js'
import { parseManagedProxy, parseProxy } from '../../src/agent/endpoints/proxy.js'
import { fetchRoots, parseRoots } from '../../src/agent/endpoints/roots.js'
import { ShapeError } from '../../src/agent/json.js'
import { CONSUL_LEAF, CONSUL_ROOTS } from '../fixtures/consul-answers.js'
import { FakeAgent } from '../fixtures/fake-agent.js'

type Json = Record<string, unknown>

/** Each body must be refused with a ShapeError that says `message`. */
function refuses(parse: (body: unknown) => unknown, cases: [message: string, body: unknown][]): void {
  for (const [message, body] of cases) {
    it(message, () => {
      assert.throws(() => parse(body), { name: 'ShapeError', message })
    })
  }
}

/** `body` with the value at `place` replaced; undefined takes it away. */
function bend(body: unknown, place: readonly (string | number)[], value: unknown): unknown {
  const copy: unknown = structuredClone(body)
  let at = copy as Json
  for (const key of place.slice(0, -1)) at = at[key] as Json
  at[place.at(-1)!] = value
  return JSON.parse(JSON.stringify(copy))
}

const NO_OBJECT: [message: string, body: unknown][] = [
  ['the body: expected an object, got nothing', undefined],
  ['the body: expected an object, got null', null],
  ['the body: expected an object, got an array', []],
  ['the body: expected an object, got a string', 'x'],
  ['the body: expected an object, got a number', 5],
  ['the body: expected an object, got a boolean', true],
]

describe('parseRoots', () => {
  const [root] = CONSUL_ROOTS.Roots

  it("reads Consul's own answer", () => {
    assert.deepEqual(parseRoots(CONSUL_ROOTS), {
      trustDomain: CONSUL_ROOTS.TrustDomain,
      activeRootId: CONSUL_ROOTS.ActiveRootID,
      roots: [{ id: root!.ID, certificatePem: root!.RootCert, active: true }],
    })
  })

  it('reads a rotation, and what other versions add or leave out', () => {
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

  it('an empty list, and null for it, are for checkRoots to judge', () => {
    assert.deepEqual(parseRoots(bend(CONSUL_ROOTS, ['Roots'], [])).roots, [])
    assert.deepEqual(parseRoots(bend(CONSUL_ROOTS, ['Roots'], null)).roots, [])
  })

  refuses(parseRoots, [
    ...NO_OBJECT,
    ['TrustDomain: expected a non-empty string, got nothing', bend(CONSUL_ROOTS, ['TrustDomain'], undefined)],
    ['TrustDomain: expected a non-empty string, got a string', bend(CONSUL_ROOTS, ['TrustDomain'], '')],
    ['TrustDomain: expected a non-empty string, got a number', bend(CONSUL_ROOTS, ['TrustDomain'], 5)],
    ['ActiveRootID: expected a non-empty string, got null', bend(CONSUL_ROOTS, ['ActiveRootID'], null)],
    ['Roots: expected an array, got nothing', bend(CONSUL_ROOTS, ['Roots'], undefined)],
    ['Roots: expected an array, got an object', bend(CONSUL_ROOTS, ['Roots'], { 0: root })],
    ['Roots[0]: expected an object, got a string', bend(CONSUL_ROOTS, ['Roots', 0], root!.RootCert)],
    ['Roots[0].ID: expected a non-empty string, got a string', bend(CONSUL_ROOTS, ['Roots', 0, 'ID'], '')],
    [
      'Roots[0].RootCert: expected a non-empty string, got nothing',
      bend(CONSUL_ROOTS, ['Roots', 0, 'RootCert'], undefined),
    ],
    [
      'Roots[0].Active: expected true or false, got a string',
      bend(CONSUL_ROOTS, ['Roots', 0, 'Active'], 'true'),
    ],
    ['Roots[1]: expected an object, got null', bend(CONSUL_ROOTS, ['Roots', 1], null)],
  ])
})

describe('parseLeaf', () => {
  it("reads Consul's own answer, and one with nothing else in it", () => {
    const leaf = { chainPem: CONSUL_LEAF.CertPEM, privateKeyPem: CONSUL_LEAF.PrivateKeyPEM }
    assert.deepEqual(parseLeaf(CONSUL_LEAF), leaf)
    assert.deepEqual(
      parseLeaf({ CertPEM: CONSUL_LEAF.CertPEM, PrivateKeyPEM: CONSUL_LEAF.PrivateKeyPEM }),
      leaf,
    )
  })

  refuses(parseLeaf, [
    ...NO_OBJECT,
    ['CertPEM: expected a non-empty string, got nothing', bend(CONSUL_LEAF, ['CertPEM'], undefined)],
    ['CertPEM: expected a non-empty string, got an array', bend(CONSUL_LEAF, ['CertPEM'], ['x'])],
    ['PrivateKeyPEM: expected a non-empty string, got a string', bend(CONSUL_LEAF, ['PrivateKeyPEM'], '')],
    // The value may be a key: its type is all that is said of it.
    [
      'PrivateKeyPEM: expected a non-empty string, got an object',
      bend(CONSUL_LEAF, ['PrivateKeyPEM'], { secret: 'x' }),
    ],
  ])
})

describe('parseAuthorize', () => {
  const cases: [body: Json, answer: Omit<AuthorizeAnswer, 'ageMs'>][] = [
    // 1.8.7
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
    it(JSON.stringify(body), () => {
      assert.deepEqual(parseAuthorize(body), answer)
    })
  }

  // Nothing but true is a yes.
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

  const good: [rule: string, body: unknown, instances: ConnectInstance[]][] = [
    ['none', [], []],
    ['none, as Go writes it', null, []],
    ['a proxy: whom it stands before, at its own address', [proxy], [proxyInstance]],
    ["a native instance: its own name, at its node's address", [native], [nativeInstance]],
    ['both, in order', [native, proxy], [nativeInstance, proxyInstance]],
    [
      'a native instance that names a destination proves its own name',
      [bend(native, ['Service', 'Proxy'], { DestinationServiceName: 'db' })],
      [nativeInstance],
    ],
    ['native false is a proxy', [bend(proxy, ['Service', 'Connect'], { Native: false })], [proxyInstance]],
    ['no Connect is a proxy', [bend(proxy, ['Service', 'Connect'], undefined)], [proxyInstance]],
    ['a Connect of null is a proxy', [bend(proxy, ['Service', 'Connect'], null)], [proxyInstance]],
    [
      'a proxy of Consul 1.2',
      [
        {
          Node: node,
          Service: { ...proxyService, Proxy: undefined, Connect: undefined, ProxyDestination: 'web' },
        },
      ],
      [proxyInstance],
    ],
    [
      'a proxy with both spellings: the newer one',
      [bend(proxy, ['Service', 'ProxyDestination'], 'old')],
      [proxyInstance],
    ],
    [
      'a proxy of 1.3 with an empty new spelling',
      [
        {
          ...proxy,
          Service: { ...proxyService, Proxy: { DestinationServiceName: '' }, ProxyDestination: 'web' },
        },
      ],
      [proxyInstance],
    ],
    [
      'namespace and partition, of newer agents',
      [{ ...proxy, Service: { ...proxyService, Namespace: 'n', Partition: 'p' } }],
      [{ ...proxyInstance, namespace: 'n', partition: 'p' }],
    ],
    [
      'empty ones are none',
      [{ ...proxy, Service: { ...proxyService, Namespace: '', Partition: null } }],
      [proxyInstance],
    ],
    [
      'no datacenter',
      [bend(proxy, ['Node', 'Datacenter'], undefined)],
      [{ ...proxyInstance, datacenter: undefined }],
    ],
    [
      'an IPv6 address',
      [bend(proxy, ['Service', 'Address'], '::1')],
      [{ ...proxyInstance, address: '::1', wan: { address: '::1', port: 21000 } }],
    ],
    // A mesh gateway, say: it stands before many and proves the name of none.
    [
      'one that stands before nobody is left out, and spoils nothing for the others',
      [
        bend(proxy, ['Service', 'Proxy'], { DestinationServiceName: '' }),
        native,
        bend(proxy, ['Service', 'Proxy'], undefined),
        bend(proxy, ['Service', 'Proxy'], {}),
        bend(proxy, ['Service', 'Proxy'], null),
      ],
      [nativeInstance],
    ],
    [
      'one that stands before nobody may have no address and no port',
      [{ Node: {}, Service: { Kind: 'mesh-gateway', Proxy: {} } }],
      [],
    ],
    [
      'one that cannot be dialled is known, with what is wrong with it, and spoils nothing for the others',
      [bend(proxy, ['Service', 'Port'], 0), native],
      [
        { ...proxyInstance, port: 0, wan: { address: '10.0.0.2', port: 0 }, defect: 'has no port' },
        nativeInstance,
      ],
    ],
    ['no checks', [bend(proxy, ['Checks'], undefined)], [proxyInstance]],
  ]
  for (const [rule, body, instances] of good) {
    it(rule, () => {
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
    // Whatever is not known to be good is bad.
    [['passing', 'unknown'], 'critical'],
    [['warning', ''], 'critical'],
    [['Passing'], 'critical'],
  ]
  for (const [checks, status] of states) {
    it(`the worst of its checks: ${checks.join(', ') || 'none'} is ${status}`, () => {
      const body = [{ ...proxy, Checks: checks.map((Status) => ({ CheckID: 'c', Status })) }]
      assert.equal(parseConnectInstances(body)[0]?.status, status)
    })
  }

  const weights: [given: unknown, weights: ConnectInstance['weights']][] = [
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
    // Less than none is none.
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
  for (const [given, expected] of weights) {
    it(`its weights: ${inspect(given)}`, () => {
      const body = [bend(proxy, ['Service', 'Weights'], given)]
      assert.deepEqual(parseConnectInstances(body)[0]?.weights, expected)
    })
  }

  /** A native instance with these addresses of its own and of its node. */
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
    ['its own', addressed('own', { Address: 'w', Port: 443 }, 'nw'), { address: 'w', port: 443 }],
    ['its own, without a port', addressed('own', { Address: 'w' }, 'nw'), { address: 'w', port: 8080 }],
    [
      'its own, with a port of 0',
      addressed('own', { Address: 'w', Port: 0 }, 'nw'),
      { address: 'w', port: 8080 },
    ],
    ['its only address', addressed('own', undefined, 'nw'), { address: 'own', port: 8080 }],
    ["its node's", addressed('', undefined, 'nw'), { address: 'nw', port: 8080 }],
    ["its node's only one", addressed('', undefined, undefined), { address: '10.0.0.1', port: 8080 }],
    ["its node's empty one is none", addressed('', undefined, ''), { address: '10.0.0.1', port: 8080 }],
    ['its own before its node’s', addressed('', { Address: 'w', Port: 1 }, 'nw'), { address: 'w', port: 1 }],
    ['null is none', addressed('own', null, null), { address: 'own', port: 8080 }],
  ]
  for (const [rule, body, wan] of reached) {
    it(`how it is reached from elsewhere: ${rule}`, () => {
      assert.deepEqual(parseConnectInstances(body)[0]?.wan, wan)
    })
  }

  const wanAt = (wan: unknown): unknown => bend(native, ['Service', 'TaggedAddresses'], { wan })
  const defects: [rule: string, entry: unknown, defect: string | undefined][] = [
    ['the lowest port', bend(proxy, ['Service', 'Port'], 1), undefined],
    ['the highest port', bend(proxy, ['Service', 'Port'], 65535), undefined],
    ['a port of 0', bend(proxy, ['Service', 'Port'], 0), 'has no port'],
    ['a port below 0', bend(proxy, ['Service', 'Port'], -1), 'has the port -1'],
    ['a port that is too high', bend(proxy, ['Service', 'Port'], 65536), 'has the port 65536'],
    ['a name', bend(proxy, ['Service', 'Address'], 'db_1.example-x.com'), undefined],
    ['an address of an interface', bend(proxy, ['Service', 'Address'], 'fe80::1%eth0'), undefined],
    ['255 characters', bend(proxy, ['Service', 'Address'], 'a'.repeat(255)), undefined],
    ['a blank', bend(proxy, ['Service', 'Address'], 'a b'), 'has the address "a b"'],
    [
      'a URL',
      bend(proxy, ['Service', 'Address'], 'http://10.0.0.2:80'),
      'has the address "http://10.0.0.2:80"',
    ],
    ['a line', bend(proxy, ['Service', 'Address'], 'a\nb'), String.raw`has the address "a\nb"`],
    [
      'an address that is too long, of which the beginning is told',
      bend(proxy, ['Service', 'Address'], 'a'.repeat(256)),
      `has the address "${'a'.repeat(64)}"`,
    ],
    ["its node's address", bend(native, ['Node', 'Address'], 'a/b'), 'has the address "a/b"'],
    [
      'a port and an address: the port',
      bend(native, ['Service'], { ...nativeService, Address: '*', Port: 0 }),
      'has no port',
    ],
  ]
  for (const [rule, item] of [
    ['a port', wanAt({ Address: 'w', Port: 65536 })],
    ['a port below 0', wanAt({ Address: 'w', Port: -5 })],
    ['an address', wanAt({ Address: 'w w', Port: 1 })],
    ["its node's address", bend(native, ['Node', 'TaggedAddresses'], { wan: 'w w' })],
  ] as const) {
    it(`what is wrong for elsewhere does not count: ${rule}`, () => {
      const [found] = parseConnectInstances([item])
      assert.equal(found?.defect, undefined)
      assert.deepEqual(found?.wan, { address: found?.address, port: found?.port })
    })
  }
  for (const [rule, item, defect] of defects) {
    it(`${defect === undefined ? 'can be dialled' : 'cannot be dialled'}: ${rule}`, () => {
      const found = parseConnectInstances([item, native])
      assert.deepEqual(
        found.map((instance) => instance.defect),
        [defect, undefined],
      )
    })
  }

  const bent = (place: (string | number)[], value: unknown): unknown => bend([proxy], [0, ...place], value)
  refuses(parseConnectInstances, [
    ['the body: expected an array, got nothing', undefined],
    ['the body: expected an array, got an object', {}],
    ['the body: expected an array, got a string', 'x'],
    ['[0]: expected an object, got null', [null]],
    ['[1]: expected an object, got a number', [proxy, 5]],
    ['[0].Node: expected an object, got nothing', bent(['Node'], undefined)],
    ['[0].Service: expected an object, got null', bent(['Service'], null)],
    ['[0].Service.ID: expected a non-empty string, got a string', bent(['Service', 'ID'], '')],
    ['[0].Service.Address: expected a string, got a number', bent(['Service', 'Address'], 5)],
    [
      '[0].Node.Address: expected a non-empty string, got a string',
      bend(bent(['Service', 'Address'], ''), [0, 'Node', 'Address'], ''),
    ],
    ['[0].Service.Port: expected a whole number, got nothing', bent(['Service', 'Port'], undefined)],
    ['[0].Service.Port: expected a whole number, got a string', bent(['Service', 'Port'], '80')],
    ['[0].Service.Port: expected a whole number, got a number', bent(['Service', 'Port'], 80.5)],
    ['[0].Service.Connect: expected an object, got an array', bent(['Service', 'Connect'], [])],
    [
      '[0].Service.Connect.Native: expected true or false, got a string',
      bent(['Service', 'Connect'], { Native: 'yes' }),
    ],
    ['[0].Service.Proxy: expected an object, got a string', bent(['Service', 'Proxy'], 'web')],
    [
      '[0].Service.Proxy.DestinationServiceName: expected a non-empty string, got a number',
      bent(['Service', 'Proxy', 'DestinationServiceName'], 5),
    ],
    [
      '[0].Service.Service: expected a non-empty string, got nothing',
      bend([native], [0, 'Service', 'Service'], undefined),
    ],
    ['[0].Service.Namespace: expected a non-empty string, got an array', bent(['Service', 'Namespace'], [])],
    ['[0].Service.Partition: expected a non-empty string, got a number', bent(['Service', 'Partition'], 5)],
    ['[0].Node.Datacenter: expected a non-empty string, got a boolean', bent(['Node', 'Datacenter'], true)],
    ['[0].Checks: expected an array, got a string', bent(['Checks'], 'passing')],
    ['[0].Checks: expected an array, got an object', bent(['Checks'], {})],
    ['[0].Checks[0]: expected an object, got a string', bent(['Checks'], ['passing'])],
    ['[0].Checks[1].Status: expected a string, got nothing', bent(['Checks'], [{ Status: 'passing' }, {}])],
    ['[0].Checks[0].Status: expected a string, got null', bent(['Checks'], [{ Status: null }])],
    ['[0].Service.Weights: expected an object, got a number', bent(['Service', 'Weights'], 5)],
    [
      '[0].Service.Weights.Passing: expected a whole number, got a string',
      bent(['Service', 'Weights'], { Passing: '5' }),
    ],
    [
      '[0].Service.Weights.Warning: expected a whole number, got a number',
      bent(['Service', 'Weights'], { Passing: 1, Warning: 0.5 }),
    ],
    [
      '[0].Service.Weights.Passing: expected a whole number, got a number',
      bent(['Service', 'Weights'], { Passing: -0.5, Warning: 1 }),
    ],
    [
      '[0].Service.TaggedAddresses: expected an object, got a string',
      bent(['Service', 'TaggedAddresses'], 'x'),
    ],
    [
      '[0].Service.TaggedAddresses.wan: expected an object, got a string',
      bent(['Service', 'TaggedAddresses'], { wan: '1.2.3.4' }),
    ],
    [
      '[0].Service.TaggedAddresses.wan.Address: expected a string, got nothing',
      bent(['Service', 'TaggedAddresses'], { wan: { Port: 1 } }),
    ],
    [
      '[0].Service.TaggedAddresses.wan.Port: expected a whole number, got a number',
      bent(['Service', 'TaggedAddresses'], { wan: { Address: 'a', Port: 0.5 } }),
    ],
    [
      '[0].Node.TaggedAddresses.wan: expected a string, got an object',
      bent(['Node', 'TaggedAddresses'], { wan: { Address: 'a' } }),
    ],
    ['[0].Node.TaggedAddresses: expected an object, got an array', bent(['Node', 'TaggedAddresses'], [])],
  ])
})

describe('parseQueryAnswer', () => {
  const entry = {
    Node: { Node: 'n', Address: '10.0.0.1' },
    Service: { ID: 'web-1', Service: 'web', Port: 8080, Connect: { Native: true } },
    Checks: [],
  }
  // 1.8.7
  const answer = {
    Service: 'web',
    Nodes: [entry],
    DNS: { TTL: '10s' },
    Datacenter: 'dc1',
    Failovers: 0,
  }

  it('the service, where it was found, its instances, and for how long', () => {
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
    ['no datacenter', { Datacenter: undefined }, { datacenter: undefined }],
    ['no nodes', { Nodes: [] }, { instances: [] }],
    ['no nodes, as Go writes it', { Nodes: null }, { instances: [] }],
    ['no nodes at all', { Nodes: undefined }, { instances: [] }],
    ['no DNS', { DNS: undefined }, { ttlMs: undefined }],
    ['a DNS of null', { DNS: null }, { ttlMs: undefined }],
    ['a DNS without a TTL', { DNS: {} }, { ttlMs: undefined }],
    ['an empty TTL', { DNS: { TTL: '' } }, { ttlMs: undefined }],
    ['a TTL that is none', { DNS: { TTL: 'soon' } }, { ttlMs: undefined }],
    ['a TTL of 0', { DNS: { TTL: '0s' } }, { ttlMs: 0 }],
  ]
  for (const [rule, changes, expected] of optional) {
    it(rule, () => {
      const found = parseQueryAnswer(JSON.parse(JSON.stringify({ ...answer, ...changes })))
      assert.deepEqual({ ...found, ...expected }, found)
    })
  }

  refuses(parseQueryAnswer, [
    ...NO_OBJECT,
    ['Service: expected a non-empty string, got nothing', bend(answer, ['Service'], undefined)],
    ['Service: expected a non-empty string, got a string', bend(answer, ['Service'], '')],
    ['Namespace: expected a non-empty string, got a number', bend(answer, ['Namespace'], 5)],
    ['Datacenter: expected a non-empty string, got an array', bend(answer, ['Datacenter'], [])],
    ['DNS: expected an object, got a string', bend(answer, ['DNS'], '10s')],
    ['DNS.TTL: expected a string, got a number', bend(answer, ['DNS', 'TTL'], 10)],
    ['the body: expected an array, got an object', bend(answer, ['Nodes'], {})],
    ['[0].Node: expected an object, got nothing', bend(answer, ['Nodes', 0, 'Node'], undefined)],
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
    it(`near ${String(near)}: ${isSorted ? 'yes' : 'no'}`, () => {
      assert.equal(parseIsSorted(bend(explained, ['Query', 'Service', 'Near'], near)), isSorted)
    })
  }

  refuses(parseIsSorted, [
    ...NO_OBJECT,
    ['Query: expected an object, got nothing', {}],
    ['Query.Service: expected an object, got nothing', { Query: {} }],
    [
      'Query.Service.Near: expected a string, got a boolean',
      bend(explained, ['Query', 'Service', 'Near'], true),
    ],
  ])
})

describe('parseDuration: as Go writes it', () => {
  const cases: [text: string, ms: number | undefined][] = [
    ['0s', 0],
    ['10s', 10_000],
    ['1m', 60_000],
    ['2h', 7_200_000],
    ['1ms', 1],
    ['1us', 0.001],
    ['1µs', 0.001],
    ['1ns', 0.000001],
    ['1.5s', 1_500],
    ['0.5h', 1_800_000],
    ['1m30s', 90_000],
    ['1h0m0s', 3_600_000],
    ['1h2m3s4ms', 3_723_004],
    ['2562047h47m16.854775807s', 9_223_372_036_854.775807],
    ['', undefined],
    ['10', undefined],
    ['s', undefined],
    ['-10s', undefined],
    ['+10s', undefined],
    ['10 s', undefined],
    ['10s ', undefined],
    [' 10s', undefined],
    ['10S', undefined],
    ['10sec', undefined],
    ['1d', undefined],
    ['.5s', undefined],
    ['1.s', undefined],
    ['1.2.3s', undefined],
    ['1e3s', undefined],
    ['0x10s', undefined],
    ['10s\n', undefined],
    ['٣s', undefined],
    ['10s!', undefined],
    ['!10s', undefined],
  ]
  for (const [text, ms] of cases) {
    it(`${JSON.stringify(text)}: ${ms ?? 'none'}`, () => {
      const found = parseDuration(text)
      if (ms === undefined) assert.equal(found, undefined)
      else assert.ok(found !== undefined && Math.abs(found - ms) <= ms * 1e-12, String(found))
    })
  }
})

describe('parsers: a value or a ShapeError, whatever the JSON', () => {
  const keys = [
    'TrustDomain',
    'ActiveRootID',
    'Roots',
    'CertPEM',
    'Authorized',
    'Reason',
    'Node',
    'Nodes',
    'Checks',
    'Service',
    'Weights',
    'TaggedAddresses',
    'Query',
    'DNS',
    'TTL',
    '__proto__',
  ]
  const { json } = fc.letrec<{ json: unknown }>((tie) => ({
    json: fc.oneof(
      { maxDepth: 4 },
      fc.jsonValue({ maxDepth: 1 }),
      fc.array(tie('json'), { maxLength: 3 }),
      fc.dictionary(fc.constantFrom(...keys), tie('json')),
    ),
  }))
  const parsers = [
    parseRoots,
    parseLeaf,
    parseAuthorize,
    parseConnectInstances,
    parseQueryAnswer,
    parseIsSorted,
  ]
  for (const parse of parsers) {
    it(parse.name, () => {
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

  it('roots and leaf block as they are told', () => {
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

  it("instances: in every state and by any server, where the upstream says, and else where the agent's settings say", () => {
    const agent = new FakeAgent({ datacenter: 'own', namespace: 'n' })
    const { signal } = new AbortController()
    void fetchConnectInstances(agent, { service: 'my/web' }, { signal, timeoutMs: 7 })
    void fetchConnectInstances(
      agent,
      {
        service: 'web',
        datacenter: 'other',
        partition: 'p',
        near: '_agent',
        filter: 'x == "y"',
      },
      query,
    )
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
          query: {
            ...start,
            index: 5,
            wait: '1000ms',
            dc: 'other',
            ns: 'n',
            partition: 'p',
            near: '_agent',
            filter: 'x == "y"',
          },
          signal: undefined,
          timeoutMs: 7,
        },
      ],
    )
  })

  it('the count of instances takes any, with Connect or without', async () => {
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
    for (const [body, count] of [
      [[], 0],
      [null, 0],
    ] as const) {
      const again = countInstances(agent, 'web', {}, signal)
      agent.requests.at(-1)!.answer({ body })
      assert.equal(await again, count)
    }
    const wrong = assert.rejects(countInstances(agent, 'web', {}, signal), ShapeError)
    agent.requests.at(-1)!.answer({ body: {} })
    await wrong
  })

  it('a prepared query is executed for Connect, and explained, where it is', async () => {
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

  it('authorize names target, identity and serial, and the namespace where there is one', async () => {
    const ask = { target: 'db', clientCertUri: 'spiffe://x', clientCertSerial: '0a:0b' }
    const body = { Target: 'db', ClientCertURI: 'spiffe://x', ClientCertSerial: '0a:0b' }
    for (const [agent, expected] of [
      [new FakeAgent(), body],
      [new FakeAgent({ namespace: 'n' }), { ...body, Namespace: 'n' }],
    ] as const) {
      const { signal } = new AbortController()
      const answer = askAuthorize(agent, ask, { signal })
      const [{ request, answer: give }] = agent.requests as [(typeof agent.requests)[0]]
      assert.deepEqual(request, {
        method: 'POST',
        path: '/v1/agent/connect/authorize',
        needs: 'service:write on "db"',
        body: expected,
        signal,
      })
      give({ body: { Authorized: true, Reason: 'x' } })
      assert.deepEqual(await answer, { authorized: true, reason: 'x', ageMs: 0 })
    }
  })

  it('a path keeps every value in its own segment', () => {
    assert.equal(path`/v1/a/${'x/y'}/b/${'ü?#%'}`, '/v1/a/x%2Fy/b/%C3%BC%3F%23%25')
    assert.equal(path`/v1/plain`, '/v1/plain')
  })
})

/** What an agent 1.8.7 answers of a proxy. */
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

  it('reads the destination where it was before Consul 1.4, and an ordinary service', () => {
    const { Proxy, ...rest } = PROXY
    assert.ok(Proxy)
    assert.equal(parseProxy({ ...rest, ProxyDestination: 'web' }).service, 'web')
    const { kind, service, config, upstreams } = parseProxy({ ID: 'web', Service: 'web' })
    assert.deepEqual([kind, service, config, upstreams], ['', undefined, {}, []])
  })

  refuses(parseProxy, [
    ...NO_OBJECT,
    ['ID: expected a non-empty string, got nothing', bend(PROXY, ['ID'], undefined)],
    ['Kind: expected a string, got a number', bend(PROXY, ['Kind'], 7)],
    ['Port: expected a whole number, got a string', bend(PROXY, ['Port'], '8443')],
    ['Proxy: expected an object, got an array', bend(PROXY, ['Proxy'], [])],
    ['Proxy.Config: expected an object, got a string', bend(PROXY, ['Proxy', 'Config'], 'x')],
    ['Proxy.Upstreams: expected an array, got an object', bend(PROXY, ['Proxy', 'Upstreams'], {})],
    [
      'Proxy.LocalServicePort: expected a whole number, got a number',
      bend(PROXY, ['Proxy', 'LocalServicePort'], 1.5),
    ],
    [
      'Proxy.LocalServiceAddress: expected a string, got an object',
      bend(PROXY, ['Proxy', 'LocalServiceAddress'], {}),
    ],
  ])
})

describe('parseManagedProxy', () => {
  it('reads what an agent before Consul 1.6 answers', () => {
    const { id, kind, service, serviceId, config, upstreams } = parseManagedProxy(MANAGED)
    assert.deepEqual(
      [id, kind, service, serviceId, config, upstreams],
      ['web-1-proxy', 'connect-proxy', 'web', 'web-1', { bind_port: 1 }, []],
    )
  })

  refuses(parseManagedProxy, [
    ...NO_OBJECT,
    [
      'ProxyServiceID: expected a non-empty string, got nothing',
      bend(MANAGED, ['ProxyServiceID'], undefined),
    ],
    ['TargetServiceName: expected a non-empty string, got null', bend(MANAGED, ['TargetServiceName'], null)],
    ['Config: expected an object, got an array', bend(MANAGED, ['Config'], [])],
    ['Upstreams: expected an array, got a string', bend(MANAGED, ['Upstreams'], 'x')],
  ])
})
