import { omitZero, type FieldReader, type JsonObject } from './json.js'
import {
  agentUpstreamJson,
  catalogUpstreamJson,
  gatewayJson,
  readGatewayMode,
  readUpstream,
  upstreamProblems,
  type Upstream,
} from './upstream.js'

/** What a service that is a proxy has in its registration. */
export interface ProxySettings {
  destination: string
  destinationId: string
  localAddress: string
  localPort: number
  mode: string
  config: JsonObject
  upstreams: Upstream[]
  gatewayMode: string
  /** In the agent's own JSON. */
  expose: JsonObject
}

const noProxy: ProxySettings = {
  destination: '',
  destinationId: '',
  localAddress: '',
  localPort: 0,
  mode: '',
  config: {},
  upstreams: [],
  gatewayMode: '',
  expose: {},
}

/** What a proxy's rules look at in its service. */
interface Registered {
  kind: string
  port: number
  native: boolean
  proxy: ProxySettings | undefined
}

/** Reads the proxy's part of a service, in the fields of Consul 1.3 or the single one of 1.2. */
export function readProxy(service: FieldReader): ProxySettings | undefined {
  const fields = service.decoded('Proxy')
  const legacy = service.string('ProxyDestination') ?? ''
  if (!fields) return legacy === '' ? undefined : { ...noProxy, destination: legacy }
  fields.alsoSnakeCase('DestinationServiceName', 'DestinationServiceID')
  fields.alsoSnakeCase('LocalServiceAddress', 'LocalServicePort')
  const proxy = {
    destination: fields.string('DestinationServiceName') ?? '',
    destinationId: fields.string('DestinationServiceID') ?? '',
    localAddress: fields.string('LocalServiceAddress') ?? '',
    localPort: fields.integer('LocalServicePort') ?? 0,
    mode: fields.string('Mode') ?? '',
    config: fields.object('Config') ?? {},
    upstreams: fields.allDecoded('Upstreams').map(readUpstream),
    gatewayMode: readGatewayMode(fields.decoded('MeshGateway')),
    expose: readExpose(fields.decoded('Expose')),
  }
  fields.end()
  return proxy
}

export function proxyProblems({ kind, port, native, proxy }: Registered): string[] {
  const problems: string[] = []
  if (kind !== 'connect-proxy') return problems
  if (!proxy?.destination) {
    problems.push('Proxy.DestinationServiceName must be non-empty for Connect proxy services')
  }
  if (port === 0) problems.push('Port must be set for a Connect proxy')
  if (native) problems.push('A Proxy cannot also be Connect Native, only typical services')
  return [...problems, ...upstreamProblems(proxy?.upstreams ?? [])]
}

/** As the agent shows it. */
export function agentProxyJson(proxy: ProxySettings): JsonObject {
  return proxyJson(proxy, proxy.upstreams.map(agentUpstreamJson))
}

export function catalogProxyJson(proxy: ProxySettings = noProxy): JsonObject {
  return proxyJson(proxy, proxy.upstreams.map(catalogUpstreamJson))
}

function proxyJson(proxy: ProxySettings, upstreams: JsonObject[]): JsonObject {
  return {
    ...omitZero({
      DestinationServiceName: proxy.destination,
      DestinationServiceID: proxy.destinationId,
      LocalServiceAddress: proxy.localAddress,
      LocalServicePort: proxy.localPort,
      Mode: proxy.mode,
      Config: proxy.config,
      Upstreams: upstreams,
    }),
    MeshGateway: gatewayJson(proxy.gatewayMode),
    Expose: proxy.expose,
  }
}

function readExpose(fields: FieldReader | undefined): JsonObject {
  if (!fields) return {}
  const expose = {
    Checks: fields.boolean('Checks') ?? false,
    Paths: fields.allDecoded('Paths').map(readExposedPath),
  }
  fields.end()
  return omitZero(expose)
}

function readExposedPath(fields: FieldReader): JsonObject {
  fields.alsoSnakeCase('ListenerPort', 'LocalPathPort')
  const path = omitZero({
    ListenerPort: fields.integer('ListenerPort') ?? 0,
    Path: fields.string('Path') ?? '',
    LocalPathPort: fields.integer('LocalPathPort') ?? 0,
    Protocol: fields.string('Protocol') ?? '',
  })
  const parsed = fields.boolean('ParsedFromCheck') ?? false
  fields.end()
  return { ...path, ParsedFromCheck: parsed }
}
