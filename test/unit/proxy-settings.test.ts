import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { OptionError } from '../../src/index.js'
import { type ProxyConfig, parseProxyConfig } from '../../src/proxy.js'
import { readProxyConfig } from '../../src/proxy/settings.js'

const WEB = { service: 'web' }
const LISTENING = { ...WEB, bind_port: 8443, local_service_port: 8080 }
const DB = { destination_name: 'db', local_bind_port: 5432 }

/** A configuration with one upstream. */
function withUpstream(upstream: unknown): object {
  return { ...WEB, upstreams: [upstream] }
}

describe('parseProxyConfig', () => {
  it('takes a service alone, which lets nobody in and reaches nothing', () => {
    const expected: ProxyConfig = {
      service: 'web',
      namespace: undefined,
      partition: undefined,
      listener: undefined,
      upstreams: [],
      drainTimeoutMs: 10_000,
      warnings: [],
      problems: [],
    }
    assert.deepEqual(parseProxyConfig(WEB), expected)
  })

  it('fills in what is left out of a public listener', () => {
    assert.deepEqual(parseProxyConfig(LISTENING).listener, {
      host: '0.0.0.0',
      port: 8443,
      application: { host: '127.0.0.1', port: 8080 },
      connectTimeoutMs: 1_000,
      handshakeTimeoutMs: 10_000,
      maxConnections: undefined,
      maxHandshakes: 512,
      idleTimeoutMs: undefined,
    })
  })

  it('takes every key of a public listener', () => {
    const { listener, drainTimeoutMs } = parseProxyConfig({
      ...LISTENING,
      bind_address: '10.0.0.1',
      local_service_address: '127.0.0.2',
      local_connect_timeout_ms: 2_000,
      handshake_timeout_ms: 3_000,
      max_inbound_connections: 100,
      max_inbound_handshakes: 10,
      idle_timeout_ms: 4_000,
      drain_timeout_ms: 5_000,
    })
    assert.deepEqual(listener, {
      host: '10.0.0.1',
      port: 8443,
      application: { host: '127.0.0.2', port: 8080 },
      connectTimeoutMs: 2_000,
      handshakeTimeoutMs: 3_000,
      maxConnections: 100,
      maxHandshakes: 10,
      idleTimeoutMs: 4_000,
    })
    assert.equal(drainTimeoutMs, 5_000)
  })

  const applications: [written: object, application: object][] = [
    [{ local_service_port: 80 }, { host: '127.0.0.1', port: 80 }],
    [
      { local_service_address: 'app.local', local_service_port: 80 },
      { host: 'app.local', port: 80 },
    ],
    [{ local_service_address: ':9000' }, { host: '127.0.0.1', port: 9000 }],
    [{ local_service_address: '127.0.0.1:9000' }, { host: '127.0.0.1', port: 9000 }],
    [{ local_service_address: '[::1]:9000' }, { host: '::1', port: 9000 }],
    [
      { local_service_address: '::1', local_service_port: 80 },
      { host: '::1', port: 80 },
    ],
    [
      { local_service_address: '[::1]', local_service_port: 80 },
      { host: '::1', port: 80 },
    ],
    // What was written for the proxy comes before what an agent fills in.
    [
      { local_service_address: '127.0.0.1:9000', local_service_port: 80 },
      { host: '127.0.0.1', port: 9000 },
    ],
    [{ local_service_socket_path: '/run/app.sock' }, { path: '/run/app.sock' }],
    [
      { LocalServiceAddress: 'app', LocalServicePort: 80 },
      { host: 'app', port: 80 },
    ],
  ]
  for (const [written, application] of applications) {
    it(`finds the application of ${JSON.stringify(written)}`, () => {
      const { listener } = parseProxyConfig({ ...WEB, bind_port: 8443, ...written })
      assert.deepEqual(listener?.application, application)
    })
  }

  it('lets nobody in at port 0', () => {
    assert.equal(parseProxyConfig({ ...LISTENING, bind_port: 0 }).listener, undefined)
  })

  const upstreams: [what: string, written: object, upstream: object][] = [
    [
      'the least that there can be',
      DB,
      {
        target: { service: 'db', datacenter: undefined, namespace: undefined, partition: undefined },
        bind: { host: '127.0.0.1', port: 5432 },
        connectTimeoutMs: 10_000,
        idleTimeoutMs: undefined,
      },
    ],
    [
      'everything, in snake_case',
      {
        ...DB,
        destination_type: 'service',
        destination_namespace: 'ns',
        destination_partition: 'ap',
        datacenter: 'dc2',
        local_bind_address: '127.0.0.9',
        config: { connect_timeout_ms: 100, idle_timeout_ms: 200 },
      },
      {
        target: { service: 'db', datacenter: 'dc2', namespace: 'ns', partition: 'ap' },
        bind: { host: '127.0.0.9', port: 5432 },
        connectTimeoutMs: 100,
        idleTimeoutMs: 200,
      },
    ],
    [
      'everything, as an agent writes it',
      {
        DestinationType: 'prepared_query',
        DestinationNamespace: '',
        DestinationName: 'nearest-db',
        Datacenter: 'dc2',
        LocalBindAddress: '',
        LocalBindPort: 5432,
        Config: { connect_timeout_ms: 100 },
        MeshGateway: { Mode: '' },
      },
      {
        target: { query: 'nearest-db', datacenter: 'dc2', namespace: undefined, partition: undefined },
        bind: { host: '127.0.0.1', port: 5432 },
        connectTimeoutMs: 100,
        idleTimeoutMs: undefined,
      },
    ],
    [
      'what an agent writes where nothing was said',
      {
        DestinationType: 'service',
        DestinationName: 'db',
        Datacenter: '',
        LocalBindPort: 5432,
        Config: null,
        MeshGateway: {},
      },
      {
        target: { service: 'db', datacenter: undefined, namespace: undefined, partition: undefined },
        bind: { host: '127.0.0.1', port: 5432 },
        connectTimeoutMs: 10_000,
        idleTimeoutMs: undefined,
      },
    ],
    [
      'some of the instances',
      { ...DB, tags: ['primary', 'v2'], filter: 'Node.Meta.rack == "7"', near: '_agent' },
      {
        target: {
          service: 'db',
          datacenter: undefined,
          namespace: undefined,
          partition: undefined,
          near: '_agent',
          tags: ['primary', 'v2'],
          filter: 'Node.Meta.rack == "7"',
        },
        bind: { host: '127.0.0.1', port: 5432 },
        connectTimeoutMs: 10_000,
        idleTimeoutMs: undefined,
      },
    ],
    [
      'the nearest result of a prepared query, in the only place that an agent accepts',
      {
        DestinationType: 'prepared_query',
        DestinationName: 'db',
        LocalBindPort: 5432,
        Config: { near: 'node-1' },
      },
      {
        target: {
          query: 'db',
          datacenter: undefined,
          namespace: undefined,
          partition: undefined,
          near: 'node-1',
        },
        bind: { host: '127.0.0.1', port: 5432 },
        connectTimeoutMs: 10_000,
        idleTimeoutMs: undefined,
      },
    ],
    [
      'a unix socket',
      { destination_name: 'db', local_bind_socket_path: '/run/db.sock', connect_timeout_ms: 100 },
      {
        target: { service: 'db', datacenter: undefined, namespace: undefined, partition: undefined },
        bind: { path: '/run/db.sock' },
        connectTimeoutMs: 100,
        idleTimeoutMs: undefined,
      },
    ],
  ]
  for (const [what, written, upstream] of upstreams) {
    it(`reads an upstream: ${what}`, () => {
      const parsed = parseProxyConfig(withUpstream(written))
      assert.deepEqual(parsed.upstreams, [upstream])
      assert.deepEqual(parsed.warnings, [])
    })
  }

  const warned: [config: object, warning: RegExp][] = [
    [{ ...WEB, protocol: 'http' }, /^protocol: no such key; it has no effect$/],
    [{ ...WEB, bind_prot: 1 }, /^bind_prot: no such key; it has no effect; did you mean bind_port\?$/],
    [{ ...WEB, constructor: 1 }, /^constructor: no such key/],
    [JSON.parse('{"service":"web","__proto__":{"bind_port":1}}') as object, /^__proto__: no such key/],
    [withUpstream({ ...DB, colour: 'red' }), /^upstreams\[0\]\.colour: no such key/],
    [withUpstream({ ...DB, config: { limits: {} } }), /^upstreams\[0\]\.config\.limits: no such key/],
    [
      withUpstream({ ...DB, mesh_gateway: { mode: 'local' } }),
      /^upstreams\[0\]\.mesh_gateway: gateways are not/,
    ],
    [
      withUpstream({ ...DB, MeshGateway: { Mode: 'remote' } }),
      /^upstreams\[0\]\.mesh_gateway: gateways are not/,
    ],
  ]
  for (const [config, warning] of warned) {
    it(`warns: ${warning.source}`, () => {
      const { warnings } = parseProxyConfig(config)
      assert.equal(warnings.length, 1)
      assert.match(warnings[0] ?? '', warning)
    })
  }

  const name = 'a Consul name (1 to 255 characters, no slash, no control character)'
  const positive = 'a positive number of milliseconds'
  const port = 'a port from 0 to 65535'
  const realPort = 'a port from 1 to 65535'
  const path = 'an absolute path of at most 107 bytes'
  const wrong: [config: unknown, message: string][] = [
    [undefined, 'the configuration: expected an object, got undefined'],
    [[], 'the configuration: expected an object, got an array'],
    [{}, 'service: expected a non-empty string, got undefined'],
    [{ service: 7 }, 'service: expected a non-empty string, got the number 7'],
    [{ service: 'a/b' }, `service: expected ${name}, got the string "a/b"`],
    [{ ...WEB, bind_port: '8443x' }, `bind_port: expected ${port}, got the string "8443x"`],
    [{ ...WEB, bind_port: '65536' }, `bind_port: expected ${port}, got the number 65536`],
    [{ ...WEB, bind_port: ' 1' }, `bind_port: expected ${port}, got the string " 1"`],
    [{ ...WEB, bind_port: 65_536 }, `bind_port: expected ${port}, got the number 65536`],
    [{ ...WEB, bind_port: 8443.5 }, `bind_port: expected ${port}, got the number 8443.5`],
    [
      { ...WEB, bind_address: 'a b' },
      'bind_address: expected an address or a host name, got the string "a b"',
    ],
    [
      { ...WEB, bind_port: 8443 },
      'local_service_port: expected the port of the application, or local_service_socket_path, got neither',
    ],
    [
      { ...WEB, bind_port: 8443, local_service_address: '127.0.0.1' },
      'local_service_port: expected the port of the application, or local_service_socket_path, got neither',
    ],
    [
      { ...WEB, local_service_address: '127.0.0.1:99999' },
      'local_service_address: expected host:port or [ipv6]:port, got the string "127.0.0.1:99999"',
    ],
    [
      { ...WEB, local_service_address: '[x y]' },
      'local_service_address: expected an address or a host name, got the string "x y"',
    ],
    [
      { ...WEB, local_service_port: 0 },
      `local_service_port: expected ${realPort}, got the number 0, or none`,
    ],
    [
      { ...WEB, local_service_socket_path: 'app.sock' },
      `local_service_socket_path: expected ${path}, got the string "app.sock"`,
    ],
    [
      { ...WEB, local_service_socket_path: `/${'x'.repeat(107)}` },
      `local_service_socket_path: expected ${path}, got the string "/${'x'.repeat(63)}"`,
    ],
    [
      { ...LISTENING, local_service_socket_path: '/run/app.sock' },
      'local_service_socket_path: expected a path or a port, got both',
    ],
    [
      { ...WEB, local_connect_timeout_ms: 0 },
      `local_connect_timeout_ms: expected ${positive}, got the number 0`,
    ],
    [
      { ...WEB, handshake_timeout_ms: '1s' },
      `handshake_timeout_ms: expected ${positive}, got the string "1s"`,
    ],
    [{ ...WEB, idle_timeout_ms: -1 }, `idle_timeout_ms: expected ${positive}, got the number -1`],
    [{ ...WEB, drain_timeout_ms: true }, `drain_timeout_ms: expected ${positive}, got the boolean true`],
    [
      { ...WEB, max_inbound_connections: 0 },
      'max_inbound_connections: expected a whole number above 0, got the number 0',
    ],
    [
      { ...WEB, max_inbound_handshakes: 1.5 },
      'max_inbound_handshakes: expected a whole number above 0, got the number 1.5',
    ],
    [{ ...WEB, bind_port: 1, BindPort: 2 }, 'BindPort: expected one spelling of a key, got two'],
    [{ ...WEB, upstreams: {} }, 'upstreams: expected a list, got an object'],
    [withUpstream('db'), 'upstreams[0]: expected an object, got the string "db"'],
    [
      withUpstream({ local_bind_port: 1 }),
      'upstreams[0].destination_name: expected the name of a service or a prepared query, got none',
    ],
    [
      withUpstream({ destination_nam: 'db', local_bind_port: 1 }),
      'upstreams[0].destination_name: expected the name of a service or a prepared query, got none; ' +
        'upstreams[0].destination_nam: no such key; it has no effect; did you mean destination_name?',
    ],
    [
      withUpstream({ destination_name: '', local_bind_port: 1 }),
      'upstreams[0].destination_name: expected the name of a service or a prepared query, got none',
    ],
    [
      withUpstream({ destination_name: 'db' }),
      `upstreams[0].local_bind_port: expected ${realPort}, got the number 0, or none`,
    ],
    [
      withUpstream({ ...DB, local_bind_port: 'x' }),
      `upstreams[0].local_bind_port: expected ${port}, got the string "x"`,
    ],
    [
      withUpstream({ ...DB, local_bind_address: '/' }),
      'upstreams[0].local_bind_address: expected an address or a host name, got the string "/"',
    ],
    [
      withUpstream({ ...DB, destination_type: 'query' }),
      'upstreams[0].destination_type: expected service or prepared_query, got the string "query"',
    ],
    [
      withUpstream({ ...DB, destination_peer: 'other' }),
      'upstreams[0].destination_peer: expected no peer: peering is not supported, got one',
    ],
    [
      withUpstream({ ...DB, tags: 'primary' }),
      'upstreams[0].tags: expected a list of strings, got the string "primary"',
    ],
    [
      withUpstream({ ...DB, tag: ['primary'] }),
      'upstreams[0].tag: expected one of tags, filter, near, got an unknown key',
    ],
    [
      withUpstream({ ...DB, config: { fitler: 'a' } }),
      'upstreams[0].config.fitler: expected one of tags, filter, near, got an unknown key',
    ],
    [
      withUpstream({ ...DB, destination_type: 'prepared_query', filter: 'a' }),
      'upstreams[0].filter: expected destination_type service, got prepared_query',
    ],
    [
      withUpstream({ ...DB, local_bind_socket_path: '/run/db.sock' }),
      'upstreams[0].local_bind_socket_path: expected a path or a port, got both',
    ],
    [
      withUpstream({ ...DB, config: { connect_timeout_ms: 'soon' } }),
      `upstreams[0].config.connect_timeout_ms: expected ${positive}, got the string "soon"`,
    ],
    [withUpstream({ ...DB, config: [] }), 'upstreams[0].config: expected an object, got an array'],
    [
      { ...WEB, upstreams: [DB, { ...DB, destination_name: 'other' }] },
      'upstreams[1].local_bind_port: expected an address of its own, got that of upstreams[0], 127.0.0.1:5432',
    ],
  ]
  for (const [config, message] of wrong) {
    it(`refuses: ${message}`, () => {
      assert.throws(() => parseProxyConfig(config), { name: 'OptionError', message })
    })
  }

  it('reads digits in a string as a number, and an empty string as absent', () => {
    const quoted = {
      service: 'web',
      namespace: '',
      bind_address: '',
      bind_port: '8443',
      local_service_port: '8080',
      local_connect_timeout_ms: '2000',
      max_inbound_connections: '100',
      drain_timeout_ms: '5000',
      upstreams: [
        {
          destination_name: 'db',
          local_bind_address: '',
          local_bind_port: '5432',
          connect_timeout_ms: '100',
        },
      ],
    }
    const numbers = {
      service: 'web',
      bind_port: 8443,
      local_service_port: 8080,
      local_connect_timeout_ms: 2_000,
      max_inbound_connections: 100,
      drain_timeout_ms: 5_000,
      upstreams: [{ destination_name: 'db', local_bind_port: 5432, connect_timeout_ms: 100 }],
    }
    assert.deepEqual(parseProxyConfig(quoted), parseProxyConfig(numbers))
  })

  it('throws nothing but OptionErrors, whatever it is given', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const config: unknown = isObject(value) ? { ...WEB, upstreams: [value], ...value } : value
        try {
          parseProxyConfig(config)
        } catch (error) {
          assert.ok(error instanceof OptionError)
        }
      }),
    )
  })
})

describe('readProxyConfig: a wrong value costs what it belongs to', () => {
  const CACHE = { destination_name: 'cache', local_bind_port: 6379 }
  const whole = { ...LISTENING, upstreams: [DB, CACHE] }
  const good = parseProxyConfig(whole)
  const [db, cache] = good.upstreams
  const notServed = 'this upstream is not served'

  const costs: [config: object, place: string, effect: string, expected: Partial<ProxyConfig>][] = [
    [
      { ...whole, upstreams: [{ ...DB, local_bind_port: 'x' }, CACHE] },
      'upstreams[0].local_bind_port',
      notServed,
      { upstreams: [cache!] },
    ],
    [{ ...whole, upstreams: ['db', CACHE] }, 'upstreams[0]', notServed, { upstreams: [cache!] }],
    [
      { ...whole, upstreams: [DB, CACHE, { ...DB, destination_name: 'other' }] },
      'upstreams[2].local_bind_port',
      notServed,
      {},
    ],
    [
      { ...whole, upstreams: [DB, CACHE, { ...DB, DestinationName: 'other' }] },
      'upstreams[2].DestinationName',
      notServed,
      {},
    ],
    [
      { ...whole, upstreams: [DB, CACHE, { ...DB, destination_peer: 'b' }] },
      'upstreams[2].destination_peer',
      notServed,
      {},
    ],
    [
      { ...whole, upstreams: [{ ...DB, tag: ['a'] }, CACHE] },
      'upstreams[0].tag',
      notServed,
      { upstreams: [cache!] },
    ],
    [
      { ...whole, upstreams: [{ ...DB, config: { connect_timeout_ms: 'soon' } }, CACHE] },
      'upstreams[0].config.connect_timeout_ms',
      'the default applies: 10000',
      {},
    ],
    [{ ...whole, handshake_timeout_ms: 'soon' }, 'handshake_timeout_ms', 'the default applies: 10000', {}],
    [{ ...whole, max_inbound_connections: -1 }, 'max_inbound_connections', 'the default applies: none', {}],
    [{ ...whole, drain_timeout_ms: true }, 'drain_timeout_ms', 'the default applies: 10000', {}],
    [
      { ...whole, bind_address: 'a b' },
      'bind_address',
      'there is no public listener',
      { listener: undefined },
    ],
    [{ ...whole, bind_port: 99_999 }, 'bind_port', 'there is no public listener', { listener: undefined }],
    [
      { ...whole, local_service_port: undefined },
      'local_service_port',
      'there is no public listener',
      { listener: undefined },
    ],
  ]
  for (const [config, place, effect, expected] of costs) {
    it(`${place}: ${effect}`, () => {
      const { problems, warnings: _warnings, ...read } = readProxyConfig(config, undefined)
      const { problems: _none, warnings: _noWarnings, ...rest } = good
      assert.deepEqual(read, { ...rest, ...expected })
      assert.deepEqual(
        problems.map((problem) => [problem.place, problem.effect]),
        [[place, effect]],
      )
      assert.match(problems[0]?.message ?? '', /^expected .*, got /)
    })
  }

  it('keeps the last good public listener of the same service', () => {
    const wrong = { ...whole, bind_address: 'a b' }
    assert.deepEqual(readProxyConfig(wrong, good).listener, good.listener)
    assert.equal(readProxyConfig({ ...wrong, service: 'shop' }, good).listener, undefined)
    // A listener that is taken away is no mistake.
    assert.equal(readProxyConfig({ ...whole, bind_port: 0 }, good).listener, undefined)
    assert.deepEqual(db?.bind, { host: '127.0.0.1', port: 5432 })
  })

  const unusable: [config: unknown, option: string][] = [
    [[], 'the configuration'],
    [{}, 'service'],
    [{ ...whole, namespace: 'a/b' }, 'namespace'],
    [{ ...whole, upstreams: 'db' }, 'upstreams'],
    [{ ...whole, BindPort: 1 }, 'BindPort'],
  ]
  for (const [config, option] of unusable) {
    it(`throws where no proxy can be run: ${option}`, () => {
      assert.throws(
        () => readProxyConfig(config, good),
        (error) => error instanceof OptionError && error.option === option,
      )
    })
  }
})

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
