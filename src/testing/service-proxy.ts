import { hostAndPort } from './host-port.js'
import { omitZero, type FieldReader, type JsonObject } from './json.js'

/** An upstream of a proxy, as the agent shows it. */
interface Upstream extends JsonObject {
  DestinationType: string
  DestinationName: string
  LocalBindAddress?: string
  LocalBindPort: number
}

/** The proxy part of a registration. */
export interface ProxySettings {
  destination: string
  destinationId: string
  localAddress: string
  localPort: number
  mode: string
  config: JsonObject
  upstreams: Upstream[]
  meshGateway: JsonObject
  expose: JsonObject
}

const NO_PROXY: ProxySettings = {
  destination: '',
  destinationId: '',
  localAddress: '',
  localPort: 0,
  mode: '',
  config: {},
  upstreams: [],
  meshGateway: {},
  expose: {},
}

/** Reads the proxy of a service: the field `Proxy` of Consul 1.3 and later, or `ProxyDestination` of 1.2. */
export function readProxy(service: FieldReader): ProxySettings | undefined {
  const fields = service.child('Proxy')
  const legacy = service.string('ProxyDestination') ?? ''
  if (!fields) return legacy === '' ? undefined : { ...NO_PROXY, destination: legacy }
  const proxy = {
    destination: fields.string('DestinationServiceName') ?? '',
    destinationId: fields.string('DestinationServiceID') ?? '',
    localAddress: fields.string('LocalServiceAddress') ?? '',
    localPort: fields.integer('LocalServicePort') ?? 0,
    mode: fields.string('Mode') ?? '',
    config: fields.object('Config') ?? {},
    upstreams: fields.children('Upstreams').map(readUpstream),
    meshGateway: omitZero(fields.object('MeshGateway') ?? {}),
    expose: omitZero(fields.object('Expose') ?? {}),
  }
  fields.end()
  return proxy
}

function readUpstream(fields: FieldReader): Upstream {
  const upstream = {
    DestinationType: fields.string('DestinationType') || 'service',
    ...omitZero({ DestinationNamespace: fields.string('DestinationNamespace') }),
    DestinationName: fields.string('DestinationName') ?? '',
    ...omitZero({
      Datacenter: fields.string('Datacenter'),
      LocalBindAddress: fields.string('LocalBindAddress'),
    }),
    LocalBindPort: fields.integer('LocalBindPort') ?? 0,
    ...omitZero({ Config: fields.object('Config') }),
    MeshGateway: omitZero(fields.object('MeshGateway') ?? {}),
  }
  fields.end()
  return upstream
}

/** Returns Consul's errors about a proxy and its upstreams, at most one for each upstream. */
export function proxyProblems(service: {
  kind: string
  port: number
  native: boolean
  proxy: ProxySettings | undefined
}): string[] {
  const problems: string[] = []
  if (service.kind !== 'connect-proxy') return problems
  if (!service.proxy?.destination)
    problems.push('Proxy.DestinationServiceName must be non-empty for Connect proxy services')
  if (service.port === 0) problems.push('Port must be set for a Connect proxy')
  if (service.native) problems.push('A Proxy cannot also be Connect Native, only typical services')
  const binds = new Set<string>()
  // Unlike Consul, this agent accepts several upstreams to one service: each has a listener of its own.
  const ofUpstreams = (service.proxy?.upstreams ?? []).map((upstream) => upstreamProblem(upstream, binds))
  return [...problems, ...ofUpstreams.filter((problem) => problem !== undefined)]
}

function upstreamProblem(upstream: Upstream, binds: Set<string>): string | undefined {
  const { DestinationType: type, LocalBindPort: port } = upstream
  if (type !== 'service' && type !== 'prepared_query')
    return `unknown upstream destination type: ${JSON.stringify(type)}`
  if (upstream.DestinationName === '') return 'upstream destination name cannot be empty'
  if (port === 0) return 'upstream local bind port cannot be zero'
  const bind = hostAndPort(upstream.LocalBindAddress ?? '127.0.0.1', port)
  if (binds.has(bind))
    return `upstreams cannot contain duplicates by local bind address and port; "${bind}" is specified twice`
  binds.add(bind)
  return undefined
}

/** The proxy as the endpoints of the agent show it. */
export function agentProxyJson(proxy: ProxySettings, upstreams: JsonObject[] = proxy.upstreams): JsonObject {
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
    MeshGateway: proxy.meshGateway,
    Expose: proxy.expose,
  }
}

/** The proxy as the endpoints of the catalog show it. */
export function catalogProxyJson(proxy: ProxySettings = NO_PROXY): JsonObject {
  const upstreams = proxy.upstreams.map((upstream) => ({ Datacenter: '', Config: null, ...upstream }))
  return agentProxyJson(proxy, upstreams)
}

/** An upstream as Consul 1.3 to 1.5 showed it, before mesh gateways. */
export function managedUpstreamJson({ MeshGateway: _, ...upstream }: Upstream): JsonObject {
  return upstream
}
