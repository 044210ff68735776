// Registrations in every spelling of their fields: which of them an agent takes, and what it makes of them.
import type { Recorder } from './comparison.js'

/** A proxy with these settings. Its destination is not `web`: a real agent would fetch its leaf ahead of time. */
function proxyOf(settings: object): object {
  return {
    Name: 'spelt',
    Kind: 'connect-proxy',
    Port: 1,
    Proxy: { DestinationServiceName: 'shop', ...settings },
  }
}

const services: Record<string, object> = {
  'of a proxy in snake_case': {
    name: 'spelt',
    kind: 'connect-proxy',
    port: 1,
    proxy: {
      destination_service_name: 'shop',
      destination_service_id: 'shop1',
      local_service_address: '127.0.0.3',
      local_service_port: 8080,
      config: { some_thing: 1 },
      upstreams: [
        { destination_name: 'db', local_bind_port: 9191 },
        {
          destination_type: 'prepared_query',
          destination_namespace: 'other',
          destination_name: 'near',
          datacenter: 'dc1',
          local_bind_address: '127.0.0.2',
          local_bind_port: 9191,
          config: { connect_timeout_ms: 1 },
        },
      ],
    },
  },
  'of a proxy in both': {
    ...proxyOf({
      destination_service_name: 'db',
      LocalServicePort: 0,
      local_service_port: 3,
      upstreams: [
        {
          DestinationName: '',
          destination_name: 'a',
          DestinationType: 'prepared_query',
          destination_type: 'service',
          LocalBindPort: 3,
          local_bind_port: 4,
        },
      ],
    }),
  },
  'of a proxy in no capitals': {
    Name: 'spelt',
    Kind: 'connect-proxy',
    Port: 1,
    Proxy: { destinationservicename: 'shop', localserviceport: 1 },
  },
  'of a proxy with nothing in its fields': proxyOf({
    destination_service_id: '',
    local_service_address: '',
    local_service_port: 0,
    config: {},
    Expose: { Paths: [], Checks: false },
    upstreams: [
      {
        destination_name: 'db',
        destination_type: '',
        local_bind_address: '',
        local_bind_port: 1,
        datacenter: '',
        config: {},
      },
    ],
  }),
  'of a proxy with null in its fields': proxyOf({
    local_service_port: null,
    upstreams: null,
    MeshGateway: null,
    Config: null,
  }),
  'of a proxy by its destination alone': {
    Name: 'spelt',
    Kind: 'connect-proxy',
    Port: 1,
    proxy_destination: 'shop',
  },
  'of a gateway': proxyOf({
    MeshGateway: { mode: 'local' },
    upstreams: [{ destination_name: 'db', local_bind_port: 1, MeshGateway: { Mode: 'none' } }],
  }),
  'of a gateway in snake_case': proxyOf({ mesh_gateway: { mode: 'local' } }),
  'of a gateway of an upstream in snake_case': proxyOf({
    upstreams: [{ destination_name: 'db', local_bind_port: 1, mesh_gateway: { mode: 'none' } }],
  }),
  'of a gateway with an unknown field': proxyOf({ MeshGateway: { Bogus: 1 } }),
  'of exposed paths': proxyOf({
    expose: {
      paths: [
        { path: '/a', local_path_port: 3, listener_port: 4, protocol: 'http' },
        { Path: '/b', ListenerPort: 5, ParsedFromCheck: true },
      ],
    },
  }),
  'of an exposed path with an unknown field': proxyOf({ Expose: { Paths: [{ parsed_from_check: true }] } }),
  'of upstreams to one and the same': proxyOf({
    upstreams: [
      { destination_name: 'db', local_bind_port: 1 },
      { destination_name: 'db', local_bind_port: 2 },
      { destination_name: 'db', local_bind_port: 3, datacenter: 'dc1' },
    ],
  }),
  'of upstreams on one port': proxyOf({
    upstreams: [
      { destination_type: 'bogus' },
      { destination_name: 'a', local_bind_port: 1 },
      { destination_name: 'b', local_bind_port: 1, local_bind_address: '127.0.0.1' },
      { destination_name: 'c', local_bind_port: 1, local_bind_address: '::1' },
      { destination_name: 'd', local_bind_port: 1, local_bind_address: '::1' },
    ],
  }),
  'of a port as text': proxyOf({ local_service_port: '8080' }),
  'of a bind port as text': proxyOf({ upstreams: [{ destination_name: 'db', local_bind_port: '1' }] }),
  'of a name as a number': proxyOf({ destination_service_name: 5, DestinationServiceName: '' }),
  'of half a port': { Name: 'spelt', Port: 1.5 },
  'in snake_case': {
    Name: 'spelt',
    enable_tag_override: true,
    tagged_addresses: { lan: { address: '1.2.3.4', port: 3 } },
  },
  'in snake_case with capitals': {
    Name: 'spelt',
    Enable_Tag_Override: true,
    Tagged_Addresses: { lan: { Address: '1.2.3.4' } },
  },
  'in both': {
    Name: 'spelt',
    EnableTagOverride: false,
    enable_tag_override: true,
    TaggedAddresses: { wan: { Address: '1.2.3.5' } },
    tagged_addresses: { lan: { address: '1.2.3.4' } },
  },
  'in both, the first of them empty': {
    Name: 'spelt',
    EnableTagOverride: true,
    enable_tag_override: false,
    TaggedAddresses: {},
    tagged_addresses: { lan: { address: '1.2.3.4' } },
  },
  'in snake_case of another type': { Name: 'spelt', enable_tag_override: 'yes' },
  'with an underscore in a word': { Name: 'spelt', na_me: 'spelt' },
  'with one underscore of two': { Name: 'spelt', Enable_TagOverride: true },
  'with an underscore in a weight': { Name: 'spelt', Weights: { pass_ing: 3 } },
  'with anything in Connect': { Name: 'spelt', Connect: { bogus: true, na_tive: true } },
  'with a managed proxy': { Name: 'spelt', Connect: { Proxy: { Config: { a: 1 } } } },
  'of a proxy that is none': {
    Name: 'spelt',
    Proxy: { DestinationServiceName: 'shop', upstreams: [{ destination_name: 'db' }] },
  },
  'of a kind of its own': { Name: 'spelt', Kind: 'bogus' },
}

const checks: Record<string, object> = {
  'in snake_case': {
    ttl: '10s',
    CheckID: 'own',
    deregister_critical_service_after: '90m',
    tls_skip_verify: true,
    docker_container_id: 'a',
    service_id: 'nope',
    script_args: [],
    args: [],
  },
  'of another service': { ttl: '10s', ServiceID: 'nope' },
  'with an id in snake_case': { ttl: '10s', check_id: 'own' },
  'with the id of a check by itself': { ttl: '10s', ID: 'own' },
  'with an empty id and name': { ttl: '10s', CheckID: '', Name: '', Status: '' },
  'of a script of old': { script: 'true', interval: '10s' },
  'of a script': { args: ['true'], interval: '10s' },
  'of a script in snake_case': { script_args: ['true'], interval: '10s' },
  'of a script in a container': { docker_container_id: 'a', ScriptArgs: ['true'], Interval: '10s' },
  'of a script without an interval': { args: ['true'], ttl: '10s' },
  'of a script as text': { args: 'true', interval: '10s' },
  'of a container alone': { docker_container_id: 'a', interval: '10s' },
  'of a request': {
    ttl: '10s',
    Header: { a: ['b'] },
    Method: 'PUT',
    Body: 'x',
    TLSSkipVerify: true,
    GRPCUseTLS: true,
    Shell: '/bin/sh',
    OutputMaxSize: 3,
    ProxyHTTP: 'a',
    ProxyGRPC: 'b',
    Timeout: '1s',
  },
  'of a header that is no list': { ttl: '10s', header: { a: 'b' } },
  'of nothing in all fields': {
    ttl: '10s',
    AliasNode: '',
    AliasService: '',
    GRPC: '',
    HTTP: '',
    TCP: '',
    Args: [],
  },
  'of too little output': { ttl: '10s', OutputMaxSize: -1 },
  'of output as text': { ttl: '10s', OutputMaxSize: 'a' },
  'of output in snake_case': { ttl: '10s', output_max_size: 3 },
  'of gRPC in snake_case': { ttl: '10s', grpc_use_tls: true },
  'of an alias in snake_case': { ttl: '10s', alias_service: 'a' },
  'of a truth as text': { ttl: '10s', tls_skip_verify: 'yes' },
  'of no duration': { ttl: '10s', deregister_critical_service_after: 'abc' },
  'of an empty duration': { ttl: '10s', deregister_critical_service_after: '' },
  'of a TTL and an interval': { ttl: '10s', interval: '10s', status: 'bogus' },
  'of a status that is none': { ttl: '10s', status: 'bogus' },
  'of nothing': {},
  'of nothing but a service': { service_id: 'nope' },
  'of nothing but a container': { docker_container_id: 'a' },
}

const ownChecks: Record<string, object> = {
  'with an id in snake_case': { check_id: 'spelt', ttl: '10s' },
  'with the id of a service’s check': { CheckID: 'spelt', ttl: '10s' },
  'with an empty id': { id: '', ttl: '10s' },
  'of two services': { ServiceID: 'nope', service_id: 'nope2', ttl: '10s' },
  'of a service in snake_case': { service_id: 'nope', ttl: '10s' },
  'in snake_case': {
    ttl: '10s',
    deregister_critical_service_after: '90m',
    tls_skip_verify: true,
    docker_container_id: '',
    script_args: [],
  },
  'with a token': { ttl: '10s', Token: 'a', Shell: 'sh', OutputMaxSize: 1, Method: 'PUT', Header: {} },
  'with what is exposed': { ttl: '10s', ProxyHTTP: '' },
  'of a script': { script_args: ['true'], interval: '10s' },
  'of a TTL and an interval': { ttl: '10s', interval: '10s' },
  'without a name, of a status that is none': { Name: '', ttl: '10s', status: 'bogus' },
}

/** What is left afterwards is as it was before. */
export async function spellings(record: Recorder): Promise<void> {
  const read = async (label: string): Promise<void> => {
    await record(`${label}: service`, 'GET /v1/agent/service/spelt')
    await record(`${label}: checks`, 'GET /v1/agent/checks')
    await record(`${label}: gone`, 'PUT /v1/agent/service/deregister/spelt')
  }
  const register = async (label: string, body: object): Promise<void> => {
    await record(label, 'PUT /v1/agent/service/register', { body })
    await read(label)
  }
  for (const [name, body] of Object.entries(services)) await register(`spelling ${name}`, body)
  for (const [name, check] of Object.entries(checks)) {
    await register(`spelling of a check ${name}`, { Name: 'spelt', Check: check })
  }
  await register('spelling of two checks', {
    Name: 'spelt',
    Check: { notes: '' },
    Checks: [
      { ttl: '10s', deregister_critical_service_after: '90m' },
      { ttl: '10s', service_id: 'nope' },
    ],
  })
  await register('spelling of a list of nothing', { Name: 'spelt', Checks: [{}] })
  for (const [name, check] of Object.entries(ownChecks)) {
    const body = { Name: 'spelt', ...check }
    await record(`check by itself ${name}`, 'PUT /v1/agent/check/register', { body })
    await record(`check by itself ${name}: read`, 'GET /v1/agent/checks')
    await record(`check by itself ${name}: gone`, 'PUT /v1/agent/check/deregister/spelt')
  }
  // The agents of 1.2 had this and no other; the real one here has forgotten it.
  await record('register with the fields of 1.2', 'PUT /v1/agent/service/register', {
    body: { Name: 'spelt', Kind: 'connect-proxy', Port: 1, ProxyDestination: 'shop' },
  })
  await record('deregister with the fields of 1.2', 'PUT /v1/agent/service/deregister/spelt')
  await record.until('GET /v1/health/node/embedded', { lacks: ['spelt'] })
}
