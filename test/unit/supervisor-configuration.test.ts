import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import {
  type Configuration,
  combine,
  readConfiguration,
} from '../../examples/supervisor/src/configuration/configuration.js'
import {
  type ServiceDefinition,
  readDefinition,
} from '../../examples/supervisor/src/configuration/definition.js'
import {
  ConfigurationError,
  describe as describeValue,
} from '../../examples/supervisor/src/configuration/error.js'
import { keysOf } from '../../examples/supervisor/src/configuration/keys.js'
import {
  type ManagedBlock,
  adminArgs,
  proxyConfigOf,
} from '../../examples/supervisor/src/configuration/managed.js'
import { type Json, parseJson } from '../../examples/supervisor/src/configuration/parse.js'
import { toRequest, upstreamRequest } from '../../examples/supervisor/src/configuration/request.js'

const PATH = '/etc/connect.d/web.json'

/** Combines files with these contents, in this order. */
function combined(...contents: object[]): Configuration {
  return combine(
    contents.map((content, i) => ({ path: `/etc/connect.d/${i}.json`, content: content as Json })),
  )
}

/** Reads the content of one file. */
function configOf(content: object): Configuration {
  return combine([{ path: PATH, content: content as Json }])
}

/** Reads a service, with other files after its own. */
function serviceOf(service: object, ...laterFiles: object[]): ServiceDefinition {
  const { services } = combined({ service }, ...laterFiles)
  assert.equal(services.length, 1)
  return services[0]!
}

/** Reads the managed block of the service `web`, with other files after its own. */
function managedOf(proxy: unknown, ...laterFiles: object[]): ManagedBlock {
  const { managed } = serviceOf({ name: 'web', port: 80, connect: { proxy } }, ...laterFiles)
  assert.ok(managed)
  return managed
}

/** Returns the body of the registration of a service. */
function bodyOf(service: object): Json {
  return serviceOf(service).body
}

/** Returns a file with a service `web` and a managed proxy. */
function web(proxy: unknown, service: object = {}): object {
  return { service: { name: 'web', port: 80, ...service, connect: { proxy } } }
}

const FOLDER = '/etc/connect.d'

/** The managed block of `connect { proxy {} }`. */
const EMPTY_BLOCK: ManagedBlock = {
  command: undefined,
  folder: undefined,
  config: {},
  upstreams: [],
  tcpCheckAddress: undefined,
  disableTcpCheck: undefined,
  bindPort: undefined,
}

describe('supervisor: a configuration', () => {
  it('has defaults', () => {
    assert.deepEqual(combined(), {
      services: [],
      defaults: EMPTY_BLOCK,
      ports: { min: 20_000, max: 20_255 },
      bindAddress: undefined,
      isBindTemplate: false,
      allowManagedRoot: false,
      allowManagedApiRegistration: false,
      dataDir: undefined,
      logLevel: undefined,
      logJson: undefined,
      warnings: [],
    })
  })

  it('reads all keys of an agent for managed proxies', () => {
    const { services, defaults, ...rest } = configOf({
      connect: {
        enabled: true,
        proxy: { allow_managed_root: true, allow_managed_api_registration: true },
        proxy_defaults: { exec_mode: 'daemon', daemon_command: ['/usr/bin/proxy', '-x'], config: { a: 1 } },
      },
      ports: { proxy_min_port: 21_000, proxy_max_port: 21_001, dns: 8600 },
      data_dir: '/var/lib/connect',
      log_level: 'debug',
      log_json: true,
      bind_addr: '10.0.0.1',
      node_name: 'n',
      telemetry: [{}, {}],
    })
    assert.deepEqual(services, [])
    assert.deepEqual(defaults, {
      ...EMPTY_BLOCK,
      command: ['/usr/bin/proxy', '-x'],
      folder: FOLDER,
      config: { a: 1 },
    })
    assert.deepEqual(rest, {
      ports: { min: 21_000, max: 21_001 },
      bindAddress: '10.0.0.1',
      isBindTemplate: false,
      allowManagedRoot: true,
      allowManagedApiRegistration: true,
      dataDir: '/var/lib/connect',
      logLevel: 'debug',
      logJson: true,
      warnings: [],
    })
  })

  it('may use the spelling of the API', () => {
    const configuration = configOf({
      Connect: {
        Proxy: { AllowManagedRoot: true },
        ProxyDefaults: { DaemonCommand: ['/x'], Config: { a: 1 } },
      },
      Ports: { ProxyMinPort: 1, ProxyMaxPort: 2 },
      DataDir: '/d',
      BindAddr: '::1',
    })
    assert.deepEqual(configuration.ports, { min: 1, max: 2 })
    assert.deepEqual(configuration.defaults, {
      ...EMPTY_BLOCK,
      command: ['/x'],
      folder: FOLDER,
      config: { a: 1 },
    })
    assert.deepEqual(
      [configuration.allowManagedRoot, configuration.dataDir, configuration.bindAddress],
      [true, '/d', '::1'],
    )
  })

  it('collects the services of all files in order', () => {
    const { services } = combined(
      { services: [{ name: 'b' }, { name: 'a' }] },
      { service: { name: 'd' }, services: [{ name: 'c' }] },
      { services: { name: 'e' } },
    )
    assert.deepEqual(
      services.map(({ id, origin }) => [id, origin]),
      [
        ['b', '/etc/connect.d/0.json'],
        ['a', '/etc/connect.d/0.json'],
        ['d', '/etc/connect.d/1.json'],
        ['c', '/etc/connect.d/1.json'],
        ['e', '/etc/connect.d/2.json'],
      ],
    )
  })

  it('takes each key from the last file that sets it', () => {
    const configuration = combined(
      {
        connect: { proxy: { allow_managed_root: true, allow_managed_api_registration: true } },
        ports: { proxy_min_port: 100, proxy_max_port: 200 },
        data_dir: '/first',
        log_level: 'warn',
        bind_addr: '10.0.0.1',
      },
      { ports: { proxy_min_port: 150 }, data_dir: '/second' },
      { connect: { proxy: { allow_managed_root: false } }, bind_addr: '10.0.0.3' },
    )
    assert.deepEqual(configuration.ports, { min: 150, max: 200 })
    assert.deepEqual(
      [configuration.dataDir, configuration.logLevel, configuration.bindAddress],
      ['/second', 'warn', '10.0.0.3'],
    )
    assert.deepEqual(
      [configuration.allowManagedRoot, configuration.allowManagedApiRegistration],
      [false, true],
    )
  })

  it('merges the proxy defaults of several files', () => {
    const { defaults } = combined(
      {
        connect: {
          proxy_defaults: { daemon_command: ['./a'], config: { a: 1, b: 1, tcp_check_address: '1.1.1.1' } },
        },
      },
      { connect: { proxy_defaults: { config: { b: 2, c: 2, disable_tcp_check: false } } } },
    )
    assert.deepEqual(defaults, {
      ...EMPTY_BLOCK,
      command: ['./a'],
      folder: FOLDER,
      config: { a: 1, b: 2, c: 2 },
      tcpCheckAddress: '1.1.1.1',
      disableTcpCheck: false,
    })
  })

  it('reads bind_addr with and without brackets', () => {
    const addresses = ['127.0.0.1', '0.0.0.0', '::', '[::]', '[fe80::1]']
    assert.deepEqual(
      addresses.map((address) => configOf({ bind_addr: address }).bindAddress),
      ['127.0.0.1', '0.0.0.0', '::', '::', 'fe80::1'],
    )
  })

  it('leaves the evaluation of a template in bind_addr to the agent', () => {
    const { bindAddress, isBindTemplate } = configOf({ bind_addr: '{{ GetInterfaceIP "eth0" }}' })
    assert.deepEqual([bindAddress, isBindTemplate], [undefined, true])
    const later = combined({ bind_addr: '{{ GetPrivateIP }}' }, { bind_addr: '10.0.0.1' })
    assert.deepEqual([later.bindAddress, later.isBindTemplate], ['10.0.0.1', false])
  })

  it('accepts a range of a single port', () => {
    assert.deepEqual(configOf({ ports: { proxy_min_port: 5, proxy_max_port: 5 } }).ports, { min: 5, max: 5 })
  })

  it('is read from files and directories', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'supervisor-configuration-'))
    t.after(() => {
      rmSync(folder, { recursive: true })
    })
    mkdirSync(join(folder, 'd'))
    writeFileSync(join(folder, 'first.hcl'), 'data_dir = "/d"\nbind_addr = "10.0.0.1"')
    writeFileSync(join(folder, 'd', '1.json'), '{"service":{"name":"web","port":80,"connect":{"proxy":{}}}}')
    writeFileSync(
      join(folder, 'd', '2.hcl'),
      `service {
        name = "redis" port = 6379
        connect { proxy {
          command = ["./proxy", ""]
          upstreams { destination_name = "db" local_bind_port = 5432 config { connect_timeout_ms = 5 } }
          upstreams { destination_name = "mq" local_bind_port = 5672 }
        } }
        checks { id = "a" tcp = "localhost:6379" interval = "10s" }
        checks { http = "http://localhost" interval = "10s" header { X-Test = ["1"] } }
        meta { some_key = "x" }
      }
      bind_addr = "10.0.0.2"`,
    )
    const configuration = await readConfiguration([join(folder, 'first.hcl'), join(folder, 'd')])
    assert.deepEqual([configuration.dataDir, configuration.bindAddress], ['/d', '10.0.0.2'])
    assert.deepEqual(
      configuration.services.map(({ id, origin }) => [id, origin]),
      [
        ['web', join(folder, 'd', '1.json')],
        ['redis', join(folder, 'd', '2.hcl')],
      ],
    )
    const redis = configuration.services[1]!
    assert.deepEqual(redis.managed, {
      ...EMPTY_BLOCK,
      command: ['./proxy', ''],
      folder: join(folder, 'd'),
      upstreams: [
        { destination_name: 'db', local_bind_port: 5432, config: { connect_timeout_ms: 5 } },
        { destination_name: 'mq', local_bind_port: 5672 },
      ],
    })
    const checks = redis.body['Checks'] as Json[]
    assert.deepEqual(checks.map(folded), [
      { checkid: 'a', tcp: 'localhost:6379', interval: '10s' },
      { http: 'http://localhost', interval: '10s', header: { 'X-Test': ['1'] } },
    ])
    assert.deepEqual(redis.body['Meta'], { some_key: 'x' })
  })

  it('names an unreadable file', async () => {
    await assert.rejects(readConfiguration(['/nowhere/a.hcl']), {
      name: 'ConfigurationError',
      message: '/nowhere/a.hcl: cannot be read (ENOENT)',
    })
  })

  for (const depth of [500, 1_000, 2_000, 4_000, 8_000]) {
    it(`throws at most a ConfigurationError for ${depth} nested objects`, () => {
      const text = `{"service":{"name":"x","meta":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}}`
      try {
        JSON.stringify(configOf(parseJson(PATH, text)).services)
      } catch (error) {
        assert.equal((error as Error).name, 'ConfigurationError', (error as Error).message)
      }
    })
  }
})

describe('supervisor: a service', () => {
  it('has its ID, address, and token, and needs only a name', () => {
    const common = { name: 'redis', managed: undefined, origin: '/etc/connect.d/0.json' }
    assert.deepEqual(serviceOf({ name: 'redis' }), {
      ...common,
      id: 'redis',
      port: undefined,
      address: undefined,
      sender: { token: undefined, isForeign: false },
      body: { Name: 'redis', ID: 'redis' },
    })
    const place = { port: 6379, address: '10.0.0.1' }
    assert.deepEqual(serviceOf({ id: 'redis-1', name: 'redis', ...place, token: 'secret' }), {
      ...common,
      id: 'redis-1',
      ...place,
      sender: { token: 'secret', isForeign: false },
      body: { ID: 'redis-1', Name: 'redis', Port: 6379, Address: '10.0.0.1' },
    })
  })

  it('treats empty values as absent', () => {
    const { id, port, address, sender, managed } = serviceOf({
      name: 'redis',
      id: '',
      port: 0,
      address: '',
      token: '',
      connect: { proxy: null },
    })
    assert.deepEqual(
      [id, port, address, sender.token, managed],
      ['redis', undefined, undefined, undefined, undefined],
    )
  })

  it('may use the spelling of the API', () => {
    const { id, name, port, managed } = serviceOf({
      ID: 'w1',
      Name: 'web',
      Port: 80,
      Connect: {
        Proxy: {
          ExecMode: 'daemon',
          Command: ['/x', '-y'],
          Config: { some_key: 1 },
          Upstreams: [{ DestinationName: 'db' }],
        },
      },
    })
    assert.deepEqual([id, name, port], ['w1', 'web', 80])
    assert.deepEqual(managed, {
      ...EMPTY_BLOCK,
      command: ['/x', '-y'],
      folder: FOLDER,
      config: { some_key: 1 },
      upstreams: [{ DestinationName: 'db' }],
    })
  })

  it('excludes the token and connect.proxy from the body', () => {
    const service = {
      name: 'web',
      port: 80,
      token: 'secret',
      connect: { proxy: { command: ['/x'] }, native: false },
    }
    const body = { Name: 'web', Port: 80, ID: 'web' }
    assert.deepEqual(bodyOf(service), { ...body, Connect: { Native: false } })
    assert.deepEqual(bodyOf({ name: 'web', port: 80, connect: { proxy: {} } }), body)
    assert.deepEqual(bodyOf({ Name: 'web', Port: 80, Token: 's', Connect: { Proxy: {} } }), body)
  })

  it('passes other keys through in the spelling of the API, from both spellings', () => {
    const service = {
      id: 'web-1',
      name: 'web',
      port: 80,
      tags: ['a_b', 'C'],
      address: '10.0.0.1',
      enable_tag_override: true,
      namespace: 'ns',
      weights: { passing: 5, warning: 1 },
      meta: { some_key: 'x', OtherKey: 'y' },
      tagged_addresses: { lan_ipv4: { address: '10.0.0.1', port: 80 }, wan: { address: '1.1.1.1' } },
      connect: { sidecar_service: { proxy: { local_service_port: 1 } } },
      something_new: [{ inside_it: [1, 'a_b', null, false] }],
    }
    const request = {
      ID: 'web-1',
      Name: 'web',
      Port: 80,
      Tags: ['a_b', 'C'],
      Address: '10.0.0.1',
      EnableTagOverride: true,
      Namespace: 'ns',
      Weights: { Passing: 5, Warning: 1 },
      Meta: { some_key: 'x', OtherKey: 'y' },
      TaggedAddresses: { lan_ipv4: { Address: '10.0.0.1', Port: 80 }, wan: { Address: '1.1.1.1' } },
      Connect: { SidecarService: { Proxy: { LocalServicePort: 1 } } },
      SomethingNew: { InsideIt: [1, 'a_b', null, false] },
    }
    assert.deepEqual([bodyOf(service), bodyOf(request)], [request, request])
  })

  it('passes its checks through', () => {
    const { Check, Checks } = bodyOf({
      name: 'web',
      check: { id: 'c1', name: 'alive', ttl: '10s', deregister_critical_service_after: '1m' },
      checks: [
        {
          id: 'c2',
          http: 'http://x',
          interval: '1s',
          header: { 'X-Some_Key': ['a_b'] },
          tls_skip_verify: true,
        },
        { args: ['/bin/true', '-a_b'], interval: '1s', docker_container_id: 'x' },
        { alias_service: 'other', notes: 'n' },
      ],
    }) as { Check: Json; Checks: Json[] }
    assert.deepEqual(folded(Check), {
      checkid: 'c1',
      name: 'alive',
      ttl: '10s',
      deregistercriticalserviceafter: '1m',
    })
    assert.deepEqual(Checks.map(folded), [
      {
        checkid: 'c2',
        http: 'http://x',
        interval: '1s',
        header: { 'X-Some_Key': ['a_b'] },
        tlsskipverify: true,
      },
      { args: ['/bin/true', '-a_b'], interval: '1s', dockercontainerid: 'x' },
      { aliasservice: 'other', notes: 'n' },
    ])
  })

  it('passes its sidecar_service through, with and without a managed proxy', () => {
    const sidecar = {
      port: 21_000,
      checks: [{ id: 'c', http: 'http://x', header: { x_y: ['z'] } }],
      meta: { some_key: 'x' },
      proxy: {
        local_service_address: '127.0.0.1',
        config: { some_key: { inner_key: 1 } },
        upstreams: [
          {
            destination_name: 'db',
            local_bind_port: 1,
            config: { some_key: 1 },
            mesh_gateway: { mode: 'local' },
          },
        ],
        expose: { paths: [{ path: '/', local_path_port: 1, listener_port: 2 }] },
      },
    }
    const request = {
      Port: 21_000,
      Checks: [{ CheckID: 'c', Http: 'http://x', Header: { x_y: ['z'] } }],
      Meta: { some_key: 'x' },
      Proxy: {
        LocalServiceAddress: '127.0.0.1',
        Config: { some_key: { inner_key: 1 } },
        Upstreams: [
          {
            DestinationName: 'db',
            LocalBindPort: 1,
            Config: { some_key: 1 },
            MeshGateway: { Mode: 'local' },
          },
        ],
        Expose: { Paths: [{ Path: '/', LocalPathPort: 1, ListenerPort: 2 }] },
      },
    }
    for (const proxy of [undefined, {}]) {
      const connect = { sidecar_service: sidecar, ...(proxy && { proxy }) }
      assert.deepEqual(bodyOf({ name: 'web', port: 80, connect })['Connect'], { SidecarService: request })
    }
  })

  // Consul 1.8.7 accepts both, and returns the list unchanged.
  it('passes lists in the config of a proxy through', () => {
    const list = [{ some_key: 1 }, { some_key: 2 }]
    const proxy = { destination_service_name: 'y', config: { routes: list } }
    assert.deepEqual(bodyOf({ name: 'x', kind: 'connect-proxy', port: 1, proxy })['Proxy'], {
      DestinationServiceName: 'y',
      Config: { routes: list },
    })
    assert.deepEqual(managedOf({ command: ['/x'], config: { routes: list } }).config, { routes: list })
  })

  it('may be a proxy or a native service without a managed proxy', () => {
    const proxy = { destination_service_name: 'web', config: { some_key: 1 } }
    const { managed, body } = serviceOf({ name: 'web-proxy', kind: 'connect-proxy', port: 1, proxy })
    assert.equal(managed, undefined)
    assert.equal(body['Kind'], 'connect-proxy')
    assert.deepEqual(bodyOf({ name: 'web', connect: { native: true } })['Connect'], { Native: true })
  })

  // Consul 1.8.7 accepts these in a sidecar_service with status 200, and then does not sync them to the servers.
  it('rejects upstreams of a sidecar_service or an unmanaged proxy that servers reject', () => {
    const api = { destination_name: 'api', local_bind_port: 1 }
    const invalid: [object[], RegExp][] = [
      [[api, { ...api, local_bind_port: 2 }], /upstreams\[1\].destination_name: duplicate destination/],
      [[api, { ...api, destination_name: 'db' }], /upstreams\[1\].local_bind_port: duplicate address/],
      [[{ local_bind_port: 1 }], /upstreams\[0\].destination_name: expected the name of a service/],
      [[{ destination_name: 'api' }], /upstreams\[0\].local_bind_port: expected a port from 1 to 65535/],
      [
        [{ ...api, destination_type: 'x' }],
        /upstreams\[0\].destination_type: expected service or prepared_query/,
      ],
    ]
    const valid = [
      api,
      { destination_name: 'api', destination_type: 'prepared_query', local_bind_port: 2 },
      { DestinationName: 'api', Datacenter: 'dc2', LocalBindAddress: '127.0.0.2', LocalBindPort: 1 },
    ]
    const services = (upstreams: object[]): object[] => [
      { name: 'web', port: 80, connect: { sidecar_service: { proxy: { upstreams } } } },
      { name: 'p', kind: 'connect-proxy', port: 1, proxy: { destination_service_name: 'web', upstreams } },
    ]
    for (const service of services(valid)) assert.deepEqual(configOf({ service }).warnings, [])
    for (const [upstreams, message] of invalid) {
      for (const service of services(upstreams)) {
        assert.throws(() => configOf({ service }), { name: 'ConfigurationError', message })
      }
    }
  })

  it('warns about a Unix socket in a sidecar_service, which agents before 1.10 reject', () => {
    const upstreams = [{ destination_name: 'api', local_bind_socket_path: '/run/api.sock' }]
    const connect = { sidecar_service: { proxy: { upstreams } } }
    const { warnings } = configOf({ service: { name: 'web', port: 80, connect } })
    assert.match(warnings.join(), /local_bind_socket_path: agents before 1.10 reject it; a managed proxy/)
  })

  it('translates ProxyDestination of Consul 1.2, which later agents reject', () => {
    const service = { name: 'redis-proxy', kind: 'connect-proxy', port: 8181, proxy_destination: 'redis' }
    const body = {
      Name: 'redis-proxy',
      ID: 'redis-proxy',
      Kind: 'connect-proxy',
      Port: 8181,
      Proxy: { DestinationServiceName: 'redis' },
    }
    assert.deepEqual(bodyOf(service), body)
    const { proxy_destination: ProxyDestination, ...rest } = service
    assert.deepEqual(bodyOf({ ...rest, ProxyDestination }), body)
    const proxy = { config: { a: 1 } }
    assert.deepEqual(bodyOf({ ...service, proxy })['Proxy'], {
      Config: { a: 1 },
      DestinationServiceName: 'redis',
    })
    assert.throws(() => bodyOf({ ...service, kind: '' }), { message: /proxy_destination: expected/ })
    assert.throws(() => bodyOf({ ...service, proxy: { destination_service_name: 'other' } }), {
      message: /expected the same service as in proxy.destination_service_name/,
    })
  })

  it('may share its name with another service, and have the ID of a managed proxy that does not exist', () => {
    const { services } = combined({ services: [{ name: 'a' }, { name: 'a', id: 'b' }, { name: 'a-proxy' }] })
    assert.deepEqual(
      services.map(({ id, name }) => [id, name]),
      [
        ['a', 'a'],
        ['b', 'a'],
        ['a-proxy', 'a-proxy'],
      ],
    )
  })

  it('is not modified', () => {
    const service = {
      name: 'web',
      port: 80,
      token: 'x',
      checks: [{ id: 'c' }],
      connect: { proxy: { config: { upstreams: [] } } },
    }
    const before = structuredClone(service)
    serviceOf(service)
    assert.deepEqual(service, before)
  })

  it('ignores the case of keys, as an agent does', () => {
    for (const [name, port, connect, proxy] of [
      ['NAME', 'PORT', 'CONNECT', 'PROXY'],
      ['nAmE', 'Port', 'conNect', 'pRoxy'],
    ] as const) {
      const service = serviceOf({ [name]: 'web', [port]: 80, [connect]: { [proxy]: { COMMAND: ['/x'] } } })
      assert.deepEqual([service.name, service.port, service.managed?.command], ['web', 80, ['/x']])
      assert.equal(JSON.stringify(service.body).includes('/x'), false)
    }
  })

  it('rejects nested keys that an agent treats as the same', () => {
    for (const service of [
      { name: 'x', checks: [{ ttl: '1s', TTL: '2s' }] },
      { name: 'x', connect: { sidecar_service: { port: 1, PORT: 2 } } },
    ]) {
      assert.throws(() => configOf({ service }), {
        name: 'ConfigurationError',
        message: new RegExp(`^${PATH}: service x: .*(are the same key to an agent|two spellings)`),
      })
    }
  })

  const REQUEST = { origin: 'the request', folder: undefined, warn: () => undefined }

  it('has a foreign sender when it came by a request', () => {
    for (const Token of [undefined, 'x']) {
      const definition = readDefinition({ Name: 'web', Token }, { ...REQUEST, isForeign: true })
      assert.deepEqual(definition.sender, { token: Token, isForeign: true })
    }
  })

  it('has no directory for its command when it came by a request', () => {
    const { managed, origin } = readDefinition(
      { Name: 'web', Port: 80, Connect: { Proxy: { Command: ['./x'] } } },
      REQUEST,
    )
    assert.equal(origin, 'the request')
    assert.deepEqual(managed, { ...EMPTY_BLOCK, command: ['./x'], folder: undefined })
  })

  it('rejects a name with a lone surrogate', () => {
    for (const name of ['\ud800', 'a\udfffb'])
      assert.throws(() => readDefinition({ name }, REQUEST), { name: 'ConfigurationError' })
  })

  const names = fc.string({ minLength: 1, maxLength: 200 })
  it('keeps any accepted name', () => {
    fc.assert(
      fc.property(names, (name) => {
        let service: ServiceDefinition
        try {
          service = serviceOf({ name })
        } catch (error) {
          assert.ok(error instanceof ConfigurationError)
          assert.match(name, /[\p{Cc}/]|^\.\.?$/u)
          return
        }
        assert.deepEqual([service.id, service.name, service.body], [name, name, { Name: name, ID: name }])
        assert.doesNotMatch(name, /[\p{Cc}/]/u)
      }),
    )
  })
})

/** Converts the keys to lower case, because Go ignores the case of JSON keys. */
function folded(value: Json): Json {
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key.toLowerCase(), inner]))
}

describe('supervisor: requests', () => {
  const user = fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 5 })
  it('do not change the keys of the user', () => {
    fc.assert(
      fc.property(user, (keys) => {
        const upstream = { destination_name: 'db', config: keys }
        const body = toRequest(PATH, {
          meta: keys,
          proxy: { config: keys, upstreams: [upstream] },
          checks: [{ header: keys }],
        })
        const request = { DestinationName: 'db', Config: keys }
        assert.deepEqual(body, {
          Meta: keys,
          Proxy: { Config: keys, Upstreams: [request] },
          Checks: [{ Header: keys }],
        })
        assert.deepEqual(upstreamRequest('', upstream), request)
      }),
    )
  })
})

describe('supervisor: a managed proxy', () => {
  it('needs only an empty block', () => {
    for (const proxy of [{}, { exec_mode: '' }]) assert.deepEqual(managedOf(proxy), EMPTY_BLOCK)
  })

  it('has all keys of Consul', () => {
    const { services, warnings } = configOf(
      web({
        exec_mode: 'daemon',
        command: ['/usr/bin/proxy', '-x', ''],
        config: {
          a: 1,
          bind_port: 7_000,
          bind_address: '10.0.0.1',
          tcp_check_address: '10.0.0.2',
          disable_tcp_check: true,
        },
        upstreams: [{ destination_name: 'db', local_bind_port: 5_432 }],
      }),
    )
    assert.deepEqual(warnings, [])
    assert.deepEqual(services[0]?.managed, {
      command: ['/usr/bin/proxy', '-x', ''],
      folder: '/etc/connect.d',
      config: { a: 1, bind_port: 7_000, bind_address: '10.0.0.1' },
      upstreams: [{ destination_name: 'db', local_bind_port: 5_432 }],
      tcpCheckAddress: '10.0.0.2',
      disableTcpCheck: true,
      bindPort: 7_000,
    })
  })

  it('excludes the keys of the TCP check from the config of the proxy', () => {
    const block = managedOf({ Config: { TCPCheckAddress: '10.0.0.2', DisableTCPCheck: true } })
    assert.deepEqual(block, { ...EMPTY_BLOCK, tcpCheckAddress: '10.0.0.2', disableTcpCheck: true })
  })

  const DB = { destination_name: 'db', local_bind_port: 5_432 }
  const MQ = { destination_name: 'mq', local_bind_port: 5_672 }
  const upstreams: [place: string, proxy: object, upstreams: object[]][] = [
    ['beside config', { upstreams: [DB, MQ] }, [DB, MQ]],
    ['inside config', { config: { upstreams: [DB, MQ] } }, [DB, MQ]],
    ['inside config in the spelling of the API', { Config: { Upstreams: [DB] } }, [DB]],
    ['as a single block', { upstreams: DB }, [DB]],
    ['as a single block inside config', { config: { upstreams: DB } }, [DB]],
    ['beside config before those inside config', { upstreams: [DB], config: { upstreams: [MQ] } }, [DB]],
    ['as an empty list by default', { config: {} }, []],
    ['as an empty list for null', { upstreams: null, config: { upstreams: null } }, []],
    // Consul 1.3 reads the upstreams of config when the list beside it is empty.
    ['inside config, with an empty list beside it', { upstreams: [], config: { upstreams: [DB] } }, [DB]],
  ]
  for (const [place, proxy, expected] of upstreams) {
    it(`reads the upstreams ${place}`, () => {
      const { upstreams, config } = managedOf(proxy)
      assert.deepEqual([upstreams, config], [expected, {}])
    })
  }

  it('may set the address of the application instead of a port of the service', () => {
    for (const config of [
      { local_service_address: '127.0.0.1:5' },
      { local_service_port: 5 },
      { local_service_socket_path: '/run/x.sock' },
    ]) {
      assert.deepEqual(serviceOf({ name: 'web', connect: { proxy: { config } } }).managed?.config, config)
    }
  })

  it('may have an admin address: a flag of the built-in proxy, a key for a custom proxy', () => {
    const config = { admin_addr: '127.0.0.1:9103' }
    assert.deepEqual(configOf(web({ config })).warnings, [])
    assert.deepEqual(adminArgs(managedOf({ config })), ['-admin-addr', '127.0.0.1:9103'])
    assert.deepEqual(proxyConfigOf(managedOf({ config })), {})
    assert.deepEqual(adminArgs(managedOf({ command: ['/x'], config })), [])
    assert.deepEqual(proxyConfigOf(managedOf({ command: ['/x'], config })), config)
    assert.throws(() => managedOf({ config: { admin_addr: '127.0.0.1' } }), {
      message: /config: admin_addr: expected \[HOST:\]PORT/,
    })
    const services = ['a', 'b'].map((name) => ({ name, port: 80, connect: { proxy: { config } } }))
    assert.throws(() => configOf({ services }), {
      message: /admin_addr: address \S+ is already used by a in /,
    })
  })

  it('warns about an upstream with the local address of an upstream of another proxy', () => {
    const service = (name: string, upstream: object) => ({
      name,
      port: 80,
      connect: { proxy: { upstreams: [{ destination_name: 'db', ...upstream }] } },
    })
    const warningsOf = (first: object, second: object) =>
      configOf({ services: [service('a', first), service('b', second)] }).warnings
    assert.deepEqual(warningsOf({ local_bind_port: 9191 }, { local_bind_port: 9192 }), [])
    assert.deepEqual(
      warningsOf({ local_bind_port: 9191 }, { local_bind_port: 9191, local_bind_address: '127.0.0.2' }),
      [],
    )
    for (const [first, second] of [
      [{ local_bind_port: 9191 }, { LocalBindPort: 9191, local_bind_address: '127.0.0.1' }],
      [{ local_bind_socket_path: '/run/db' }, { local_bind_socket_path: '/run/db' }],
    ] as const) {
      const warnings = warningsOf(first, second)
      assert.equal(warnings.length, 1)
      assert.match(
        warnings[0]!,
        /service b: .*upstreams\[0\]: local address .* is also used by the proxy of a in /,
      )
    }
  })

  it('may have its own port', () => {
    const { bindPort, config } = managedOf({ config: { bind_port: 7_000 } })
    assert.equal(bindPort, 7_000)
    assert.deepEqual(config, { bind_port: 7_000 })
    assert.equal(managedOf({ Config: { BindPort: 7_000 } }).bindPort, 7_000)
    assert.equal(managedOf({ command: ['/x'], config: { bind_port: '7000' } }).bindPort, 7_000)
    assert.equal(managedOf({ command: ['/x'], config: { bind_port: '' } }).bindPort, undefined)
  })

  describe('with defaults', () => {
    const defaults = (proxy_defaults: object): object => ({ connect: { proxy_defaults } })

    it('takes absent values from the defaults', () => {
      const block = {
        daemon_command: ['./proxy', '-x'],
        config: { a: 1, bind_port: 7_000, tcp_check_address: '10.0.0.2', disable_tcp_check: true },
      }
      assert.deepEqual(managedOf({}, defaults(block)), {
        command: ['./proxy', '-x'],
        folder: '/etc/connect.d',
        config: { a: 1, bind_port: 7_000 },
        upstreams: [],
        tcpCheckAddress: '10.0.0.2',
        disableTcpCheck: true,
        bindPort: 7_000,
      })
    })

    it('prefers its own values to the defaults', () => {
      const own = {
        command: ['/own'],
        config: { a: 2, c: 3, disable_tcp_check: false, tcp_check_address: '10.0.0.1', bind_port: 1 },
        upstreams: [DB],
      }
      const all = {
        daemon_command: ['/all'],
        config: {
          a: 1,
          b: 1,
          disable_tcp_check: true,
          tcp_check_address: '10.0.0.2',
          bind_port: 2,
          upstreams: [MQ],
        },
      }
      assert.deepEqual(managedOf(own, defaults(all)), {
        command: ['/own'],
        folder: '/etc/connect.d',
        config: { a: 2, b: 1, c: 3, bind_port: 1 },
        upstreams: [DB],
        tcpCheckAddress: '10.0.0.1',
        disableTcpCheck: false,
        bindPort: 1,
      })
    })

    it('accepts command for daemon_command, and rejects both', () => {
      assert.deepEqual(managedOf({}, defaults({ command: ['/usr/bin/my-proxy'] })).command, [
        '/usr/bin/my-proxy',
      ])
      const both = defaults({ command: ['/a'], daemon_command: ['/b'] })
      assert.throws(() => managedOf({}, both), {
        message: /command and daemon_command are aliases; remove one/,
      })
    })

    it('resolves the command of the defaults in the directory of the defaults', () => {
      const { services } = combine([
        { path: '/etc/defaults/a.json', content: defaults({ daemon_command: ['./proxy'] }) as Json },
        {
          path: '/etc/services/b.json',
          content: {
            services: [
              { name: 'a', port: 1, connect: { proxy: {} } },
              { name: 'b', port: 1, connect: { proxy: { command: ['./own'] } } },
            ],
          },
        },
      ])
      assert.deepEqual(
        services.map(({ managed }) => [managed?.command, managed?.folder]),
        [
          [['./proxy'], '/etc/defaults'],
          [['./own'], '/etc/services'],
        ],
      )
    })

    it('takes upstreams from the defaults', () => {
      assert.deepEqual(managedOf({}, defaults({ config: { upstreams: [DB] } })).upstreams, [DB])
    })

    it('prefers its own values in another spelling', () => {
      const { config } = managedOf(
        { config: { handshakeTimeoutMs: 2 } },
        defaults({ config: { handshake_timeout_ms: 1 } }),
      )
      assert.deepEqual(Object.values(config), [2])
    })

    it('does not apply the defaults to services without a managed proxy', () => {
      assert.equal(serviceOf({ name: 'web' }, defaults({ config: { a: 1 } })).managed, undefined)
    })
  })

  it('converts known keys to one spelling, and keeps other keys', () => {
    const config = { BindAddress: '[::1]', LocalConnectTimeoutMs: 5, SomeKey: 1, some_other: { InnerKey: 2 } }
    assert.deepEqual(managedOf({ command: ['/x'], config }).config, {
      bind_address: '::1',
      local_connect_timeout_ms: 5,
      SomeKey: 1,
      some_other: { InnerKey: 2 },
    })
  })

  it('keeps all other keys of config', () => {
    const ownKeys = ['tcp_check_address', 'disable_tcp_check', 'upstreams', 'bind_port']
    const keys = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,4}(_[a-z]{1,4})?$/), { maxLength: 6 })
    fc.assert(
      fc.property(keys, fc.jsonValue(), (names, value) => {
        const config = Object.fromEntries(
          names
            .filter((name) => !ownKeys.includes(name) && !name.startsWith('local'))
            .map((name) => [name, [1, value]]),
        )
        const all = { ...config, tcp_check_address: '10.0.0.1', disable_tcp_check: true, upstreams: [DB] }
        assert.deepEqual(managedOf({ command: ['/x'], config: all }).config, config)
      }),
    )
  })
})

describe('supervisor: keys', () => {
  it('are converted to the spelling of files, at the first level', () => {
    assert.deepEqual(keysOf('x', { LocalBindPort: 1, some_key: { InnerKey: 2 } }), {
      local_bind_port: 1,
      some_key: { InnerKey: 2 },
    })
  })

  it('may be names of Object.prototype', () => {
    const keys = keysOf('x', JSON.parse('{"__proto__":{"polluted":true},"constructor":1}'))
    assert.deepEqual(Object.keys(keys), ['__proto__', 'constructor'])
    assert.equal(Reflect.get(keys, 'polluted'), undefined)
  })

  it('are kept with a warning when they are unknown', () => {
    const warnings: string[] = []
    const keys = keysOf('a place', { Known: 1, Other: 2, toString: 3 }, ['known'], (warning) =>
      warnings.push(warning),
    )
    assert.deepEqual(Object.keys(keys), ['known', 'other', 'to_string'])
    assert.deepEqual(warnings, [
      'a place: unknown key Other has no effect; known keys: known',
      'a place: unknown key toString has no effect; known keys: known',
    ])
  })

  it('are rejected for values that are not objects', () => {
    for (const value of [null, undefined, 5, 'x', []]) {
      assert.throws(() => keysOf('a place', value), {
        message: `a place: expected an object, got ${describeValue(value)}`,
      })
    }
  })
})

describe('supervisor: warnings', () => {
  const warnings: [content: object, warning: string][] = [
    [
      web({ colour: 'red' }),
      'service web: connect.proxy: unknown key colour has no effect; known keys: exec_mode, command, config, upstreams',
    ],

    [
      web({ config: { colour: 'red' } }),
      'service web: connect.proxy: colour: unknown key, which has no effect',
    ],
    [
      web({ upstreams: [{ destination_name: 'db', local_bind_port: 1, colour: 'red' }] }),
      'service web: connect.proxy: upstreams[0].colour: unknown key, which has no effect',
    ],
    [
      { connect: { proxy_defaults: { script_command: ['/x'] } } },
      'connect.proxy_defaults: script_command has no effect: Consul never ran scripts as proxies',
    ],
    [
      { service: { name: 'web', conect: { proxy: {} } } },
      'service web: unknown key conect; did you mean connect?',
    ],
    [
      { service: { name: 'web', connect: { porxy: {} } } },
      'service web: connect: unknown key porxy; did you mean proxy?',
    ],
    [{ service: { name: 'web', colour: 1 } }, 'service web: unknown key colour; the agent may reject it'],
    [{ conect: { proxy_defaults: {} } }, 'unknown key conect; did you mean connect?'],
    [{ serivces: [{ name: 'web' }] }, 'unknown key serivces; did you mean services?'],
    [{ connect: { proxy_default: {} } }, 'connect: unknown key proxy_default; did you mean proxy_defaults?'],
    [{ ports: { proxy_min_prot: 1 } }, 'ports: unknown key proxy_min_prot; did you mean proxy_min_port?'],
    [
      { connect: { proxy: { allow_root: true } } },
      'connect: proxy: unknown key allow_root has no effect; known keys: allow_managed_root, allow_managed_api_registration',
    ],
  ]
  for (const [content, warning] of warnings) {
    it(`are given for ${JSON.stringify(content)}`, () => {
      assert.deepEqual(configOf(content).warnings, [`${PATH}: ${warning}`])
    })
  }

  const withoutWarnings: [rule: string, content: object][] = [
    [
      'for unknown keys of a custom proxy',
      web({ command: ['/x'], config: { colour: 'red' }, upstreams: [{ colour: 'red' }] }),
    ],
    [
      'for unknown keys of a custom proxy from the defaults',
      { ...web({ config: { colour: 'red' } }), connect: { proxy_defaults: { daemon_command: ['/x'] } } },
    ],
    [
      'for keys of the agent',
      { node_name: 'x', connect: { enabled: true, ca_provider: 'consul' }, ports: { dns: 1 } },
    ],
  ]
  for (const [rule, content] of withoutWarnings) {
    it(`are not given ${rule}`, () => {
      assert.deepEqual(configOf(content).warnings, [])
    })
  }

  // An upstream of Consul 1.2: https://github.com/hashicorp/consul/blob/v1.2.0/connect/proxy/config.go, UpstreamConfig.
  it('are not given for the upstreams of Consul 1.2, inside config', () => {
    const upstream = {
      destination_type: 'service',
      destination_name: 'db',
      destination_datacenter: 'dc2',
      local_bind_address: '127.0.0.1',
      local_bind_port: 1,
      connect_timeout_ms: 10_000,
    }
    assert.deepEqual(configOf(web({ config: { upstreams: [upstream] } })).warnings, [])
  })
})

describe('supervisor: errors of a configuration', () => {
  const LONG = 'x'.repeat(201)
  const COMMAND = 'expected a list with a program and its arguments, such as ["/usr/bin/proxy", "-x"]'
  const PORT = 'expected a port from 1 to 65535'
  const NAME = 'expected a name of at most 200 characters without slashes and control characters'
  const NO_ADDRESS =
    'address of the application unknown; set port in the service, or local_service_address in config'
  const invalidServices: [service: object, message: string][] = [
    [{ name: 'x', id: '../y' }, `id: ${NAME}, got "../y"`],
    [{ name: 'x', id: 5 }, 'id: expected a string, got the number 5'],
    [{ name: 'x', port: '80' }, `port: ${PORT}, got "80"`],
    [{ name: 'x', port: 65_536 }, `port: ${PORT}, got the number 65536`],
    [{ name: 'x', port: 1.5 }, `port: ${PORT}, got the number 1.5`],
    [{ name: 'x', address: 5 }, 'address: expected a string, got the number 5'],
    [{ name: 'x', connect: true }, 'connect: expected an object, got the boolean true'],
  ]
  const invalidProxies: [proxy: unknown, message: string][] = [
    [true, 'expected an object, got the boolean true'],
    [[], 'expected an object, got a list'],
    [{ exec_mode: 'script' }, 'exec_mode: expected "daemon", the only supported mode, got "script"'],
    [{ exec_mode: 5 }, 'exec_mode: expected "daemon", the only supported mode, got the number 5'],
    [{ command: '/x -y' }, `command: ${COMMAND}`],
    [{ command: [] }, `command: ${COMMAND}`],
    [{ command: [''] }, `command: ${COMMAND}`],
    [{ command: ['/x', 5] }, `command: ${COMMAND}`],
    [{ command: ['/x', 'a\0b'] }, `command: ${COMMAND}`],
    [{ command: ['/x'], Command: ['/y'] }, 'command: set twice, in two spellings'],
    [{ config: 'x' }, 'config: expected an object, got "x"'],
    [{ config: { bind_port: 1, BindPort: 1 } }, 'config: bind_port: set twice, in two spellings'],
    [{ config: { a_b: 1, aB: 1 } }, 'aB: expected one spelling of a key, got two'],
    [{ config: { tcp_check_address: 5 } }, 'config: tcp_check_address: expected a string, got the number 5'],
    [
      { config: { disable_tcp_check: 'true' } },
      'config: disable_tcp_check: expected true or false, got "true"',
    ],
    [{ config: { bind_port: 0 } }, `config: bind_port: ${PORT}, got the number 0`],
    [{ config: { bind_port: '70000' } }, `config: bind_port: ${PORT}, got the number 70000`],
    [{ config: { bind_address: 5 } }, 'bind_address: expected an address or a host name, got the number 5'],
    [
      { config: { handshake_timeout_ms: 'x' } },
      'handshake_timeout_ms: expected a positive number of milliseconds, got the string "x"',
    ],
    [{ upstreams: 'db' }, 'upstreams: expected a list, got "db"'],
    [{ upstreams: [5] }, 'upstreams[0]: expected an object, got the number 5'],
    [{ config: { upstreams: ['db'] } }, 'upstreams[0]: expected an object, got "db"'],
    [
      { upstreams: [{ destination_name: 'db' }] },
      'upstreams[0].local_bind_port: expected a port from 1 to 65535, got none',
    ],
    [
      {
        upstreams: [
          { destination_name: 'a', local_bind_port: 1 },
          { destination_name: 'b', local_bind_port: 1 },
        ],
      },
      'upstreams[1].local_bind_port: expected a unique address, got 127.0.0.1:1, which upstreams[0] uses',
    ],
  ]
  const IS_PROXY =
    'service web: connect.proxy: a proxy cannot have a managed proxy; remove connect.proxy or kind'
  const IS_NATIVE =
    'service web: connect.proxy: a native service needs no managed proxy; remove native or proxy'
  const invalid: [content: object, message: string][] = [
    [{ service: 'x' }, 'service: expected a list, got "x"'],
    [{ services: ['x'] }, 'service: expected an object, got "x"'],
    [{ service: {} }, 'service: missing name'],
    [{ service: { id: 'x' } }, 'service: missing name'],
    [{ service: { name: '' } }, 'service: name: expected a string, got ""'],
    [{ service: { name: 5 } }, 'service: name: expected a string, got the number 5'],
    [{ service: { name: 'a/b' } }, `service: name: ${NAME}, got "a/b"`],
    [{ service: { name: 'a\nb' } }, `service: name: ${NAME}, got "a\\nb"`],
    [{ service: { name: '..' } }, `service: name: ${NAME}, got ".."`],
    [{ service: { name: LONG } }, `service: name: ${NAME}, got a long string`],
    [{ service: { name: 'x', Name: 'y' } }, 'service: name: set twice, in two spellings'],
    [{ service: { name: 'x', Connect: {}, connect: {} } }, 'service: connect: set twice, in two spellings'],
    [{ Service: { Name: 'x' }, service: { name: 'y' } }, 'service: set twice, in two spellings'],
    [web([{}, {}]), 'service.connect.proxy: expected one block, found 2'],
    [{ service: { name: 'x', tags: ['a'], TAGS: ['b'] } }, 'service: tags: set twice, in two spellings'],
    [{ service: { name: 'x', meta: {}, Me_Ta: {} } }, 'service: me_ta: set twice, in two spellings'],
    [web({}, { port: 0 }), `service web: connect.proxy: ${NO_ADDRESS}`],
    [{ service: { name: 'web', connect: { proxy: {} } } }, `service web: connect.proxy: ${NO_ADDRESS}`],
    [web({ command: ['/x'] }, { port: undefined }), `service web: connect.proxy: ${NO_ADDRESS}`],
    [web({}, { kind: 'connect-proxy', proxy: { destination_service_name: 'x' } }), IS_PROXY],
    [web({}, { Kind: 'mesh-gateway' }), IS_PROXY],
    [{ service: { name: 'web', port: 80, connect: { native: true, proxy: {} } } }, IS_NATIVE],
    [{ service: { name: 'web', port: 80, Connect: { Native: true, Proxy: {} } } }, IS_NATIVE],
    [
      {
        services: [
          { name: 'a', id: 'x' },
          { name: 'b', id: 'x' },
        ],
      },
      `service b: duplicate service id x, already used in ${PATH}; set a distinct "id"`,
    ],
    [
      { services: [{ name: 'a' }, { name: 'b', id: 'a' }] },
      `service b: duplicate service id a, already used in ${PATH}; set a distinct "id"`,
    ],
    [
      { services: [{ name: 'a', port: 1, connect: { proxy: {} } }, { name: 'a-proxy' }] },
      `service a-proxy: id a-proxy conflicts with the managed proxy of a in ${PATH}; set another "id"`,
    ],
    [
      {
        services: [
          { name: 'b', id: 'a-proxy' },
          { name: 'a', port: 1, connect: { proxy: {} } },
        ],
      },
      `service b: id a-proxy conflicts with the managed proxy of a in ${PATH}; set another "id"`,
    ],
    [{ connect: 5 }, 'connect: expected an object, got the number 5'],
    [{ connect: [{}, {}] }, 'connect: expected one block, found 2'],
    [{ connect: { proxy: 'x' } }, 'connect: proxy: expected an object, got "x"'],
    [
      { connect: { proxy: { allow_managed_root: 'yes' } } },
      'connect.proxy: allow_managed_root: expected true or false, got "yes"',
    ],
    [
      { connect: { proxy: { allow_managed_api_registration: 1 } } },
      'connect.proxy: allow_managed_api_registration: expected true or false, got the number 1',
    ],
    [{ connect: { proxy_defaults: 'x' } }, 'connect.proxy_defaults: expected an object, got "x"'],
    [
      { connect: { proxy_defaults: { exec_mode: 'script' } } },
      'connect.proxy_defaults: exec_mode: expected "daemon", the only supported mode, got "script"',
    ],
    [
      { connect: { proxy_defaults: { daemon_command: 'x' } } },
      `connect.proxy_defaults: daemon_command: ${COMMAND}`,
    ],
    [
      { connect: { proxy_defaults: { config: { bind_port: 70_000 } } } },
      `connect.proxy_defaults: config: bind_port: ${PORT}, got the number 70000`,
    ],
    [{ ports: 5 }, 'ports: expected an object, got the number 5'],
    [{ ports: { proxy_min_port: 0 } }, `ports: proxy_min_port: ${PORT}, got the number 0`],
    [{ ports: { proxy_max_port: 65_536 } }, `ports: proxy_max_port: ${PORT}, got the number 65536`],
    [{ ports: { proxy_min_port: '20000' } }, `ports: proxy_min_port: ${PORT}, got "20000"`],
    [{ bind_addr: 'localhost' }, 'bind_addr: expected an IP address, got "localhost"'],
    [{ bind_addr: '10.0.0.1:80' }, 'bind_addr: expected an IP address, got "10.0.0.1:80"'],
    [{ bind_addr: 5 }, 'bind_addr: expected a string, got the number 5'],
    [{ data_dir: '' }, 'data_dir: expected a string, got ""'],
    [{ log_level: 5 }, 'log_level: expected a string, got the number 5'],
    [{ log_json: 'true' }, 'log_json: expected true or false, got "true"'],
    ...invalidServices.map(([service, message]): [object, string] => [{ service }, `service x: ${message}`]),
    ...invalidProxies.map(([proxy, message]): [object, string] => [
      web(proxy),
      `service web: connect.proxy: ${message}`,
    ]),
  ]
  for (const [content, message] of invalid) {
    it(`name file and place: ${message}`, () => {
      assert.throws(() => configOf(content), { name: 'ConfigurationError', message: `${PATH}: ${message}` })
    })
  }

  it('are found in the upstreams of a custom proxy', () => {
    const upstream = { destination_name: 'db', DestinationName: 'mq', local_bind_port: 1 }
    assert.throws(() => configOf(web({ command: ['/x'], upstreams: [upstream] })), {
      name: 'ConfigurationError',
      message: new RegExp(`^${PATH}: service web: connect\\.proxy: upstreams\\[0\\]`),
    })
  })

  it('in a range of ports name the file and both ports', () => {
    for (const [ports, problem] of [
      [{ proxy_min_port: 5, proxy_max_port: 4 }, 'proxy_min_port 5 is greater than proxy_max_port 4'],
      [{ proxy_min_port: 30_000 }, 'proxy_min_port 30000 is greater than proxy_max_port 20255'],
    ] as const) {
      assert.throws(() => configOf({ ports }), {
        name: 'ConfigurationError',
        message: new RegExp(`^${PATH}: .*${problem}$`),
      })
    }
  })

  it('name both files', () => {
    assert.throws(() => combined({ service: { name: 'a' } }, { service: { name: 'a' } }), {
      message:
        '/etc/connect.d/1.json: service a: duplicate service id a, already used in /etc/connect.d/0.json; set a distinct "id"',
    })
  })

  it('do not show a token', () => {
    for (const token of [['5ec7e7'], { x: '5ec7e7' }, 571_003]) {
      assert.throws(
        () => configOf({ service: { name: 'x', token } }),
        (error: Error) => {
          assert.equal(error.name, 'ConfigurationError')
          assert.ok(error.message.startsWith(`${PATH}: service x: token: expected a string`), error.message)
          assert.doesNotMatch(error.message, /5ec7e7|571003/)
          return true
        },
      )
    }
  })

  it('describe a value without long text', () => {
    const cases: [value: unknown, text: string][] = [
      [null, 'null'],
      [undefined, 'undefined'],
      [['a'], 'a list'],
      [{ a: 1 }, 'an object'],
      ['x'.repeat(64), `"${'x'.repeat(64)}"`],
      ['x'.repeat(65), 'a long string'],
      ['a\u001b[31m', '"a\\u001b[31m"'],
      [5, 'the number 5'],
      [false, 'the boolean false'],
    ]
    for (const [value, text] of cases) assert.equal(describeValue(value), text)
  })

  it('are the only errors for any JSON', () => {
    const anything = fc.oneof(
      fc.jsonValue({ maxDepth: 3 }),
      fc.record(
        {
          service: fc.record({
            name: fc.constantFrom('x', ''),
            port: fc.jsonValue(),
            connect: fc.record({
              proxy: fc.dictionary(
                fc.constantFrom('command', 'config', 'upstreams', 'exec_mode'),
                fc.jsonValue(),
              ),
            }),
          }),
          connect: fc.dictionary(fc.constantFrom('proxy', 'proxy_defaults', 'Proxy'), fc.jsonValue()),
          ports: fc.jsonValue(),
          bind_addr: fc.jsonValue(),
        },
        { requiredKeys: [] },
      ),
    )
    fc.assert(
      fc.property(anything, (value) => {
        if (typeof value !== 'object' || value === null || Array.isArray(value)) return
        try {
          configOf(value)
        } catch (error) {
          assert.equal((error as Error).name, 'ConfigurationError', String((error as Error).stack))
        }
      }),
      { numRuns: 500 },
    )
  })
})
