import { isIP } from 'node:net'
import { readCheck, type CheckDefinition } from './checks.js'
import { HttpError, multiError } from './http.js'
import { FieldReader, type Json, type JsonObject } from './json.js'

export interface Service {
  kind: string
  id: string
  name: string
  tags: string[]
  meta: Record<string, string>
  port: number
  address: string
  taggedAddresses: JsonObject
  weights: { Passing: number; Warning: number }
  enableTagOverride: boolean
  native: boolean
  /** The proxy's settings in the agent's own JSON. */
  proxy: JsonObject | undefined
  /** The service that this instance proves to be: its own when native, the destination of a proxy. */
  connectName: string | undefined
}

/** A service as one registers it: the body of `PUT /v1/agent/service/register`, with Consul's own field names. */
export interface ServiceRegistration extends JsonObject {
  Name: string
  /** @default Name */
  ID?: string
  Kind?: 'connect-proxy'
  Port?: number
  Address?: string
  Tags?: string[]
  Meta?: Record<string, string>
  Weights?: { Passing?: number; Warning?: number }
  Connect?: { Native?: boolean }
  Proxy?: JsonObject
  Check?: JsonObject
  Checks?: JsonObject[]
}

export interface Registration {
  service: Service
  checks: CheckDefinition[]
}

/** Reads the body of a registration; what Consul refuses is refused in its words. */
export function readRegistration(fields: FieldReader): Registration {
  const name = fields.string('Name') ?? ''
  const id = fields.string('ID') ?? name
  const connect = fields.child('Connect')
  const weights = fields.child('Weights')
  const proxy = readProxy(fields.child('Proxy'))
  const service: Service = {
    kind: fields.string('Kind') ?? '',
    id: id === '' ? name : id,
    name,
    tags: fields.strings('Tags'),
    meta: fields.stringMap('Meta'),
    port: fields.integer('Port') ?? 0,
    address: fields.string('Address') ?? '',
    taggedAddresses: fields.object('TaggedAddresses') ?? {},
    weights: { Passing: weights?.integer('Passing') ?? 1, Warning: weights?.integer('Warning') ?? 1 },
    enableTagOverride: fields.boolean('EnableTagOverride') ?? false,
    native: connect?.boolean('Native') ?? false,
    proxy: proxy?.json,
    connectName: undefined,
  }
  weights?.end()
  connect?.end()
  const isProxy = service.kind === 'connect-proxy'
  if (isProxy) service.connectName = proxy?.destination
  else if (service.native) service.connectName = name

  const single = fields.child('Check')
  const readers = [
    ...(single ? [single] : []),
    ...fields.list('Checks').map((check) => new FieldReader(check)),
  ]
  const checks = readers.map((reader, index) => {
    const fallback = readers.length === 1 ? `service:${service.id}` : `service:${service.id}:${index + 1}`
    return readCheck(reader, { id: fallback, name: `Service '${name}' check`, serviceId: service.id })
  })
  // Accepted and without meaning here: Consul keeps the token for its own syncing.
  fields.string('Token')
  fields.end()

  if (name === '') throw new HttpError(400, 'Missing service name')
  if (service.weights.Passing < 1) throw new HttpError(400, 'Invalid Weights: Passing must be greater than 0')
  const problems = isProxy ? proxyProblems(service, proxy) : []
  if (problems.length > 0) throw multiError(400, problems)
  addFamilyAddresses(service)
  return { service, checks }
}

/** As `/v1/agent/services` and `/v1/agent/service/:id` show it. */
export function agentServiceJson(service: Service, contentHash?: string): JsonObject {
  return {
    Kind: service.kind === 'connect-proxy' ? service.kind : undefined,
    ID: service.id,
    Service: service.name,
    Tags: service.tags,
    Meta: service.meta,
    Port: service.port,
    Address: service.address,
    TaggedAddresses: emptyToUndefined(service.taggedAddresses),
    Weights: { ...service.weights },
    EnableTagOverride: service.enableTagOverride,
    ContentHash: contentHash,
    Proxy: service.proxy,
    Connect: service.native ? { Native: true } : undefined,
  }
}

/** As it stands in a health answer. */
export function healthServiceJson(service: Service, createIndex: number, modifyIndex: number): JsonObject {
  return {
    Kind: service.kind === '' ? undefined : service.kind,
    ID: service.id,
    Service: service.name,
    Tags: service.tags,
    Address: service.address,
    TaggedAddresses: emptyToUndefined(service.taggedAddresses),
    // 1.8 shows an empty map as null here, and as {} on its other endpoints.
    Meta: emptyToUndefined(service.meta) ?? null,
    Port: service.port,
    Weights: { ...service.weights },
    EnableTagOverride: service.enableTagOverride,
    Proxy: catalogProxyJson(service),
    Connect: service.native ? { Native: true } : {},
    CreateIndex: createIndex,
    ModifyIndex: modifyIndex,
  }
}

/** The service's part of a catalog answer. */
export function catalogServiceJson(service: Service): JsonObject {
  return {
    ServiceKind: service.kind,
    ServiceID: service.id,
    ServiceName: service.name,
    ServiceTags: service.tags,
    ServiceAddress: service.address,
    ServiceTaggedAddresses: emptyToUndefined(service.taggedAddresses),
    ServiceWeights: { ...service.weights },
    ServiceMeta: service.meta,
    ServicePort: service.port,
    ServiceEnableTagOverride: service.enableTagOverride,
    ServiceProxy: catalogProxyJson(service),
    ServiceConnect: service.native ? { Native: true } : {},
  }
}

interface ProxySettings {
  destination: string
  upstreams: JsonObject[]
  json: JsonObject
}

function readProxy(fields: FieldReader | undefined): ProxySettings | undefined {
  if (!fields) return undefined
  const destination = fields.string('DestinationServiceName') ?? ''
  const upstreams = fields.list('Upstreams').map((upstream) => readUpstream(new FieldReader(upstream)))
  const json = {
    DestinationServiceName: destination,
    DestinationServiceID: fields.string('DestinationServiceID'),
    LocalServiceAddress: fields.string('LocalServiceAddress'),
    LocalServicePort: fields.integer('LocalServicePort'),
    Mode: fields.string('Mode'),
    Config: fields.object('Config'),
    Upstreams: upstreams.length > 0 ? upstreams : undefined,
    MeshGateway: fields.object('MeshGateway') ?? {},
    Expose: fields.object('Expose') ?? {},
  }
  fields.end()
  return { destination, upstreams, json }
}

function readUpstream(fields: FieldReader): JsonObject {
  const upstream = {
    DestinationType: fields.string('DestinationType') ?? 'service',
    DestinationNamespace: fields.string('DestinationNamespace'),
    DestinationName: fields.string('DestinationName') ?? '',
    Datacenter: fields.string('Datacenter'),
    LocalBindAddress: fields.string('LocalBindAddress'),
    LocalBindPort: fields.integer('LocalBindPort') ?? 0,
    Config: fields.object('Config'),
    MeshGateway: fields.object('MeshGateway') ?? {},
  }
  fields.end()
  return upstream
}

function proxyProblems(service: Service, proxy: ProxySettings | undefined): string[] {
  const problems: string[] = []
  if (!proxy?.destination) {
    problems.push('Proxy.DestinationServiceName must be non-empty for Connect proxy services')
  }
  if (service.port === 0) problems.push('Port must be set for a Connect proxy')
  if (service.native) problems.push('A Proxy cannot also be Connect Native, only typical services')
  for (const upstream of proxy?.upstreams ?? []) {
    if (upstream['DestinationName'] === '') problems.push('upstream destination name cannot be empty')
    if (upstream['LocalBindPort'] === 0) problems.push('upstream local bind port cannot be zero')
  }
  return problems
}

/** Consul adds an address for its own family besides those that were given. */
function addFamilyAddresses(service: Service): void {
  const family = isIP(service.address)
  if (family === 0) return
  const own = { Address: service.address, Port: service.port }
  const names = family === 4 ? ['lan_ipv4', 'wan_ipv4'] : ['lan_ipv6', 'wan_ipv6']
  for (const name of names) service.taggedAddresses[name] ??= own
}

function catalogProxyJson(service: Service): JsonObject {
  const upstreams = service.proxy?.['Upstreams']
  if (!service.proxy) return { MeshGateway: {}, Expose: {} }
  if (!Array.isArray(upstreams)) return service.proxy
  const full = (upstream: Json): Json => ({ Datacenter: '', Config: null, ...definedFields(upstream) })
  return { ...service.proxy, Upstreams: upstreams.map(full) }
}

function definedFields(json: Json): JsonObject {
  return Object.fromEntries(Object.entries(json ?? {}).filter(([, value]) => value !== undefined))
}

function emptyToUndefined<T extends object>(map: T): T | undefined {
  return Object.keys(map).length > 0 ? map : undefined
}
