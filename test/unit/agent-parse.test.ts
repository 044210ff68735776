import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { type AuthorizeAnswer, askAuthorize, parseAuthorize } from '../../src/agent/authorize.js'
import { path } from '../../src/agent/client.js'
import { type ConnectInstance, fetchConnectInstances, parseConnectInstances } from '../../src/agent/health.js'
import { fetchLeaf, parseLeaf } from '../../src/agent/leaf.js'
import { fetchRoots, parseRoots } from '../../src/agent/roots.js'
import { ShapeError } from '../../src/agent/shape.js'
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
  ['the body should be an object and is missing', undefined],
  ['the body should be an object and is null', null],
  ['the body should be an object and is an array', []],
  ['the body should be an object and is a string', 'x'],
  ['the body should be an object and is a number', 5],
  ['the body should be an object and is a boolean', true],
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
    [
      'TrustDomain should be a non-empty string and is missing',
      bend(CONSUL_ROOTS, ['TrustDomain'], undefined),
    ],
    ['TrustDomain should be a non-empty string and is a string', bend(CONSUL_ROOTS, ['TrustDomain'], '')],
    ['TrustDomain should be a non-empty string and is a number', bend(CONSUL_ROOTS, ['TrustDomain'], 5)],
    ['ActiveRootID should be a non-empty string and is null', bend(CONSUL_ROOTS, ['ActiveRootID'], null)],
    ['Roots should be an array and is missing', bend(CONSUL_ROOTS, ['Roots'], undefined)],
    ['Roots should be an array and is an object', bend(CONSUL_ROOTS, ['Roots'], { 0: root })],
    ['Roots[0] should be an object and is a string', bend(CONSUL_ROOTS, ['Roots', 0], root!.RootCert)],
    ['Roots[0].ID should be a non-empty string and is a string', bend(CONSUL_ROOTS, ['Roots', 0, 'ID'], '')],
    [
      'Roots[0].RootCert should be a non-empty string and is missing',
      bend(CONSUL_ROOTS, ['Roots', 0, 'RootCert'], undefined),
    ],
    [
      'Roots[0].Active should be true or false and is a string',
      bend(CONSUL_ROOTS, ['Roots', 0, 'Active'], 'true'),
    ],
    ['Roots[1] should be an object and is null', bend(CONSUL_ROOTS, ['Roots', 1], null)],
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
    ['CertPEM should be a non-empty string and is missing', bend(CONSUL_LEAF, ['CertPEM'], undefined)],
    ['CertPEM should be a non-empty string and is an array', bend(CONSUL_LEAF, ['CertPEM'], ['x'])],
    ['PrivateKeyPEM should be a non-empty string and is a string', bend(CONSUL_LEAF, ['PrivateKeyPEM'], '')],
    // The value may be a key: its type is all that is said of it.
    [
      'PrivateKeyPEM should be a non-empty string and is an object',
      bend(CONSUL_LEAF, ['PrivateKeyPEM'], { secret: 'x' }),
    ],
  ])
})

describe('parseAuthorize', () => {
  const cases: [body: Json, answer: AuthorizeAnswer][] = [
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
    ['Authorized should be true or false and is missing', { Reason: 'x' }],
    ['Authorized should be true or false and is a string', { Authorized: 'true', Reason: 'x' }],
    ['Authorized should be true or false and is a number', { Authorized: 1, Reason: 'x' }],
    ['Authorized should be true or false and is null', { Authorized: null, Reason: 'x' }],
    ['Reason should be a string and is missing', { Authorized: true }],
    ['Reason should be a string and is an array', { Authorized: true, Reason: [] }],
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
    service: 'web',
    ...nowhere,
    datacenter: 'dc1',
  }
  const nativeInstance = { ...proxyInstance, id: 'web-1', address: '10.0.0.1', port: 8080 }

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
    ['an IPv6 address', [bend(proxy, ['Service', 'Address'], '::1')], [{ ...proxyInstance, address: '::1' }]],
  ]
  for (const [rule, body, instances] of good) {
    it(rule, () => {
      assert.deepEqual(parseConnectInstances(JSON.parse(JSON.stringify(body))), instances)
    })
  }

  const bent = (place: (string | number)[], value: unknown): unknown => bend([proxy], [0, ...place], value)
  refuses(parseConnectInstances, [
    ['the body should be an array and is missing', undefined],
    ['the body should be an array and is an object', {}],
    ['the body should be an array and is a string', 'x'],
    ['[0] should be an object and is null', [null]],
    ['[1] should be an object and is a number', [proxy, 5]],
    ['[0].Node should be an object and is missing', bent(['Node'], undefined)],
    ['[0].Service should be an object and is null', bent(['Service'], null)],
    ['[0].Service.ID should be a non-empty string and is a string', bent(['Service', 'ID'], '')],
    ['[0].Service.Address should be a non-empty string and is a number', bent(['Service', 'Address'], 5)],
    [
      '[0].Node.Address should be a non-empty string and is a string',
      bend(bent(['Service', 'Address'], ''), [0, 'Node', 'Address'], ''),
    ],
    ['[0].Service.Port should be a port and is missing', bent(['Service', 'Port'], undefined)],
    ['[0].Service.Port should be a port and is a string', bent(['Service', 'Port'], '80')],
    ['[0].Service.Port should be a port and is a number', bent(['Service', 'Port'], 65536)],
    ['[0].Service.Connect should be an object and is an array', bent(['Service', 'Connect'], [])],
    [
      '[0].Service.Connect.Native should be true or false and is a string',
      bent(['Service', 'Connect'], { Native: 'yes' }),
    ],
    ['[0].Service.Proxy should be an object and is a string', bent(['Service', 'Proxy'], 'web')],
    [
      '[0].Service.Proxy.DestinationServiceName should be a non-empty string and is a number',
      bent(['Service', 'Proxy', 'DestinationServiceName'], 5),
    ],
    [
      '[0].Service.Service should be a non-empty string and is missing',
      bend([native], [0, 'Service', 'Service'], undefined),
    ],
    [
      '[0].Service.Namespace should be a non-empty string and is an array',
      bent(['Service', 'Namespace'], []),
    ],
  ])
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
    'Service',
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
  for (const parse of [parseRoots, parseLeaf, parseAuthorize, parseConnectInstances]) {
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
        { path: '/v1/agent/connect/ca/leaf/my%2Fservice', ...blocking },
      ],
    )
  })

  it("instances: passing ones, where the upstream says, and else where the agent's settings say", () => {
    const agent = new FakeAgent({ datacenter: 'own', namespace: 'n' })
    void fetchConnectInstances(agent, 'web', {})
    void fetchConnectInstances(agent, 'web', { datacenter: 'other', partition: 'p' })
    const common = { passing: true, index: undefined, hash: undefined, wait: undefined }
    assert.deepEqual(
      agent.requests.map(({ request }) => [request.path, request.query]),
      [
        ['/v1/health/connect/web', { ...common, dc: 'own', ns: 'n', partition: undefined }],
        ['/v1/health/connect/web', { ...common, dc: 'other', ns: 'n', partition: 'p' }],
      ],
    )
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
        body: expected,
        signal,
      })
      give({ body: { Authorized: true, Reason: 'x' } })
      assert.deepEqual(await answer, { authorized: true, reason: 'x' })
    }
  })

  it('a path keeps every value in its own segment', () => {
    assert.equal(path`/v1/a/${'x/y'}/b/${'ü?#%'}`, '/v1/a/x%2Fy/b/%C3%BC%3F%23%25')
    assert.equal(path`/v1/plain`, '/v1/plain')
  })
})
