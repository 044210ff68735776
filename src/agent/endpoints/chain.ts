import { type AgentClient, type AgentResponse, path } from '../client.js'
import { right } from '../agent-errors.js'
import { type JsonObject, ShapeError, boolean, maybe, nonEmpty, object, string } from '../json.js'
import { type ChainNode, parseNode } from './chain-nodes.js'
import { type BlockingQuery, blocking } from '../watch.js'
import type { Scope } from './health.js'

/** How connections to another datacenter travel: directly, through our mesh gateways, or through its mesh gateways. */
const MESH_GATEWAY_MODES = ['none', 'local', 'remote'] as const

export type MeshGatewayMode = (typeof MESH_GATEWAY_MODES)[number]

export function isMeshGatewayMode(value: unknown): value is MeshGatewayMode {
  return (MESH_GATEWAY_MODES as readonly unknown[]).includes(value)
}

/** The discovery chain of a service, compiled by Consul from its config entries. */
export interface CompiledChain {
  readonly service: string
  /** The protocol of the service, in lower case, such as `tcp`, `http`, or `grpc`. */
  readonly protocol: string
  /** The key of the first node. */
  readonly startNode: string
  readonly nodes: ReadonlyMap<string, ChainNode>
  /** By ID. */
  readonly targets: ReadonlyMap<string, ChainTarget>
  /** The places of fields that this version does not know, and leaves out. */
  readonly ignored: readonly string[]
}

/** Instances of a service in a datacenter, or those of one of its subsets. */
export interface ChainTarget extends Scope {
  readonly service: string
  readonly subset: string | undefined
  /** The name of a cluster peer; undefined for our own cluster. */
  readonly peer: string | undefined
  /** The server name that the handshake must have; undefined if the agent sent none. */
  readonly serverName: string | undefined
  /** The expression that selects the instances of the subset; undefined for all instances. */
  readonly filter: string | undefined
  /** Whether instances with warnings are left out. */
  readonly onlyPassing: boolean
  readonly gatewayMode: MeshGatewayMode
  /** Whether the service has a server name of its own, by which a terminating gateway knows it. */
  readonly isExternal: boolean
}

export interface ChainRequest extends Scope {
  readonly service: string
  /** Whether any server may answer, which works without a leader. The chain may then be older than a change. */
  readonly stale: boolean
}

/**
 * Reads the discovery chain of a service: `GET /v1/discovery-chain/:service`. Needs `service:read`. A service without
 * config entries has a default chain, even if it does not exist.
 */
export function fetchChain(
  agent: AgentClient,
  request: ChainRequest,
  signal: AbortSignal,
): Promise<AgentResponse<CompiledChain>> {
  return agent.request(requestFor(agent, request, signal), parseChain)
}

/**
 * Reads the discovery chain of a service for bytes: without routers and splitters, which are for HTTP requests. Agents
 * count this request as a write, which `allow_write_http_from` may restrict: use it only for a chain that has one of
 * them.
 */
export function fetchBytesChain(
  agent: AgentClient,
  request: ChainRequest,
  signal: AbortSignal,
): Promise<AgentResponse<CompiledChain>> {
  const body = { OverrideProtocol: 'tcp' }
  return agent.request({ method: 'POST', ...requestFor(agent, request, signal), body }, parseChain)
}

/**
 * Reads the protocol of a service, in lower case, from its discovery chain; also as a blocking query. Consul takes it from
 * the config entries `service-defaults` and `proxy-defaults`.
 */
export function fetchProtocol(
  agent: AgentClient,
  service: string,
  query: BlockingQuery,
): Promise<AgentResponse<string>> {
  return agent.request(
    {
      path: path`/v1/discovery-chain/${service}`,
      needs: right('service:read', service),
      ...blocking(query),
    },
    (body) => parseProtocol(object(object(body, '')['Chain'], 'Chain')),
  )
}

function parseProtocol(chain: JsonObject): string {
  return (maybe(string)(chain['Protocol'], 'Chain.Protocol') ?? 'tcp').toLowerCase()
}

function requestFor(
  { settings }: AgentClient,
  { service, datacenter, namespace, partition, stale }: ChainRequest,
  signal: AbortSignal,
): Omit<Parameters<AgentClient['request']>[0], 'method' | 'body'> {
  return {
    path: path`/v1/discovery-chain/${service}`,
    query: {
      stale: stale || undefined,
      'compile-dc': datacenter ?? settings.datacenter,
      ns: namespace ?? settings.namespace,
      partition: partition ?? settings.partition,
    },
    needs: right('service:read', service),
    signal,
  }
}

/** Whether a chain begins with a router or splitter, so that it is not the same for bytes and for HTTP requests. */
export function isForRequests({ nodes, startNode }: CompiledChain): boolean {
  const type = nodes.get(startNode)?.type
  return type === 'router' || type === 'splitter'
}

export function parseChain(body: unknown): CompiledChain {
  const chain = object(object(body, '')['Chain'], 'Chain')
  const ignored: string[] = []
  return {
    service: nonEmpty(chain['ServiceName'], 'Chain.ServiceName'),
    protocol: parseProtocol(chain),
    startNode: nonEmpty(chain['StartNode'], 'Chain.StartNode'),
    nodes: mapOf(chain['Nodes'], 'Chain.Nodes', (node, place) => parseNode(node, place, ignored)),
    targets: mapOf(chain['Targets'], 'Chain.Targets', parseTarget),
    ignored,
  }
}

function mapOf<T>(
  value: unknown,
  place: string,
  parse: (item: JsonObject, place: string) => T,
): Map<string, T> {
  const entries = Object.entries(maybe(object)(value, place) ?? {})
  return new Map(
    entries.map(([key, item]) => {
      const at = `${place}[${JSON.stringify(key)}]`
      return [key, parse(object(item, at), at)]
    }),
  )
}

function parseTarget(target: JsonObject, place: string): ChainTarget {
  const subset = maybe(object)(target['Subset'], `${place}.Subset`)
  const gateway = maybe(object)(target['MeshGateway'], `${place}.MeshGateway`)
  const text = (field: string): string | undefined => maybe(string)(target[field], `${place}.${field}`)
  return {
    service: nonEmpty(target['Service'], `${place}.Service`),
    subset: text('ServiceSubset'),
    datacenter: text('Datacenter'),
    namespace: text('Namespace'),
    partition: text('Partition'),
    peer: text('Peer'),
    serverName: text('SNI'),
    filter: maybe(string)(subset?.['Filter'], `${place}.Subset.Filter`),
    onlyPassing: maybe(boolean)(subset?.['OnlyPassing'], `${place}.Subset.OnlyPassing`) ?? false,
    gatewayMode: maybe(parseMode)(gateway?.['Mode'], `${place}.MeshGateway.Mode`) ?? 'none',
    isExternal: maybe(boolean)(target['External'], `${place}.External`) ?? false,
  }
}

function parseMode(value: unknown, place: string): MeshGatewayMode {
  if (isMeshGatewayMode(value)) return value
  throw new ShapeError(place, 'none, local, or remote', value)
}
