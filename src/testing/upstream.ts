import { hostAndPort } from './host-port.js'
import { omitZero, type FieldReader, type JsonObject } from './json.js'

/** What a registered proxy reaches for its application. */
export interface Upstream {
  type: string
  namespace: string
  name: string
  datacenter: string
  bindAddress: string
  bindPort: number
  config: JsonObject
  gatewayMode: string
}

export function readUpstream(fields: FieldReader): Upstream {
  fields.alsoSnakeCase('DestinationType', 'DestinationNamespace', 'DestinationName')
  fields.alsoSnakeCase('LocalBindAddress', 'LocalBindPort')
  const upstream = {
    type: fields.string('DestinationType') ?? '',
    namespace: fields.string('DestinationNamespace') ?? '',
    name: fields.string('DestinationName') ?? '',
    datacenter: fields.string('Datacenter') ?? '',
    bindAddress: fields.string('LocalBindAddress') ?? '',
    bindPort: fields.integer('LocalBindPort') ?? 0,
    config: fields.object('Config') ?? {},
    gatewayMode: readGatewayMode(fields.decoded('MeshGateway')),
  }
  fields.end()
  return upstream
}

export function readGatewayMode(fields: FieldReader | undefined): string {
  const mode = fields?.string('Mode') ?? ''
  fields?.end()
  return mode
}

/**
 * The first complaint about each, as Consul has them. Several upstreams to one service, which Consul refuses, are
 * welcome here: each is a listener of its own.
 */
export function upstreamProblems(upstreams: readonly Upstream[]): string[] {
  const binds = new Set<string>()
  return upstreams.flatMap((upstream) => problemOf(upstream) ?? repetition(upstream, binds) ?? [])
}

function problemOf({ type, name, bindPort }: Upstream): string | undefined {
  if (!['', 'service', 'prepared_query'].includes(type))
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
export function agentUpstreamJson(upstream: Upstream): JsonObject {
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
export function catalogUpstreamJson(upstream: Upstream): JsonObject {
  return { Datacenter: '', Config: null, ...agentUpstreamJson(upstream) }
}

export function gatewayJson(mode: string): JsonObject {
  return omitZero({ Mode: mode })
}
