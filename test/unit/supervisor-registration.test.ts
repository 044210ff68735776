import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { parseProxyConfig } from '../../src/proxy.js'
import { proxyRegistration } from '../../examples/supervisor/src/agent/proxy-registration.js'
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

/** Returns the registration of the managed proxy of `web`. */
function registered(proxy: object, service: object = {}, defaultAddress: string = '10.0.0.1'): Registration {
  const content = { service: { name: 'web', port: 80, ...service, connect: { proxy } } }
  const [definition] = combine([{ path: '/etc/connect.d/web.json', content }]).services
  assert.ok(definition?.managed)
  const registration = proxyRegistration(definition, definition.managed, PORT, defaultAddress)
  return registration as unknown as Registration
}

describe('supervisor: the registration of a proxy', () => {
  it('has the fields of Consul', () => {
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
        { CheckID: 'service:web-1-proxy:alias', Name: 'Connect Proxy Aliasing web-1', AliasService: 'web-1' },
      ],
    })
  })

  it('has the tags, metadata, and weights of its service, in any spelling', () => {
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

  it('contains its configuration with unchanged keys', () => {
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

  it('overrides the address and port of the proxy', () => {
    const config = { bind_address: '[::]', bind_port: 5 }
    const { Config } = registered({ command: ['/x'], config }).Proxy
    assert.deepEqual([Config['bind_address'], Config['bind_port']], ['::', PORT])
  })

  it('excludes keys that are not for the proxy', () => {
    const config = { tcp_check_address: '10.0.0.9', disable_tcp_check: false, upstreams: [] }
    assert.deepEqual(Object.keys(registered({ config }).Proxy.Config).sort(), [
      'bind_address',
      'bind_port',
      'local_service_address',
    ])
  })

  const checks: [rule: string, config: object, defaultAddress: string, host: string | undefined][] = [
    ['the default address', {}, '10.0.0.1', '10.0.0.1'],
    ['a default IPv6 address', {}, 'fd00::1', '[fd00::1]'],
    ['the loopback address for a wildcard', {}, '0.0.0.0', '127.0.0.1'],
    ['the loopback address for an IPv6 wildcard', {}, '::', '[::1]'],
    ['its bind_address', { bind_address: '10.0.0.2' }, '0.0.0.0', '10.0.0.2'],
    ['its IPv6 bind_address', { bind_address: 'fd00::2' }, '0.0.0.0', '[fd00::2]'],
    ['its IPv6 bind_address in brackets', { bind_address: '[fd00::2]' }, '0.0.0.0', '[fd00::2]'],
    ['its bind_address, a name', { bind_address: 'localhost' }, '0.0.0.0', 'localhost'],
    ['the loopback address for its wildcard', { bind_address: '0.0.0.0' }, '10.0.0.1', '127.0.0.1'],
    ['the loopback address for its IPv6 wildcard', { bind_address: '[::]' }, '10.0.0.1', '[::1]'],
    ['the default address for an empty bind_address', { bind_address: '' }, '10.0.0.1', '10.0.0.1'],
    [
      'its tcp_check_address',
      { tcp_check_address: '10.0.0.3', bind_address: '0.0.0.0' },
      '10.0.0.1',
      '10.0.0.3',
    ],
    ['its tcp_check_address, a name', { tcp_check_address: 'proxy.local' }, '10.0.0.1', 'proxy.local'],
    ['its IPv6 tcp_check_address', { tcp_check_address: 'fd00::3' }, '10.0.0.1', '[fd00::3]'],
    ['its tcp_check_address in brackets', { tcp_check_address: '[fd00::3]' }, '10.0.0.1', '[fd00::3]'],
    ['loopback for a wildcard tcp_check_address', { tcp_check_address: '0.0.0.0' }, '10.0.0.1', '127.0.0.1'],
    ['no address', { disable_tcp_check: true }, '10.0.0.1', undefined],
    ['no address', { disable_tcp_check: true, tcp_check_address: '10.0.0.3' }, '::', undefined],
    ['the default address', { disable_tcp_check: false }, '10.0.0.1', '10.0.0.1'],
  ]
  for (const [rule, config, defaultAddress, host] of checks) {
    it(`is checked at ${rule}: ${JSON.stringify(config)}`, () => {
      // A custom proxy may have any configuration.
      const registration = registered({ command: ['/x'], config }, {}, defaultAddress)
      const targets = registration.Checks.map(({ TCP, AliasService }) => TCP ?? AliasService)
      assert.deepEqual(targets, host === undefined ? ['web'] : [`${host}:${PORT}`, 'web'])
    })
  }

  const OTHER = { address: '10.0.0.7' }
  const addresses: [
    rule: string,
    config: object,
    service: object,
    defaultAddress: string,
    address: string | undefined,
  ][] = [
    ['the default address', {}, {}, '10.0.0.1', '10.0.0.1'],
    ['its bind_address', { bind_address: '10.0.0.2' }, {}, '0.0.0.0', '10.0.0.2'],
    ['its bind_address without brackets', { bind_address: '[fd00::2]' }, {}, '0.0.0.0', 'fd00::2'],
    ['the address of the node for a wildcard', {}, {}, '0.0.0.0', undefined],
    ['the address of the node for an IPv6 wildcard', { bind_address: '::' }, {}, '10.0.0.1', undefined],
    ['the address of the node for wildcard ::0', { bind_address: '::0' }, {}, '10.0.0.1', undefined],
    ['the address of its service for a wildcard', {}, OTHER, '0.0.0.0', '10.0.0.7'],
    ['the default address before that of its service', {}, OTHER, '10.0.0.1', '10.0.0.1'],
  ]
  for (const [rule, config, service, defaultAddress, address] of addresses) {
    it(`has ${rule}`, () => {
      const registration = registered({ config }, service, defaultAddress)
      assert.equal(registration.Address, address)
      assert.equal('Address' in registration, address !== undefined)
    })
  }

  type Local = [address: string | undefined, host: string | undefined, port: number | undefined]
  const applications: [rule: string, config: object, service: object, local: Local][] = [
    ['the port of the service on the loopback', {}, OTHER, ['127.0.0.1:80', '127.0.0.1', 80]],
    [
      'local_service_address',
      { local_service_address: '10.0.0.8:8080' },
      {},
      ['10.0.0.8:8080', '10.0.0.8', 8080],
    ],
    [
      'local_service_address without a port of the service',
      { local_service_address: 'app.local:8080' },
      { port: 0 },
      ['app.local:8080', 'app.local', 8080],
    ],
    ['an IPv6 address', { local_service_address: '[::1]:8080' }, {}, ['[::1]:8080', '::1', 8080]],
    [
      'an IPv6 address and a separate port, without the fields of later versions',
      { local_service_address: '::1', local_service_port: 81 },
      {},
      ['::1', undefined, undefined],
    ],
    ['a Unix socket', { local_service_socket_path: '/run/x.sock' }, {}, [undefined, undefined, undefined]],
  ]
  for (const [rule, config, service, expected] of applications) {
    it(`forwards to ${rule}`, () => {
      const { Config, LocalServiceAddress, LocalServicePort } = registered({ config }, service).Proxy
      assert.deepEqual([Config['local_service_address'], LocalServiceAddress, LocalServicePort], expected)
    })
  }

  for (const config of [
    {},
    { bind_address: '10.0.0.2', local_connect_timeout_ms: 5 },
    { BindAddress: '10.0.0.2' },
    { LocalServiceAddress: '127.0.0.1:81' },
    { LocalServicePort: 81 },
    { BindPort: PORT, local_service_port: 81 },
  ]) {
    it(`is accepted by the built-in proxy with ${JSON.stringify(config)}`, () => {
      const { listener } = parseProxyConfig({ service: 'web', ...registered({ config }).Proxy.Config })
      const text = JSON.stringify(config)
      assert.deepEqual(
        [listener?.host, listener?.port, listener?.application],
        [
          text.includes('10.0.0.2') ? '10.0.0.2' : '10.0.0.1',
          PORT,
          { host: '127.0.0.1', port: text.includes('81') ? 81 : 80 },
        ],
      )
    })
  }

  const upstreams: [rule: string, upstream: object, request: object][] = [
    [
      'from the spelling of files',
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
      'from the spelling of the API',
      { DestinationName: 'db', LocalBindPort: 5_432, Config: { connect_timeout_ms: 5 } },
      { DestinationName: 'db', LocalBindPort: 5_432, Config: { connect_timeout_ms: 5 } },
    ],
    [
      'for a prepared query',
      { destination_type: 'prepared_query', destination_name: 'near-db', local_bind_port: 5_432 },
      { DestinationType: 'prepared_query', DestinationName: 'near-db', LocalBindPort: 5_432 },
    ],
  ]
  for (const [rule, upstream, request] of upstreams) {
    it(`has its upstreams in the spelling of the API, ${rule}`, () => {
      assert.deepEqual(registered({ upstreams: [upstream] }).Proxy.Upstreams, [request])
      assert.deepEqual(registered({ config: { upstreams: [upstream] } }).Proxy.Upstreams, [request])
    })
  }

  // The API drops these two keys of Consul 1.2 without an error.
  it('converts keys of an upstream that agents drop', () => {
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

  it('prefers the timeouts in the config of an upstream to those beside it', () => {
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

  const rejectedByAgents: [rule: string, upstreams: Json[]][] = [
    [
      'two local ports to one destination',
      [
        { destination_name: 'db', local_bind_port: 1 },
        { destination_name: 'db', destination_type: 'service', local_bind_port: 2 },
      ],
    ],
    ['a Unix socket', [{ destination_name: 'db', local_bind_socket_path: '/run/db.sock' }]],
  ]
  for (const [rule, upstreams] of rejectedByAgents) {
    it(`has upstreams in its configuration that agents reject: ${rule}`, () => {
      const { Config, Upstreams } = registered({ upstreams }).Proxy
      assert.deepEqual(Upstreams, [])
      assert.deepEqual(Config['upstreams'], upstreams)
      assert.equal(parseProxyConfig({ service: 'web', ...Config }).upstreams.length, upstreams.length)
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

  it('has its upstreams in order', () => {
    const names = ['c', 'a', 'b']
    const upstreams = names.map((destination_name, i) => ({ destination_name, local_bind_port: 100 + i }))
    assert.deepEqual(
      registered({ upstreams }).Proxy.Upstreams.map(({ DestinationName }) => DestinationName),
      names,
    )
  })
})
