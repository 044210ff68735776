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
import { ConfigurationError, describe as say } from '../../examples/supervisor/src/configuration/error.js'
import { keysOf } from '../../examples/supervisor/src/configuration/keys.js'
import {
  type ManagedBlock,
  adminArgs,
  proxyConfigOf,
} from '../../examples/supervisor/src/configuration/managed.js'
import { type Json, parseJson } from '../../examples/supervisor/src/configuration/parse.js'
import { toRequest, upstreamRequest } from '../../examples/supervisor/src/configuration/request.js'

const PATH = '/etc/connect.d/web.json'

/** What files with these contents say, whose names are in the order of the alphabet. */
function combined(...contents: object[]): Configuration {
  return combine(
    contents.map((content, i) => ({ path: `/etc/connect.d/${i}.json`, content: content as Json })),
  )
}

/** What one file says. */
function one(content: object): Configuration {
  return combine([{ path: PATH, content: content as Json }])
}

/** The service of a file that has one. */
function serviceOf(service: object, ...others: object[]): ServiceDefinition {
  const { services } = combined({ service }, ...others)
  assert.equal(services.length, 1)
  return services[0]!
}

/** The managed block of the service `web` with this `connect.proxy`, and with other files after its own. */
function managedOf(proxy: unknown, ...others: object[]): ManagedBlock {
  const { managed } = serviceOf({ name: 'web', port: 80, connect: { proxy } }, ...others)
  assert.ok(managed)
  return managed
}

/** What the agent is sent for a service. */
function bodyOf(service: object): Json {
  return serviceOf(service).body
}

/** A service `web` with a managed proxy. */
function web(proxy: unknown, beside: object = {}): object {
  return { service: { name: 'web', port: 80, ...beside, connect: { proxy } } }
}

const FOLDER = '/etc/connect.d'

/** What there is in an empty block. */
const NOTHING: ManagedBlock = {
  command: undefined,
  folder: undefined,
  config: {},
  upstreams: [],
  tcpCheckAddress: undefined,
  disableTcpCheck: undefined,
  bindPort: undefined,
}

describe('supervisor: a configuration', () => {
  it('has defaults for all that is left out', () => {
    assert.deepEqual(combined(), {
      services: [],
      defaults: NOTHING,
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

  it('takes everything that the agent had for managed proxies', () => {
    const { services, defaults, ...rest } = one({
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
      ...NOTHING,
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

  it('may be in the spelling of requests', () => {
    const configuration = one({
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
      ...NOTHING,
      command: ['/x'],
      folder: FOLDER,
      config: { a: 1 },
    })
    assert.deepEqual(
      [configuration.allowManagedRoot, configuration.dataDir, configuration.bindAddress],
      [true, '/d', '::1'],
    )
  })

  it('adds services up in their order', () => {
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

  it('goes by the later word, key by key', () => {
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

  it('puts the defaults of several files together', () => {
    const { defaults } = combined(
      {
        connect: {
          proxy_defaults: { daemon_command: ['./a'], config: { a: 1, b: 1, tcp_check_address: '1.1.1.1' } },
        },
      },
      { connect: { proxy_defaults: { config: { b: 2, c: 2, disable_tcp_check: false } } } },
    )
    assert.deepEqual(defaults, {
      ...NOTHING,
      command: ['./a'],
      folder: FOLDER,
      config: { a: 1, b: 2, c: 2 },
      tcpCheckAddress: '1.1.1.1',
      disableTcpCheck: false,
    })
  })

  const addresses: [written: string, address: string][] = [
    ['127.0.0.1', '127.0.0.1'],
    ['0.0.0.0', '0.0.0.0'],
    ['::', '::'],
    ['[::]', '::'],
    ['[fe80::1]', 'fe80::1'],
  ]
  for (const [written, address] of addresses) {
    it(`takes ${written} as bind_addr`, () => {
      assert.equal(one({ bind_addr: written }).bindAddress, address)
    })
  }

  it('leaves the value of a template as bind_addr to the agent', () => {
    const { bindAddress, isBindTemplate } = one({ bind_addr: '{{ GetInterfaceIP "eth0" }}' })
    assert.deepEqual([bindAddress, isBindTemplate], [undefined, true])
    const later = combined({ bind_addr: '{{ GetPrivateIP }}' }, { bind_addr: '10.0.0.1' })
    assert.deepEqual([later.bindAddress, later.isBindTemplate], ['10.0.0.1', false])
  })

  it('takes a range of a single port', () => {
    assert.deepEqual(one({ ports: { proxy_min_port: 5, proxy_max_port: 5 } }).ports, { min: 5, max: 5 })
  })

  it('is read from files and folders', async (t) => {
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
      ...NOTHING,
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

  it('says which file cannot be read', async () => {
    await assert.rejects(readConfiguration(['/nowhere/a.hcl']), {
      name: 'ConfigurationError',
      message: '/nowhere/a.hcl: cannot be read (ENOENT)',
    })
  })

  for (const depth of [500, 1_000, 2_000, 4_000, 8_000]) {
    it(`does not fall over what is nested ${depth} deep`, () => {
      const text = `{"service":{"name":"x","meta":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}}`
      try {
        JSON.stringify(one(parseJson(PATH, text)).services)
      } catch (error) {
        assert.equal((error as Error).name, 'ConfigurationError', (error as Error).message)
      }
    })
  }
})

describe('supervisor: a service', () => {
  it('needs no more than a name', () => {
    assert.deepEqual(serviceOf({ name: 'redis' }), {
      id: 'redis',
      name: 'redis',
      port: undefined,
      address: undefined,
      sender: { token: undefined, isForeign: false },
      body: { Name: 'redis', ID: 'redis' },
      managed: undefined,
      origin: '/etc/connect.d/0.json',
    })
  })

  it('has its id, its address and its token', () => {
    const { body, ...rest } = serviceOf({
      id: 'redis-1',
      name: 'redis',
      port: 6379,
      address: '10.0.0.1',
      token: 'secret',
    })
    assert.deepEqual(rest, {
      id: 'redis-1',
      name: 'redis',
      port: 6379,
      address: '10.0.0.1',
      sender: { token: 'secret', isForeign: false },
      managed: undefined,
      origin: '/etc/connect.d/0.json',
    })
    assert.deepEqual(body, { ID: 'redis-1', Name: 'redis', Port: 6379, Address: '10.0.0.1' })
  })

  it('takes what is empty for what does not exist', () => {
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

  it('may be in the spelling of requests', () => {
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
      ...NOTHING,
      command: ['/x', '-y'],
      folder: FOLDER,
      config: { some_key: 1 },
      upstreams: [{ DestinationName: 'db' }],
    })
  })

  it('keeps its token, and what is for us, from the body', () => {
    const service = {
      name: 'web',
      port: 80,
      token: 'secret',
      connect: { proxy: { command: ['/x'] }, native: false },
    }
    assert.deepEqual(bodyOf(service), { Name: 'web', Port: 80, ID: 'web', Connect: { Native: false } })
    assert.deepEqual(bodyOf({ name: 'web', port: 80, connect: { proxy: {} } }), {
      Name: 'web',
      Port: 80,
      ID: 'web',
    })
    assert.deepEqual(bodyOf({ Name: 'web', Port: 80, Token: 's', Connect: { Proxy: {} } }), {
      Name: 'web',
      Port: 80,
      ID: 'web',
    })
  })

  it('passes through whatever else it has, in the spelling of the API', () => {
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
      something_new: [{ inside_it: [1, 'a_b', null, false] }],
    }
    assert.deepEqual(bodyOf(service), {
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
      SomethingNew: { InsideIt: [1, 'a_b', null, false] },
    })
  })

  it('passes through its checks', () => {
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

  it('passes through its sidecar_service, beside a managed proxy or without one', () => {
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

  // Consul 1.8.7 takes both, and answers with a list as it was written.
  it('passes through lists in what only a proxy understands', () => {
    const list = [{ some_key: 1 }, { some_key: 2 }]
    const proxy = { destination_service_name: 'y', config: { routes: list } }
    assert.deepEqual(bodyOf({ name: 'x', kind: 'connect-proxy', port: 1, proxy })['Proxy'], {
      DestinationServiceName: 'y',
      Config: { routes: list },
    })
    assert.deepEqual(managedOf({ command: ['/x'], config: { routes: list } }).config, { routes: list })
  })

  it('may be a proxy, or native, when it has none of ours', () => {
    const proxy = { destination_service_name: 'web', config: { some_key: 1 } }
    const { managed, body } = serviceOf({ name: 'web-proxy', kind: 'connect-proxy', port: 1, proxy })
    assert.equal(managed, undefined)
    assert.equal(body['Kind'], 'connect-proxy')
    assert.deepEqual(bodyOf({ name: 'web', connect: { native: true } })['Connect'], { Native: true })
  })

  // Consul 1.8.7 accepts these in a sidecar_service with status 200, and then reports them to no server.
  it('rejects upstreams of a sidecar_service or an unmanaged proxy that servers reject', () => {
    const api = { destination_name: 'api', local_bind_port: 1 }
    const wrong: [object[], RegExp][] = [
      [[api, { ...api, local_bind_port: 2 }], /upstreams\[1\].destination_name: duplicate destination/],
      [[api, { ...api, destination_name: 'db' }], /upstreams\[1\].local_bind_port: duplicate address/],
      [[{ local_bind_port: 1 }], /upstreams\[0\].destination_name: expected the name of a service/],
      [[{ destination_name: 'api' }], /upstreams\[0\].local_bind_port: expected a port from 1 to 65535/],
      [
        [{ ...api, destination_type: 'x' }],
        /upstreams\[0\].destination_type: expected service or prepared_query/,
      ],
    ]
    const right = [
      api,
      { destination_name: 'api', destination_type: 'prepared_query', local_bind_port: 2 },
      { DestinationName: 'api', Datacenter: 'dc2', LocalBindAddress: '127.0.0.2', LocalBindPort: 1 },
    ]
    const services = (upstreams: object[]): object[] => [
      { name: 'web', port: 80, connect: { sidecar_service: { proxy: { upstreams } } } },
      { name: 'p', kind: 'connect-proxy', port: 1, proxy: { destination_service_name: 'web', upstreams } },
    ]
    for (const service of services(right)) assert.deepEqual(one({ service }).warnings, [])
    for (const [upstreams, message] of wrong) {
      for (const service of services(upstreams)) {
        assert.throws(() => one({ service }), { name: 'ConfigurationError', message })
      }
    }
  })

  it('warns of a unix socket in a sidecar_service, which agents before 1.10 reject', () => {
    const upstreams = [{ destination_name: 'api', local_bind_socket_path: '/run/api.sock' }]
    const connect = { sidecar_service: { proxy: { upstreams } } }
    const { warnings } = one({ service: { name: 'web', port: 80, connect } })
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

  it('takes the id of no managed proxy when there is none', () => {
    assert.equal(combined({ services: [{ name: 'a' }, { name: 'a-proxy' }] }).services.length, 2)
  })

  it('may share its name with others', () => {
    const { services } = combined({
      services: [
        { name: 'a', id: '1' },
        { name: 'a', id: '2' },
      ],
    })
    assert.deepEqual(
      services.map(({ id, name }) => [id, name]),
      [
        ['1', 'a'],
        ['2', 'a'],
      ],
    )
  })

  it('is not changed by reading it', () => {
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

  it('is what an agent would take it for, however its keys are written', () => {
    for (const [name, port, connect, proxy] of [
      ['NAME', 'PORT', 'CONNECT', 'PROXY'],
      ['nAmE', 'Port', 'conNect', 'pRoxy'],
    ] as const) {
      const service = serviceOf({ [name]: 'web', [port]: 80, [connect]: { [proxy]: { COMMAND: ['/x'] } } })
      assert.deepEqual([service.name, service.port, service.managed?.command], ['web', 80, ['/x']])
      assert.equal(JSON.stringify(service.body).includes('/x'), false)
    }
  })

  it('may have keys that are one to an agent nowhere inside', () => {
    for (const service of [
      { name: 'x', checks: [{ ttl: '1s', TTL: '2s' }] },
      { name: 'x', connect: { sidecar_service: { port: 1, PORT: 2 } } },
    ]) {
      assert.throws(() => one({ service }), {
        name: 'ConfigurationError',
        message: /are the same key to an agent|two spellings/,
      })
    }
  })

  it('says where there are keys that are one to an agent', () => {
    assert.throws(() => one({ service: { name: 'x', checks: [{ ttl: '1s', TTL: '2s' }] } }), {
      message: new RegExp(`^${PATH}: service x: `),
    })
  })

  it('that came by a request has no rights of ours', () => {
    const context = { origin: 'the request', folder: undefined, isForeign: true, warn: () => undefined }
    assert.deepEqual(readDefinition({ Name: 'web' }, context).sender, { token: undefined, isForeign: true })
    assert.deepEqual(readDefinition({ Name: 'web', Token: 'x' }, context).sender, {
      token: 'x',
      isForeign: true,
    })
  })

  it('that came by a request has no folder for its command', () => {
    const context = { origin: 'the request', folder: undefined, warn: () => undefined }
    const { managed, origin } = readDefinition(
      { Name: 'web', Port: 80, Connect: { Proxy: { Command: ['./x'] } } },
      context,
    )
    assert.equal(origin, 'the request')
    assert.deepEqual(managed, { ...NOTHING, command: ['./x'], folder: undefined })
  })

  it('has a name that files and paths can have, or is refused', () => {
    const context = { origin: 'the request', folder: undefined, warn: () => undefined }
    for (const name of ['\ud800', 'a\udfffb']) {
      assert.throws(
        () => readDefinition({ name }, context),
        { name: 'ConfigurationError' },
        JSON.stringify(name),
      )
    }
  })

  const names = fc.string({ minLength: 1, maxLength: 200 })
  it('keeps any name that is not refused', () => {
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

/** With its keys as Go's JSON compares them. */
function folded(value: Json): Json {
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key.toLowerCase(), inner]))
}

describe('supervisor: requests', () => {
  const user = fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 5 })
  it('leave the keys alone that are the user’s', () => {
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

  it('are the same from either spelling', () => {
    const file = {
      id: 'w',
      enable_tag_override: true,
      tagged_addresses: { lan: { address: 'a' } },
      connect: { sidecar_service: { proxy: { local_service_port: 1 } } },
    }
    const request = {
      ID: 'w',
      EnableTagOverride: true,
      TaggedAddresses: { lan: { Address: 'a' } },
      Connect: { SidecarService: { Proxy: { LocalServicePort: 1 } } },
    }
    assert.deepEqual(toRequest(PATH, file), request)
    assert.deepEqual(toRequest(PATH, request), request)
  })
})

describe('supervisor: a managed proxy', () => {
  it('needs no more than a block', () => {
    assert.deepEqual(managedOf({}), NOTHING)
  })

  it('has everything that there was', () => {
    const { services, warnings } = one(
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

  it('may be empty where it says how it is run', () => {
    assert.deepEqual(managedOf({ exec_mode: '' }), NOTHING)
  })

  it('keeps the address of the check, and what turns it off, from the proxy', () => {
    const file = managedOf({ config: { tcp_check_address: '10.0.0.2', disable_tcp_check: true } })
    const request = managedOf({ Config: { TCPCheckAddress: '10.0.0.2', DisableTCPCheck: true } })
    for (const { config, tcpCheckAddress, disableTcpCheck } of [file, request]) {
      assert.deepEqual([config, tcpCheckAddress, disableTcpCheck], [{}, '10.0.0.2', true])
    }
  })

  const DB = { destination_name: 'db', local_bind_port: 5_432 }
  const MQ = { destination_name: 'mq', local_bind_port: 5_672 }
  const upstreams: [what: string, proxy: object, upstreams: object[]][] = [
    ['beside config', { upstreams: [DB, MQ] }, [DB, MQ]],
    ['inside config', { config: { upstreams: [DB, MQ] } }, [DB, MQ]],
    ['inside config, in the other spelling', { Config: { Upstreams: [DB] } }, [DB]],
    ['in a single block', { upstreams: DB }, [DB]],
    ['in a single block inside config', { config: { upstreams: DB } }, [DB]],
    ['in both, of which those beside it count', { upstreams: [DB], config: { upstreams: [MQ] } }, [DB]],
    ['in neither', { config: {} }, []],
    ['in neither, and null', { upstreams: null, config: { upstreams: null } }, []],
    // Consul 1.3 looked into config when there were none beside it.
    ['inside config, with an empty list beside it', { upstreams: [], config: { upstreams: [DB] } }, [DB]],
  ]
  for (const [what, proxy, expected] of upstreams) {
    it(`has its upstreams ${what}`, () => {
      const { upstreams, config } = managedOf(proxy)
      assert.deepEqual(upstreams, expected)
      assert.deepEqual(config, {})
    })
  }

  it('may leave the port of the service to its configuration', () => {
    for (const config of [
      { local_service_address: '127.0.0.1:5' },
      { local_service_port: 5 },
      { local_service_socket_path: '/run/x.sock' },
      { local_service_address: '127.0.0.1:5' },
    ]) {
      assert.deepEqual(serviceOf({ name: 'web', connect: { proxy: { config } } }).managed?.config, config)
    }
  })

  // The address of the application is what the service says, for a port of the range and for a given one.
  it('may have an admin address, which is a flag of our own proxy and a key for any other', () => {
    const config = { admin_addr: '127.0.0.1:9103' }
    assert.deepEqual(one(web({ config })).warnings, [])
    assert.deepEqual(adminArgs(managedOf({ config })), ['-admin-addr', '127.0.0.1:9103'])
    assert.deepEqual(proxyConfigOf(managedOf({ config })), {})
    assert.deepEqual(adminArgs(managedOf({ command: ['/x'], config })), [])
    assert.deepEqual(proxyConfigOf(managedOf({ command: ['/x'], config })), config)
    assert.throws(() => managedOf({ config: { admin_addr: '127.0.0.1' } }), {
      message: /config: admin_addr: expected \[HOST\]:PORT/,
    })
    const services = ['a', 'b'].map((name) => ({ name, port: 80, connect: { proxy: { config } } }))
    assert.throws(() => one({ services }), { message: /admin_addr: address \S+ is already used by a in / })
  })

  it('warns of an upstream that listens where that of another proxy does', () => {
    const service = (name: string, upstream: object) => ({
      name,
      port: 80,
      connect: { proxy: { upstreams: [{ destination_name: 'db', ...upstream }] } },
    })
    const warningsOf = (first: object, second: object) =>
      one({ services: [service('a', first), service('b', second)] }).warnings
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

  it('may have a port of its own, and no more', () => {
    const { bindPort, config } = managedOf({ config: { bind_port: 7_000 } })
    assert.equal(bindPort, 7_000)
    assert.deepEqual(config, { bind_port: 7_000 })
    assert.equal(managedOf({ Config: { BindPort: 7_000 } }).bindPort, 7_000)
    assert.equal(managedOf({ command: ['/x'], config: { bind_port: '7000' } }).bindPort, 7_000)
    assert.equal(managedOf({ command: ['/x'], config: { bind_port: '' } }).bindPort, undefined)
  })

  describe('and defaults', () => {
    const defaults = (proxy_defaults: object): object => ({ connect: { proxy_defaults } })

    it('takes all from the defaults', () => {
      const given = {
        daemon_command: ['./proxy', '-x'],
        config: { a: 1, bind_port: 7_000, tcp_check_address: '10.0.0.2', disable_tcp_check: true },
      }
      assert.deepEqual(managedOf({}, defaults(given)), {
        command: ['./proxy', '-x'],
        folder: '/etc/connect.d',
        config: { a: 1, bind_port: 7_000 },
        upstreams: [],
        tcpCheckAddress: '10.0.0.2',
        disableTcpCheck: true,
        bindPort: 7_000,
      })
    })

    it('comes before them with its own words', () => {
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

    it('takes command for daemon_command, and rejects both', () => {
      assert.deepEqual(managedOf({}, defaults({ command: ['/usr/bin/my-proxy'] })).command, [
        '/usr/bin/my-proxy',
      ])
      const both = defaults({ command: ['/a'], daemon_command: ['/b'] })
      assert.throws(() => managedOf({}, both), {
        message: /command and daemon_command are aliases; remove one/,
      })
    })

    it('takes the command of the defaults against their folder', () => {
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

    it('may have upstreams in them', () => {
      assert.deepEqual(managedOf({}, defaults({ config: { upstreams: [DB] } })).upstreams, [DB])
    })

    it('comes before them in the other spelling as well', () => {
      const { config } = managedOf(
        { config: { handshakeTimeoutMs: 2 } },
        defaults({ config: { handshake_timeout_ms: 1 } }),
      )
      assert.deepEqual(Object.values(config), [2])
    })

    it('gives nothing to services without a managed proxy', () => {
      assert.equal(serviceOf({ name: 'web' }, defaults({ config: { a: 1 } })).managed, undefined)
    })
  })

  it('has keys that our own proxy knows in one spelling, and others as they were written', () => {
    const config = { BindAddress: '[::1]', LocalConnectTimeoutMs: 5, SomeKey: 1, some_other: { InnerKey: 2 } }
    assert.deepEqual(managedOf({ command: ['/x'], config }).config, {
      bind_address: '::1',
      local_connect_timeout_ms: 5,
      SomeKey: 1,
      some_other: { InnerKey: 2 },
    })
  })

  it('never loses a key of config that is not ours', () => {
    const ours = ['tcp_check_address', 'disable_tcp_check', 'upstreams', 'bind_port']
    const keys = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,4}(_[a-z]{1,4})?$/), { maxLength: 6 })
    fc.assert(
      fc.property(keys, fc.jsonValue(), (names, value) => {
        const config = Object.fromEntries(
          names
            .filter((name) => !ours.includes(name) && !name.startsWith('local'))
            .map((name) => [name, [1, value]]),
        )
        const given = { ...config, tcp_check_address: '10.0.0.1', disable_tcp_check: true, upstreams: [DB] }
        assert.deepEqual(managedOf({ command: ['/x'], config: given }).config, config)
      }),
    )
  })
})

describe('supervisor: keys', () => {
  it('are those of files, whichever they were', () => {
    assert.deepEqual(keysOf('x', { LocalBindPort: 1, some_key: { InnerKey: 2 } }), {
      local_bind_port: 1,
      some_key: { InnerKey: 2 },
    })
  })

  it('do no harm with a name that objects have', () => {
    const keys = keysOf('x', JSON.parse('{"__proto__":{"polluted":true},"constructor":1}'))
    assert.deepEqual(Object.keys(keys), ['__proto__', 'constructor'])
    assert.equal(Reflect.get(keys, 'polluted'), undefined)
  })

  it('that are not known are told, and stay', () => {
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

  it('are those of objects alone', () => {
    for (const value of [null, undefined, 5, 'x', []]) {
      assert.throws(() => keysOf('a place', value), {
        message: `a place: expected an object, got ${say(value)}`,
      })
    }
  })
})

describe('supervisor: warnings', () => {
  const warned: [content: object, warning: string][] = [
    [
      web({ colour: 'red' }),
      'service web: connect.proxy: unknown key colour has no effect; known keys: exec_mode, command, config, upstreams',
    ],
    [
      web({ Colour: 'red' }),
      'service web: connect.proxy: unknown key Colour has no effect; known keys: exec_mode, command, config, upstreams',
    ],
    [web({ config: { colour: 'red' } }), 'service web: connect.proxy: colour: no such key; it has no effect'],
    [
      web({ upstreams: [{ destination_name: 'db', local_bind_port: 1, colour: 'red' }] }),
      'service web: connect.proxy: upstreams[0].colour: no such key; it has no effect',
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
  for (const [content, warning] of warned) {
    it(`are given for ${JSON.stringify(content)}`, () => {
      assert.deepEqual(one(content).warnings, [`${PATH}: ${warning}`])
    })
  }

  const silent: [what: string, content: object][] = [
    [
      'of a custom proxy’s own affair',
      web({ command: ['/x'], config: { colour: 'red' }, upstreams: [{ colour: 'red' }] }),
    ],
    [
      'of the same in the defaults’ command',
      { ...web({ config: { colour: 'red' } }), connect: { proxy_defaults: { daemon_command: ['/x'] } } },
    ],
    [
      'of what the agent reads',
      { node_name: 'x', connect: { enabled: true, ca_provider: 'consul' }, ports: { dns: 1 } },
    ],
  ]
  for (const [what, content] of silent) {
    it(`are not given ${what}`, () => {
      assert.deepEqual(one(content).warnings, [])
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
    assert.deepEqual(one(web({ config: { upstreams: [upstream] } })).warnings, [])
  })
})

describe('supervisor: mistakes', () => {
  const LONG = 'x'.repeat(201)
  const COMMAND = 'expected a list with a program and its arguments, such as ["/usr/bin/proxy", "-x"]'
  const PORT = 'expected a port from 1 to 65535'
  const mistakes: [content: object, message: string][] = [
    [{ service: 'x' }, 'service: expected a list, got "x"'],
    [{ services: ['x'] }, 'service: expected an object, got "x"'],
    [{ service: {} }, 'service: missing name'],
    [{ service: { id: 'x' } }, 'service: missing name'],
    [{ service: { name: '' } }, 'service: name: expected a string, got ""'],
    [{ service: { name: 5 } }, 'service: name: expected a string, got the number 5'],
    [
      { service: { name: 'a/b' } },
      'service: name: expected a name of at most 200 characters without slashes, got "a/b"',
    ],
    [
      { service: { name: 'a\nb' } },
      'service: name: expected a name of at most 200 characters without slashes, got "a\\nb"',
    ],
    [
      { service: { name: '..' } },
      'service: name: expected a name of at most 200 characters without slashes, got ".."',
    ],
    [
      { service: { name: LONG } },
      'service: name: expected a name of at most 200 characters without slashes, got a long string',
    ],
    [
      { service: { name: 'x', id: '../y' } },
      'service x: id: expected a name of at most 200 characters without slashes, got "../y"',
    ],
    [{ service: { name: 'x', id: 5 } }, 'service x: id: expected a string, got the number 5'],
    [{ service: { name: 'x', Name: 'y' } }, 'service: name: set twice, in two spellings'],
    [{ service: { name: 'x', Connect: {}, connect: {} } }, 'service: connect: set twice, in two spellings'],
    [{ service: { name: 'x', port: '80' } }, `service x: port: ${PORT}, got "80"`],
    [{ service: { name: 'x', port: 65_536 } }, `service x: port: ${PORT}, got the number 65536`],
    [{ service: { name: 'x', port: -1 } }, `service x: port: ${PORT}, got the number -1`],
    [{ service: { name: 'x', port: 1.5 } }, `service x: port: ${PORT}, got the number 1.5`],
    [{ service: { name: 'x', address: 5 } }, 'service x: address: expected a string, got the number 5'],
    [
      { service: { name: 'x', connect: true } },
      'service x: connect: expected an object, got the boolean true',
    ],
    [{ Service: { Name: 'x' }, service: { name: 'y' } }, 'service: set twice, in two spellings'],
    [web(true), 'service web: connect.proxy: expected an object, got the boolean true'],
    [web([]), 'service web: connect.proxy: expected an object, got a list'],
    [web([{}, {}]), 'service.connect.proxy: expected one block, found 2'],
    [
      web({ exec_mode: 'script' }),
      'service web: connect.proxy: exec_mode: expected "daemon", the only supported mode, got "script"',
    ],
    [
      web({ exec_mode: 5 }),
      'service web: connect.proxy: exec_mode: expected "daemon", the only supported mode, got the number 5',
    ],
    [
      web({ ExecMode: 'script' }),
      'service web: connect.proxy: exec_mode: expected "daemon", the only supported mode, got "script"',
    ],
    [web({ command: '/x -y' }), `service web: connect.proxy: command: ${COMMAND}`],
    [web({ command: [] }), `service web: connect.proxy: command: ${COMMAND}`],
    [web({ command: [''] }), `service web: connect.proxy: command: ${COMMAND}`],
    [web({ command: ['/x', 5] }), `service web: connect.proxy: command: ${COMMAND}`],
    [web({ command: ['/x', 'a\0b'] }), `service web: connect.proxy: command: ${COMMAND}`],
    [
      web({ command: ['/x'], Command: ['/y'] }),
      'service web: connect.proxy: command: set twice, in two spellings',
    ],
    [web({ config: 'x' }), 'service web: connect.proxy: config: expected an object, got "x"'],
    [
      web({ config: { bind_port: 1, BindPort: 1 } }),
      'service web: connect.proxy: config: bind_port: set twice, in two spellings',
    ],
    [
      web({ config: { a_b: 1, aB: 1 } }),
      'service web: connect.proxy: aB: expected one spelling of a key, got two',
    ],
    [{ service: { name: 'x', NAME: 'y' } }, 'service: name: set twice, in two spellings'],
    [{ service: { name: 'x', tags: ['a'], TAGS: ['b'] } }, 'service: tags: set twice, in two spellings'],
    [{ service: { name: 'x', meta: {}, Me_Ta: {} } }, 'service: me_ta: set twice, in two spellings'],
    [
      web({ config: { tcp_check_address: 5 } }),
      'service web: connect.proxy: config: tcp_check_address: expected a string, got the number 5',
    ],
    [
      web({ config: { disable_tcp_check: 'true' } }),
      'service web: connect.proxy: config: disable_tcp_check: expected true or false, got "true"',
    ],
    [
      web({ config: { bind_port: 0 } }),
      `service web: connect.proxy: config: bind_port: ${PORT}, got the number 0`,
    ],
    [
      web({ config: { bind_port: '70000' } }),
      `service web: connect.proxy: config: bind_port: ${PORT}, got the number 70000`,
    ],
    [
      web({ config: { bind_address: 5 } }),
      'service web: connect.proxy: bind_address: expected an address or a host name, got the number 5',
    ],
    [
      web({ config: { handshake_timeout_ms: 'x' } }),
      'service web: connect.proxy: handshake_timeout_ms: expected a positive number of milliseconds, got the string "x"',
    ],
    [web({ upstreams: 'db' }), 'service web: connect.proxy: upstreams: expected a list, got "db"'],
    [
      web({ upstreams: [5] }),
      'service web: connect.proxy: upstreams[0]: expected an object, got the number 5',
    ],
    [
      web({ config: { upstreams: ['db'] } }),
      'service web: connect.proxy: upstreams[0]: expected an object, got "db"',
    ],
    [
      web({ upstreams: [{ destination_name: 'db' }] }),
      'service web: connect.proxy: upstreams[0].local_bind_port: expected a port from 1 to 65535, got the number 0, or none',
    ],
    [
      web({
        upstreams: [
          { destination_name: 'a', local_bind_port: 1 },
          { destination_name: 'b', local_bind_port: 1 },
        ],
      }),
      'service web: connect.proxy: upstreams[1].local_bind_port: expected an address of its own, got that of upstreams[0], 127.0.0.1:1',
    ],
    [
      web({}, { port: 0 }),
      'service web: connect.proxy: address of the application unknown; set port in the service, or local_service_address in config',
    ],
    [
      { service: { name: 'web', connect: { proxy: {} } } },
      'service web: connect.proxy: address of the application unknown; set port in the service, or local_service_address in config',
    ],
    [
      web({ command: ['/x'] }, { port: undefined }),
      'service web: connect.proxy: address of the application unknown; set port in the service, or local_service_address in config',
    ],
    [
      web({}, { kind: 'connect-proxy', proxy: { destination_service_name: 'x' } }),
      'service web: connect.proxy: a proxy cannot have a managed proxy; remove connect.proxy or kind',
    ],
    [
      web({}, { Kind: 'mesh-gateway' }),
      'service web: connect.proxy: a proxy cannot have a managed proxy; remove connect.proxy or kind',
    ],
    [
      { service: { name: 'web', port: 80, connect: { native: true, proxy: {} } } },
      'service web: connect.proxy: a native service needs no managed proxy; remove native or proxy',
    ],
    [
      { service: { name: 'web', port: 80, Connect: { Native: true, Proxy: {} } } },
      'service web: connect.proxy: a native service needs no managed proxy; remove native or proxy',
    ],
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
    [{ data_dir: 5 }, 'data_dir: expected a string, got the number 5'],
    [{ log_level: 5 }, 'log_level: expected a string, got the number 5'],
    [{ log_json: 'true' }, 'log_json: expected true or false, got "true"'],
  ]
  for (const [content, message] of mistakes) {
    it(`are named with their file and place: ${message}`, () => {
      assert.throws(() => one(content), { name: 'ConfigurationError', message: `${PATH}: ${message}` })
    })
  }

  it('in the upstreams of a custom proxy are found before it is registered', () => {
    const upstream = { destination_name: 'db', DestinationName: 'mq', local_bind_port: 1 }
    assert.throws(() => one(web({ command: ['/x'], upstreams: [upstream] })), {
      name: 'ConfigurationError',
      message: new RegExp(`^${PATH}: service web: connect\\.proxy: upstreams\\[0\\]`),
    })
  })

  it('in a range are named with the numbers', () => {
    assert.throws(() => one({ ports: { proxy_min_port: 5, proxy_max_port: 4 } }), {
      name: 'ConfigurationError',
      message: /proxy_min_port 5 is greater than proxy_max_port 4$/,
    })
  })

  it('in a range are named with their file', () => {
    assert.throws(() => one({ ports: { proxy_min_port: 30_000 } }), { message: new RegExp(`^${PATH}: `) })
  })

  it('of two files are named with both', () => {
    assert.throws(() => combined({ service: { name: 'a' } }, { service: { name: 'a' } }), {
      message:
        '/etc/connect.d/1.json: service a: duplicate service id a, already used in /etc/connect.d/0.json; set a distinct "id"',
    })
  })

  it('say nothing of a token', () => {
    for (const token of [[`5ec7e7-5ec7e7`], { x: '5ec7e7' }, 57_100_357_100_3]) {
      const shown = Array.isArray(token) || typeof token === 'object' ? '5ec7e7' : String(token)
      assert.throws(
        () => one({ service: { name: 'x', token } }),
        (error: Error) => {
          assert.equal(error.name, 'ConfigurationError')
          assert.ok(error.message.startsWith(`${PATH}: service x: token: expected a string`), error.message)
          assert.ok(!error.message.includes(shown), error.message)
          return true
        },
      )
    }
  })

  it('are described without what is long', () => {
    const shown: [unknown, string][] = [
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
    for (const [value, words] of shown) assert.equal(say(value), words)
  })

  it('are errors of the configuration, whatever it is that is wrong', () => {
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
          one(value)
        } catch (error) {
          assert.equal((error as Error).name, 'ConfigurationError', String((error as Error).stack))
        }
      }),
      { numRuns: 500 },
    )
  })
})
