import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { parseProxyConfig } from '../../src/proxy.js'
import {
  bindAddressOf,
  proxyIdOf,
  proxyRegistration,
} from '../../examples/supervisor/src/agent/proxy-registration.js'
import { combine } from '../../examples/supervisor/src/configuration/configuration.js'
import type { Json } from '../../examples/supervisor/src/configuration/parse.js'

const PORT = 20_007

interface Registration {
  readonly Address?: string
  readonly Port: number
  readonly Proxy: {
    readonly Config: Json
    readonly Upstreams: readonly Json[]
    readonly LocalServiceAddress?: string
    readonly LocalServicePort?: number
  }
  readonly Checks: readonly { readonly TCP?: string; readonly AliasService?: string }[]
}

/** The registration of the proxy of `web` with this `connect.proxy`. */
function registered(proxy: object, service: object = {}, agentsOwn: string = '10.0.0.1'): Registration {
  const content = { service: { name: 'web', port: 80, ...service, connect: { proxy } } }
  const [definition] = combine([{ path: '/etc/connect.d/web.json', content }]).services
  assert.ok(definition?.managed)
  const registration = proxyRegistration(definition, definition.managed, PORT, agentsOwn)
  return registration as unknown as Registration
}

describe('supervisor: the registration of a proxy', () => {
  it('says what Consul’s said', () => {
    assert.deepEqual(registered({}, { id: 'web-1' }), {
      Kind: 'connect-proxy',
      ID: 'web-1-proxy',
      Name: 'web-proxy',
      Port: PORT,
      Address: '10.0.0.1',
      Proxy: {
        DestinationServiceName: 'web',
        DestinationServiceID: 'web-1',
        LocalServiceAddress: '127.0.0.1',
        LocalServicePort: 80,
        Config: { bind_address: '10.0.0.1', bind_port: PORT, local_service_address: '127.0.0.1:80' },
        Upstreams: [],
      },
      Checks: [
        {
          CheckID: 'service:web-1-proxy',
          Name: 'Connect Proxy Listening',
          TCP: `10.0.0.1:${PORT}`,
          Interval: '10s',
        },
        {
          CheckID: 'service:web-1-proxy:alias',
          Name: 'Connect Proxy Aliasing web-1',
          AliasService: 'web-1',
        },
      ],
    })
  })

  it('has the tags, metadata, and weights of its service, in every spelling', () => {
    const inherited = { Tags: ['v1'], Meta: { version: '1' }, Weights: { Passing: 5, Warning: 1 } }
    const files = { tags: ['v1'], meta: { version: '1' }, weights: { passing: 5, warning: 1 } }
    for (const service of [
      files,
      inherited,
      { TAGS: ['v1'], mEta: inherited.Meta, WEIGHTS: inherited.Weights },
    ]) {
      const { Tags, Meta, Weights } = registered({}, service) as unknown as Json
      assert.deepEqual({ Tags, Meta, Weights }, inherited)
    }
    assert.equal('Tags' in registered({}), false)
  })

  it('has the id of its service in its own', () => {
    assert.equal(proxyIdOf('web-1'), 'web-1-proxy')
  })

  it('passes on its configuration, with the keys as they were written', () => {
    const { Config } = registered({
      command: ['/x'],
      config: { some_key: { inner_key: [1] }, Other: null },
    }).Proxy
    assert.deepEqual(Config, {
      some_key: { inner_key: [1] },
      Other: null,
      bind_address: '10.0.0.1',
      bind_port: PORT,
      local_service_address: '127.0.0.1:80',
    })
  })

  it('has the last word on where the proxy listens', () => {
    const config = { bind_address: '[::]', bind_port: 5 }
    const { Config } = registered({ command: ['/x'], config }).Proxy
    assert.deepEqual([Config['bind_address'], Config['bind_port']], ['::', PORT])
  })

  it('keeps to itself what is not for the proxy', () => {
    const config = { tcp_check_address: '10.0.0.9', disable_tcp_check: false, upstreams: [] }
    assert.deepEqual(Object.keys(registered({ config }).Proxy.Config).sort(), [
      'bind_address',
      'bind_port',
      'local_service_address',
    ])
  })

  it('is the same each time', () => {
    const proxy = { config: { b: 1, a: 2 }, upstreams: [{ destination_name: 'db', local_bind_port: 1 }] }
    assert.deepEqual(registered(proxy), registered(proxy))
  })

  const checks: [what: string, config: object, agentsOwn: string, tcp: string | undefined][] = [
    ['the agent’s address', {}, '10.0.0.1', `10.0.0.1:${PORT}`],
    ['the agent’s address of IPv6', {}, 'fd00::1', `[fd00::1]:${PORT}`],
    ['every address', {}, '0.0.0.0', `127.0.0.1:${PORT}`],
    ['every address of IPv6', {}, '::', `[::1]:${PORT}`],
    ['an address of its own', { bind_address: '10.0.0.2' }, '0.0.0.0', `10.0.0.2:${PORT}`],
    ['an own address of IPv6', { bind_address: 'fd00::2' }, '0.0.0.0', `[fd00::2]:${PORT}`],
    ['one in brackets', { bind_address: '[fd00::2]' }, '0.0.0.0', `[fd00::2]:${PORT}`],
    ['a name', { bind_address: 'localhost' }, '0.0.0.0', `localhost:${PORT}`],
    ['every address, of its own', { bind_address: '0.0.0.0' }, '10.0.0.1', `127.0.0.1:${PORT}`],
    ['every address of IPv6, of its own', { bind_address: '[::]' }, '10.0.0.1', `[::1]:${PORT}`],
    ['an empty address, which is none', { bind_address: '' }, '10.0.0.1', `10.0.0.1:${PORT}`],
    ['where it is said', { tcp_check_address: '10.0.0.3' }, '10.0.0.1', `10.0.0.3:${PORT}`],
    [
      'where it is said, whatever it listens on',
      { tcp_check_address: '10.0.0.3', bind_address: '0.0.0.0' },
      '10.0.0.1',
      `10.0.0.3:${PORT}`,
    ],
    ['at a name', { tcp_check_address: 'proxy.local' }, '10.0.0.1', `proxy.local:${PORT}`],
    ['at an address of IPv6', { tcp_check_address: 'fd00::3' }, '10.0.0.1', `[fd00::3]:${PORT}`],
    ['at one in brackets', { tcp_check_address: '[fd00::3]' }, '10.0.0.1', `[fd00::3]:${PORT}`],
    ['a wildcard that is said', { tcp_check_address: '0.0.0.0' }, '10.0.0.1', `127.0.0.1:${PORT}`],
    ['nowhere', { disable_tcp_check: true }, '10.0.0.1', undefined],
    ['nowhere, wherever it is', { disable_tcp_check: true, tcp_check_address: '10.0.0.3' }, '::', undefined],
    ['where it would be without a word', { disable_tcp_check: false }, '10.0.0.1', `10.0.0.1:${PORT}`],
  ]
  for (const [what, config, agentsOwn, tcp] of checks) {
    it(`is checked at ${what}: ${tcp ?? 'no check'}`, () => {
      // A custom proxy may have any configuration.
      const registration = registered({ command: ['/x'], config }, {}, agentsOwn)
      const targets = registration.Checks.map(({ TCP, AliasService }) => TCP ?? AliasService)
      assert.deepEqual(targets, tcp === undefined ? ['web'] : [tcp, 'web'])
    })
  }

  const addresses: [
    what: string,
    config: object,
    service: object,
    agentsOwn: string,
    address: string | undefined,
  ][] = [
    ['where it listens', {}, {}, '10.0.0.1', '10.0.0.1'],
    ['where it listens by itself', { bind_address: '10.0.0.2' }, {}, '0.0.0.0', '10.0.0.2'],
    ['without brackets', { bind_address: '[fd00::2]' }, {}, '0.0.0.0', 'fd00::2'],
    ['at the node, for every address', {}, {}, '0.0.0.0', undefined],
    ['at the node, for every address of IPv6', { bind_address: '::' }, {}, '10.0.0.1', undefined],
    ['where its service is, for every address', {}, { address: '10.0.0.7' }, '0.0.0.0', '10.0.0.7'],
    ['where it listens, wherever its service is', {}, { address: '10.0.0.7' }, '10.0.0.1', '10.0.0.1'],
    [
      'at the node, for every address in another spelling',
      { bind_address: '::0' },
      {},
      '10.0.0.1',
      undefined,
    ],
  ]
  for (const [what, config, service, agentsOwn, address] of addresses) {
    it(`is reached ${what}`, () => {
      const registration = registered({ config }, service, agentsOwn)
      assert.equal(registration.Address, address)
      assert.equal('Address' in registration, address !== undefined)
    })
  }

  it('listens where it is said', () => {
    const cases: [config: object, agentsOwn: string, address: string][] = [
      [{}, '10.0.0.1', '10.0.0.1'],
      [{ bind_address: '10.0.0.2' }, '10.0.0.1', '10.0.0.2'],
      [{ bind_address: '::' }, '10.0.0.1', '::'],
      [{ bind_address: '' }, '10.0.0.1', '10.0.0.1'],
    ]
    for (const [config, agentsOwn, address] of cases) {
      const managed = { config: config as Json } as Parameters<typeof bindAddressOf>[0]
      assert.equal(bindAddressOf(managed, agentsOwn), address)
    }
  })

  it('may listen on every address as Consul wrote it', () => {
    assert.equal(registered({ config: { bind_address: '[::]' } }).Proxy.Config['bind_address'], '::')
  })

  type Local = [address: string | undefined, host: string | undefined, port: number | undefined]
  const applications: [what: string, config: object, service: object, local: Local][] = [
    ['the service’s port', {}, {}, ['127.0.0.1:80', '127.0.0.1', 80]],
    ['the service’s port, wherever it is', {}, { address: '10.0.0.7' }, ['127.0.0.1:80', '127.0.0.1', 80]],
    ['what is said', { local_service_address: '10.0.0.8:8080' }, {}, ['10.0.0.8:8080', '10.0.0.8', 8080]],
    [
      'what is said, without a port of the service',
      { local_service_address: 'app.local:8080' },
      { port: 0 },
      ['app.local:8080', 'app.local', 8080],
    ],
    ['an address of IPv6', { local_service_address: '[::1]:8080' }, {}, ['[::1]:8080', '::1', 8080]],
    ['a socket', { local_service_socket_path: '/run/x.sock' }, {}, [undefined, undefined, undefined]],
  ]
  for (const [what, config, service, expected] of applications) {
    it(`leads to ${what}`, () => {
      const { Config, LocalServiceAddress, LocalServicePort } = registered({ config }, service).Proxy
      assert.deepEqual([Config['local_service_address'], LocalServiceAddress, LocalServicePort], expected)
    })
  }

  it('leads to an address of IPv6 with the port beside it', () => {
    const { Config, ...fields } = registered({
      config: { local_service_address: '::1', local_service_port: 81 },
    }).Proxy
    assert.deepEqual([Config['local_service_address'], Config['local_service_port']], ['::1', 81])
    // Either both are right, or neither is there.
    const said =
      fields.LocalServiceAddress === undefined ? [] : [fields.LocalServiceAddress, fields.LocalServicePort]
    assert.deepEqual(said, fields.LocalServiceAddress === undefined ? [] : ['::1', 81])
  })

  for (const config of [
    {},
    { bind_address: '10.0.0.2', local_connect_timeout_ms: 5 },
    { BindAddress: '10.0.0.2' },
    { LocalServiceAddress: '127.0.0.1:81' },
    { LocalServicePort: 81 },
    { BindPort: PORT, local_service_port: 81 },
  ]) {
    it(`is one that our own proxy understands, of ${JSON.stringify(config)}`, () => {
      const { listener } = parseProxyConfig({ service: 'web', ...registered({ config }).Proxy.Config })
      const said = JSON.stringify(config)
      assert.deepEqual(
        [listener?.host, listener?.port, listener?.application],
        [
          said.includes('10.0.0.2') ? '10.0.0.2' : '10.0.0.1',
          PORT,
          { host: '127.0.0.1', port: said.includes('81') ? 81 : 80 },
        ],
      )
    })
  }

  const upstreams: [what: string, written: object, request: object][] = [
    [
      'as files have them',
      {
        destination_type: 'service',
        destination_name: 'db',
        destination_namespace: 'ns',
        datacenter: 'dc2',
        local_bind_address: '127.0.0.2',
        local_bind_port: 5_432,
        config: { connect_timeout_ms: 5, Some_Key: { inner_key: 1 } },
        mesh_gateway: { mode: 'local' },
      },
      {
        DestinationType: 'service',
        DestinationName: 'db',
        DestinationNamespace: 'ns',
        Datacenter: 'dc2',
        LocalBindAddress: '127.0.0.2',
        LocalBindPort: 5_432,
        Config: { connect_timeout_ms: 5, Some_Key: { inner_key: 1 } },
        MeshGateway: { Mode: 'local' },
      },
    ],
    [
      'as requests have them',
      { DestinationName: 'db', LocalBindPort: 5_432, Config: { connect_timeout_ms: 5 } },
      { DestinationName: 'db', LocalBindPort: 5_432, Config: { connect_timeout_ms: 5 } },
    ],
    [
      'of a prepared query',
      { destination_type: 'prepared_query', destination_name: 'near-db', local_bind_port: 5_432 },
      { DestinationType: 'prepared_query', DestinationName: 'near-db', LocalBindPort: 5_432 },
    ],
  ]
  for (const [what, written, request] of upstreams) {
    it(`has its upstreams in the spelling of the API, ${what}`, () => {
      assert.deepEqual(registered({ upstreams: [written] }).Proxy.Upstreams, [request])
      assert.deepEqual(registered({ config: { upstreams: [written] } }).Proxy.Upstreams, [request])
    })
  }

  // Consul 1.2 had these two in an upstream; the API knows neither there, and drops them without a word.
  it('has nothing in an upstream that an agent would drop', () => {
    const upstream = {
      destination_name: 'db',
      local_bind_port: 1,
      connect_timeout_ms: 5,
      destination_datacenter: 'dc2',
    }
    assert.deepEqual(registered({ config: { upstreams: [upstream] } }).Proxy.Upstreams, [
      { DestinationName: 'db', LocalBindPort: 1, Datacenter: 'dc2', Config: { connect_timeout_ms: 5 } },
    ])
  })

  it('goes by the tuning in the config of an upstream, before that beside it', () => {
    const upstream = {
      destination_name: 'db',
      local_bind_port: 1,
      ConnectTimeoutMs: 5,
      idle_timeout_ms: 6,
      config: { connect_timeout_ms: 7, other: 8 },
    }
    assert.deepEqual(registered({ upstreams: [upstream] }).Proxy.Upstreams, [
      {
        DestinationName: 'db',
        LocalBindPort: 1,
        Config: { connect_timeout_ms: 7, idle_timeout_ms: 6, other: 8 },
      },
    ])
  })

  const untakeable: [what: string, upstreams: Json[]][] = [
    [
      'two local ports to one destination',
      [
        { destination_name: 'db', local_bind_port: 1 },
        { destination_name: 'db', destination_type: 'service', local_bind_port: 2 },
      ],
    ],
    ['a unix socket', [{ destination_name: 'db', local_bind_socket_path: '/run/db.sock' }]],
  ]
  for (const [what, written] of untakeable) {
    it(`keeps upstreams in its configuration where an agent would reject them: ${what}`, () => {
      const { Config, Upstreams } = registered({ upstreams: written }).Proxy
      assert.deepEqual(Upstreams, [])
      assert.deepEqual(Config['upstreams'], written)
      assert.equal(parseProxyConfig({ service: 'web', ...Config }).upstreams.length, written.length)
    })
  }

  it('lists upstreams to one service in two datacenters', () => {
    const upstreams = [1, 2].map((i) => ({
      destination_name: 'db',
      datacenter: `dc${i}`,
      local_bind_port: i,
    }))
    assert.equal(registered({ upstreams }).Proxy.Upstreams.length, 2)
  })

  it('has its upstreams in their order', () => {
    const names = ['c', 'a', 'b']
    const given = names.map((destination_name, i) => ({ destination_name, local_bind_port: 100 + i }))
    assert.deepEqual(
      registered({ upstreams: given }).Proxy.Upstreams.map(({ DestinationName }) => DestinationName),
      names,
    )
  })
})
