import { FieldReader, type Json, type JsonObject } from './json.js'

export interface ProxySettings {
  destination: string
  upstreams: JsonObject[]
  json: JsonObject
}

/** What a proxy's rules look at in its service. */
interface Registered {
  kind: string
  port: number
  native: boolean
}

export function readProxy(fields: FieldReader | undefined): ProxySettings | undefined {
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

export function proxyProblems(service: Registered, proxy: ProxySettings | undefined): string[] {
  const problems: string[] = []
  if (service.kind !== 'connect-proxy') return problems
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

export function catalogProxyJson(proxy: JsonObject | undefined): JsonObject {
  if (!proxy) return { MeshGateway: {}, Expose: {} }
  const upstreams = proxy['Upstreams']
  if (!Array.isArray(upstreams)) return proxy
  const full = (upstream: Json): Json => ({ Datacenter: '', Config: null, ...definedFields(upstream) })
  return { ...proxy, Upstreams: upstreams.map(full) }
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

function definedFields(json: Json): JsonObject {
  return Object.fromEntries(Object.entries(json ?? {}).filter(([, value]) => value !== undefined))
}
