import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { OptionError } from '../../src/index.js'
import { type ProxyConfig, parseProxyConfig } from '../../src/proxy.js'
import { readProxyConfig } from '../../src/proxy/settings.js'

const WEB = { service: 'web' }
const LISTENING = { ...WEB, bind_port: 8443, local_service_port: 8080 }
const DB = { destination_name: 'db', local_bind_port: 5432 }

/** Returns a configuration with one upstream. */
function withUpstream(upstream: unknown): object {
  return { ...WEB, upstreams: [upstream] }
}

describe('parseProxyConfig', () => {
  it('accepts a service alone, without a listener and upstreams', () => {
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

  it('reads every key of a public listener', () => {
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

  const applications: [keys: object, application: object][] = [
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
    // An agent fills in local_service_port, so the address takes precedence.
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
  for (const [keys, application] of applications) {
    it(`reads the address of the application from ${JSON.stringify(keys)}`, () => {
      const { listener } = parseProxyConfig({ ...WEB, bind_port: 8443, ...keys })
      assert.deepEqual(listener?.application, application)
    })
  }

  it('has no listener with port 0', () => {
    assert.equal(parseProxyConfig({ ...LISTENING, bind_port: 0 }).listener, undefined)
  })

  /** Returns a parsed upstream with default values. */
  const upstreamWith = (destination: object, rest: object = {}): object => ({
    destination: { datacenter: undefined, namespace: undefined, partition: undefined, ...destination },
    bind: { host: '127.0.0.1', port: 5432 },
    connectTimeoutMs: 10_000,
    idleTimeoutMs: undefined,
    ...rest,
  })
  const upstreams: [form: string, keys: object, upstream: object][] = [
    ['only the required keys', DB, upstreamWith({ service: 'db' })],
    [
      'all keys in snake_case',
      {
        ...DB,
        destination_type: 'service',
        destination_namespace: 'ns',
        destination_partition: 'ap',
        datacenter: 'dc2',
        local_bind_address: '127.0.0.9',
        config: { connect_timeout_ms: 100, idle_timeout_ms: 200 },
      },
      upstreamWith(
        { service: 'db', datacenter: 'dc2', namespace: 'ns', partition: 'ap' },
        { bind: { host: '127.0.0.9', port: 5432 }, connectTimeoutMs: 100, idleTimeoutMs: 200 },
      ),
    ],
    [
      'all keys in the spelling of an agent',
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
      upstreamWith({ query: 'nearest-db', datacenter: 'dc2' }, { connectTimeoutMs: 100 }),
    ],
    [
      'the empty values of an agent',
      {
        DestinationType: 'service',
        DestinationName: 'db',
        Datacenter: '',
        LocalBindPort: 5432,
        Config: null,
        MeshGateway: {},
      },
      upstreamWith({ service: 'db' }),
    ],
    [
      'a selection of instances',
      { ...DB, tags: ['primary', 'v2'], filter: 'Node.Meta.rack == "7"', near: '_agent' },
      upstreamWith({
        service: 'db',
        near: '_agent',
        tags: ['primary', 'v2'],
        filter: 'Node.Meta.rack == "7"',
      }),
    ],
    [
      'near in Config, the only place that an agent accepts for a prepared query',
      {
        DestinationType: 'prepared_query',
        DestinationName: 'db',
        LocalBindPort: 5432,
        Config: { near: 'node-1' },
      },
      upstreamWith({ query: 'db', near: 'node-1' }),
    ],
    [
      'the mode of mesh gateways',
      { ...DB, MeshGateway: { Mode: 'local' } },
      upstreamWith({ service: 'db', meshGateway: 'local' }),
    ],
    [
      'a Unix socket',
      { destination_name: 'db', local_bind_socket_path: '/run/db.sock', connect_timeout_ms: 100 },
      upstreamWith({ service: 'db' }, { bind: { path: '/run/db.sock' }, connectTimeoutMs: 100 }),
    ],
  ]
  for (const [form, keys, upstream] of upstreams) {
    it(`reads an upstream with ${form}`, () => {
      const parsed = parseProxyConfig(withUpstream(keys))
      assert.deepEqual(parsed.upstreams, [upstream])
      assert.deepEqual(parsed.warnings, [])
    })
  }

  const warnings: [config: object, warning: RegExp][] = [
    [{ ...WEB, protocol: 'http' }, /^protocol: unknown key, which has no effect$/],
    [{ ...WEB, bind_prot: 1 }, /^bind_prot: unknown key, which has no effect; did you mean bind_port\?$/],
    [{ ...WEB, constructor: 1 }, /^constructor: unknown key/],
    [JSON.parse('{"service":"web","__proto__":{"bind_port":1}}') as object, /^__proto__: unknown key/],
    [withUpstream({ ...DB, colour: 'red' }), /^upstreams\[0\]\.colour: unknown key/],
    [withUpstream({ ...DB, config: { limits: {} } }), /^upstreams\[0\]\.config\.limits: unknown key/],
    [
      withUpstream({ ...DB, destination_type: 'prepared_query', MeshGateway: { Mode: 'remote' } }),
      /^upstreams\[0\]\.mesh_gateway: has no effect on a prepared query/,
    ],
  ]
  for (const [config, warning] of warnings) {
    it(`warns: ${warning.source}`, () => {
      const parsed = parseProxyConfig(config)
      assert.equal(parsed.warnings.length, 1)
      assert.match(parsed.warnings[0] ?? '', warning)
    })
  }

  const name = 'a Consul name (1 to 255 characters, no slash, no control character)'
  const positive = 'a positive number of milliseconds'
  const port = 'a port from 0 to 65535'
  const realPort = 'a port from 1 to 65535'
  const path = 'an absolute path of at most 107 bytes'
  const NO_NAME =
    'upstreams[0].destination_name: expected the name of a service or a prepared query, got none'
  const NO_APPLICATION =
    'local_service_port: expected the port of the application, or local_service_socket_path, got neither'
  const invalidKeys: [keys: object, message: string][] = [
    [{ bind_port: '8443x' }, `bind_port: expected ${port}, got the string "8443x"`],
    [{ bind_port: '65536' }, `bind_port: expected ${port}, got the number 65536`],
    [{ bind_port: ' 1' }, `bind_port: expected ${port}, got the string " 1"`],
    [{ bind_port: 65_536 }, `bind_port: expected ${port}, got the number 65536`],
    [{ bind_port: 8443.5 }, `bind_port: expected ${port}, got the number 8443.5`],
    [{ bind_address: 'a b' }, 'bind_address: expected an address or a host name, got the string "a b"'],
    [{ bind_port: 8443 }, NO_APPLICATION],
    [{ bind_port: 8443, local_service_address: '127.0.0.1' }, NO_APPLICATION],
    [
      { local_service_address: '127.0.0.1:99999' },
      'local_service_address: expected host:port or [ipv6]:port, got the string "127.0.0.1:99999"',
    ],
    [
      { local_service_address: '[x y]' },
      'local_service_address: expected an address or a host name, got the string "x y"',
    ],
    [{ local_service_port: 0 }, `local_service_port: expected ${realPort}, got the number 0`],
    [
      { local_service_socket_path: 'app.sock' },
      `local_service_socket_path: expected ${path}, got the string "app.sock"`,
    ],
    [
      { local_service_socket_path: `/${'x'.repeat(107)}` },
      `local_service_socket_path: expected ${path}, got the string "/${'x'.repeat(63)}"`,
    ],
    [{ local_connect_timeout_ms: 0 }, `local_connect_timeout_ms: expected ${positive}, got the number 0`],
    [{ handshake_timeout_ms: '1s' }, `handshake_timeout_ms: expected ${positive}, got the string "1s"`],
    [{ idle_timeout_ms: -1 }, `idle_timeout_ms: expected ${positive}, got the number -1`],
    [{ drain_timeout_ms: true }, `drain_timeout_ms: expected ${positive}, got the boolean true`],
    [
      { max_inbound_connections: 0 },
      'max_inbound_connections: expected a whole number above 0, got the number 0',
    ],
    [
      { max_inbound_handshakes: 1.5 },
      'max_inbound_handshakes: expected a whole number above 0, got the number 1.5',
    ],
    [{ bind_port: 1, BindPort: 2 }, 'BindPort: expected one spelling of a key, got two'],
    [{ upstreams: {} }, 'upstreams: expected a list, got an object'],
    [
      { upstreams: [DB, { ...DB, destination_name: 'other' }] },
      'upstreams[1].local_bind_port: expected a unique address, got 127.0.0.1:5432, which upstreams[0] uses',
    ],
  ]
  const invalidUpstreamKeys: [keys: object, message: string][] = [
    [{ local_bind_port: 'x' }, `local_bind_port: expected ${port}, got the string "x"`],
    [
      { local_bind_address: '/' },
      'local_bind_address: expected an address or a host name, got the string "/"',
    ],
    [
      { destination_type: 'query' },
      'destination_type: expected service or prepared_query, got the string "query"',
    ],
    [{ destination_peer: 'other' }, 'destination_peer: expected no peer: peering is not supported, got one'],
    [{ tags: 'primary' }, 'tags: expected a list of strings, got the string "primary"'],
    [{ tag: ['primary'] }, 'tag: expected one of tags, filter, near, got an unknown key'],
    [{ config: { fitler: 'a' } }, 'config.fitler: expected one of tags, filter, near, got an unknown key'],
    [
      { destination_type: 'prepared_query', filter: 'a' },
      'filter: expected destination_type service, got prepared_query',
    ],
    [
      { local_bind_socket_path: '/run/db.sock' },
      'local_bind_socket_path: expected a path or a port, got both',
    ],
    [
      { config: { connect_timeout_ms: 'soon' } },
      `config.connect_timeout_ms: expected ${positive}, got the string "soon"`,
    ],
    [{ config: [] }, 'config: expected an object, got an array'],
  ]
  const invalid: [config: unknown, message: string][] = [
    [undefined, 'the configuration: expected an object, got undefined'],
    [[], 'the configuration: expected an object, got an array'],
    [{}, 'service: expected a non-empty string, got undefined'],
    [{ service: 7 }, 'service: expected a non-empty string, got the number 7'],
    [{ service: 'a/b' }, `service: expected ${name}, got the string "a/b"`],
    [
      { ...LISTENING, local_service_socket_path: '/run/app.sock' },
      'local_service_socket_path: expected a path or a port, got both',
    ],
    [withUpstream('db'), 'upstreams[0]: expected an object, got the string "db"'],
    [withUpstream({ local_bind_port: 1 }), NO_NAME],
    [
      withUpstream({ destination_nam: 'db', local_bind_port: 1 }),
      `${NO_NAME}; upstreams[0].destination_nam: unknown key, which has no effect; did you mean destination_name?`,
    ],
    [withUpstream({ destination_name: '', local_bind_port: 1 }), NO_NAME],
    [
      withUpstream({ destination_name: 'db' }),
      `upstreams[0].local_bind_port: expected ${realPort}, got none`,
    ],
    ...invalidKeys.map(([keys, message]): [object, string] => [{ ...WEB, ...keys }, message]),
    ...invalidUpstreamKeys.map(([keys, message]): [object, string] => [
      withUpstream({ ...DB, ...keys }),
      `upstreams[0].${message}`,
    ]),
  ]
  for (const [config, message] of invalid) {
    it(`rejects ${message}`, () => {
      assert.throws(() => parseProxyConfig(config), { name: 'OptionError', message })
    })
  }

  it('reads digits in a string as a number, and an empty string as absent', () => {
    const db = { local_bind_port: 5432, connect_timeout_ms: 100 }
    const numbers = {
      bind_port: 8443,
      local_service_port: 8080,
      local_connect_timeout_ms: 2_000,
      max_inbound_connections: 100,
      drain_timeout_ms: 5_000,
    }
    const quote = (values: object): object =>
      Object.fromEntries(Object.entries(values).map(([key, value]) => [key, String(value)]))
    const quoted = {
      ...WEB,
      namespace: '',
      bind_address: '',
      ...quote(numbers),
      upstreams: [{ destination_name: 'db', local_bind_address: '', ...quote(db) }],
    }
    assert.deepEqual(
      parseProxyConfig(quoted),
      parseProxyConfig({ ...WEB, ...numbers, upstreams: [{ destination_name: 'db', ...db }] }),
    )
  })

  it('throws only OptionErrors for any JSON', () => {
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

describe('readProxyConfig', () => {
  const CACHE = { destination_name: 'cache', local_bind_port: 6379 }
  const whole = { ...LISTENING, upstreams: [DB, CACHE] }
  const good = parseProxyConfig(whole)
  const [, cache] = good.upstreams
  const NOT_SERVED = 'this upstream is not served'
  const NO_LISTENER = 'there is no public listener'
  const DEFAULT = 'the default applies: 10000'

  const problems: [config: object, place: string, effect: string, expected: Partial<ProxyConfig>][] = [
    [
      { ...whole, upstreams: [{ ...DB, local_bind_port: 'x' }, CACHE] },
      'upstreams[0].local_bind_port',
      NOT_SERVED,
      { upstreams: [cache!] },
    ],
    [{ ...whole, upstreams: ['db', CACHE] }, 'upstreams[0]', NOT_SERVED, { upstreams: [cache!] }],
    [
      { ...whole, upstreams: [DB, CACHE, { ...DB, destination_name: 'other' }] },
      'upstreams[2].local_bind_port',
      NOT_SERVED,
      {},
    ],
    [
      { ...whole, upstreams: [DB, CACHE, { ...DB, DestinationName: 'other' }] },
      'upstreams[2].DestinationName',
      NOT_SERVED,
      {},
    ],
    [
      { ...whole, upstreams: [DB, CACHE, { ...DB, destination_peer: 'b' }] },
      'upstreams[2].destination_peer',
      NOT_SERVED,
      {},
    ],
    [
      { ...whole, upstreams: [{ ...DB, tag: ['a'] }, CACHE] },
      'upstreams[0].tag',
      NOT_SERVED,
      { upstreams: [cache!] },
    ],
    [
      { ...whole, upstreams: [{ ...DB, config: { connect_timeout_ms: 'soon' } }, CACHE] },
      'upstreams[0].config.connect_timeout_ms',
      DEFAULT,
      {},
    ],
    [{ ...whole, handshake_timeout_ms: 'soon' }, 'handshake_timeout_ms', DEFAULT, {}],
    [{ ...whole, max_inbound_connections: -1 }, 'max_inbound_connections', 'the default applies: none', {}],
    [{ ...whole, drain_timeout_ms: true }, 'drain_timeout_ms', DEFAULT, {}],
    [{ ...whole, bind_address: 'a b' }, 'bind_address', NO_LISTENER, { listener: undefined }],
    [{ ...whole, bind_port: 99_999 }, 'bind_port', NO_LISTENER, { listener: undefined }],
    [{ ...whole, local_service_port: undefined }, 'local_service_port', NO_LISTENER, { listener: undefined }],
  ]
  for (const [config, place, effect, expected] of problems) {
    it(`reports an invalid ${place}, and ${effect}`, () => {
      const parsed = readProxyConfig(config, undefined)
      const { warnings } = parsed
      assert.deepEqual({ ...parsed, problems: [] }, { ...good, warnings, ...expected })
      assert.deepEqual(
        parsed.problems.map((problem) => [problem.place, problem.effect]),
        [[place, effect]],
      )
      assert.match(parsed.problems[0]?.message ?? '', /^expected .*, got /)
    })
  }

  it('keeps the last valid public listener of the same service', () => {
    const invalid = { ...whole, bind_address: 'a b' }
    assert.deepEqual(readProxyConfig(invalid, good).listener, good.listener)
    assert.equal(readProxyConfig({ ...invalid, service: 'shop' }, good).listener, undefined)
    // Port 0 removes the listener, and is valid.
    assert.equal(readProxyConfig({ ...whole, bind_port: 0 }, good).listener, undefined)
  })

  const unusable: [config: unknown, option: string][] = [
    [[], 'the configuration'],
    [{}, 'service'],
    [{ ...whole, namespace: 'a/b' }, 'namespace'],
    [{ ...whole, upstreams: 'db' }, 'upstreams'],
    [{ ...whole, BindPort: 1 }, 'BindPort'],
  ]
  for (const [config, option] of unusable) {
    it(`throws for an invalid ${option}, without which no proxy can run`, () => {
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
