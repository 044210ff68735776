import { hostAndPort } from './host-port.js'
import { omitZero, type FieldReader, type JsonObject } from './json.js'
/** What a registered proxy reaches for its application. */
interface Upstream {
  type: string
  namespace: string
  name: string
  datacenter: string
  bindAddress: string
  bindPort: number
  config: JsonObject
  gatewayMode: string
}

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
  const fields = service.child('Proxy')
  const legacy = service.string('ProxyDestination') ?? ''
  if (!fields) return legacy === '' ? undefined : { ...noProxy, destination: legacy }
  const proxy = {
    destination: fields.string('DestinationServiceName') ?? '',
    destinationId: fields.string('DestinationServiceID') ?? '',
    localAddress: fields.string('LocalServiceAddress') ?? '',
    localPort: fields.integer('LocalServicePort') ?? 0,
    mode: fields.string('Mode') ?? '',
    config: fields.object('Config') ?? {},
    upstreams: fields.children('Upstreams').map(readUpstream),
    gatewayMode: readGatewayMode(fields.child('MeshGateway')),
    expose: readExpose(fields.child('Expose')),
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
    Paths: fields.children('Paths').map(readExposedPath),
  }
  fields.end()
  return omitZero(expose)
}

function readExposedPath(fields: FieldReader): JsonObject {
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

function readUpstream(fields: FieldReader): Upstream {
  const upstream = {
    type: fields.string('DestinationType') || 'service',
    namespace: fields.string('DestinationNamespace') ?? '',
    name: fields.string('DestinationName') ?? '',
    datacenter: fields.string('Datacenter') ?? '',
    bindAddress: fields.string('LocalBindAddress') ?? '',
    bindPort: fields.integer('LocalBindPort') ?? 0,
    config: fields.object('Config') ?? {},
    gatewayMode: readGatewayMode(fields.child('MeshGateway')),
  }
  fields.end()
  return upstream
}

function readGatewayMode(fields: FieldReader | undefined): string {
  const mode = fields?.string('Mode') ?? ''
  fields?.end()
  return mode
}

/**
 * The first complaint about each, as Consul has them. Several upstreams to one service, which Consul refuses, are
 * welcome here: each is a listener of its own.
 */
function upstreamProblems(upstreams: readonly Upstream[]): string[] {
  const binds = new Set<string>()
  return upstreams.flatMap((upstream) => problemOf(upstream) ?? repetition(upstream, binds) ?? [])
}

function problemOf({ type, name, bindPort }: Upstream): string | undefined {
  if (!['service', 'prepared_query'].includes(type))
    return `unknown upstream destination type: ${JSON.stringify(type)}`
  if (name === '') return 'upstream destination name cannot be empty'
  return bindPort === 0 ? 'upstream local bind port cannot be zero' : undefined
}

function repetition({ bindAddress, bindPort }: Upstream, binds: Set<string>): string | undefined {
  const bind = hostAndPort(bindAddress || '127.0.0.1', bindPort)
  if (binds.has(bind)) {
    return `upstreams cannot contain duplicates by local bind address and port; "${bind}" is specified twice`
  }
  binds.add(bind)
  return undefined
}

/** As the agent shows it. */
function agentUpstreamJson(upstream: Upstream): JsonObject {
  return { ...managedUpstreamJson(upstream), MeshGateway: gatewayJson(upstream.gatewayMode) }
}

/** As the agent showed it before there were gateways, in Consul 1.3 to 1.5. */
export function managedUpstreamJson(upstream: Upstream): JsonObject {
  return {
    DestinationType: upstream.type,
    ...omitZero({ DestinationNamespace: upstream.namespace }),
    DestinationName: upstream.name,
    ...omitZero({ Datacenter: upstream.datacenter, LocalBindAddress: upstream.bindAddress }),
    LocalBindPort: upstream.bindPort,
    ...omitZero({ Config: upstream.config }),
  }
}

/** The catalog's form shows more of what is not there. */
function catalogUpstreamJson(upstream: Upstream): JsonObject {
  return { Datacenter: '', Config: null, ...agentUpstreamJson(upstream) }
}

function gatewayJson(mode: string): JsonObject {
  return omitZero({ Mode: mode })
}
