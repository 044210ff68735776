import { parseGoDuration } from '../../base/duration.js'
import { type AgentClient, type AgentResponse, path } from '../client.js'
import { right } from '../agent-errors.js'
import {
  type JsonObject,
  ShapeError,
  array,
  boolean,
  maybe,
  nonEmpty,
  object,
  string,
  wholeNumber,
} from '../json.js'
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
}

/** A step of a chain. */
export type ChainNode = ResolverNode | { readonly type: 'router' | 'splitter' } | UnknownNode

/** A node that leads to a target, and to further targets if the first one has no healthy instance. */
export interface ResolverNode {
  readonly type: 'resolver'
  /** The ID of the target. */
  readonly target: string
  /** The IDs of the failover targets, in order. */
  readonly failover: readonly string[]
  /** How long a connection attempt may take, in milliseconds. */
  readonly connectTimeoutMs: number
  readonly loadBalancer: LoadBalancer | undefined
}

/** A node of a type that this version does not support. */
interface UnknownNode {
  readonly type: 'unknown'
  /** The type as the agent wrote it. */
  readonly name: string
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

/** The load-balancing policy that the operator chose for a service. */
export interface LoadBalancer {
  /** As the agent wrote it, such as `least_request`. */
  readonly policy: string
  /** How many instances `least_request` compares. */
  readonly choiceCount: number | undefined
}

export interface ChainRequest extends Scope {
  readonly service: string
  /** Whether the chain is for bytes: routers and splitters, which are for HTTP requests, are left out. */
  readonly isForBytes: boolean
  /** Whether any server may answer, which works without a leader. The chain may then be older than a change. */
  readonly stale: boolean
}

/**
 * Reads the discovery chain of a service: `GET /v1/discovery-chain/:service`. Needs `service:read`. A service without
 * config entries has a default chain, even if it does not exist.
 */
export async function fetchChain(
  agent: AgentClient,
  { service, datacenter, namespace, partition, isForBytes, stale }: ChainRequest,
  signal: AbortSignal,
): Promise<AgentResponse<CompiledChain>> {
  const { settings } = agent
  const request = {
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
  const response = await agent.request(request, parseChain)
  if (!isForBytes || startsWithResolver(response.value)) return response
  // Agents count a POST as a write, which `allow_write_http_from` may restrict: only where it is needed.
  return agent.request({ method: 'POST', ...request, body: { OverrideProtocol: 'tcp' } }, parseChain)
}

/** Whether a chain has no router and no splitter, so that it is the same for bytes and for HTTP requests. */
function startsWithResolver({ nodes, startNode }: CompiledChain): boolean {
  const type = nodes.get(startNode)?.type
  return type !== 'router' && type !== 'splitter'
}

export function parseChain(body: unknown): CompiledChain {
  const chain = object(object(body, '')['Chain'], 'Chain')
  return {
    service: nonEmpty(chain['ServiceName'], 'Chain.ServiceName'),
    protocol: (maybe(string)(chain['Protocol'], 'Chain.Protocol') ?? 'tcp').toLowerCase(),
    startNode: nonEmpty(chain['StartNode'], 'Chain.StartNode'),
    nodes: mapOf(chain['Nodes'], 'Chain.Nodes', parseNode),
    targets: mapOf(chain['Targets'], 'Chain.Targets', parseTarget),
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

function parseNode(node: JsonObject, place: string): ChainNode {
  const type = string(node['Type'], `${place}.Type`)
  if (type === 'router' || type === 'splitter') return { type }
  if (type !== 'resolver') return { type: 'unknown', name: type }
  const resolver = object(node['Resolver'], `${place}.Resolver`)
  const failover = maybe(object)(resolver['Failover'], `${place}.Resolver.Failover`)
  const failoverTargets = `${place}.Resolver.Failover.Targets`
  return {
    type,
    target: nonEmpty(resolver['Target'], `${place}.Resolver.Target`),
    failover: array(failover?.['Targets'] ?? null, failoverTargets).map((id, i) =>
      nonEmpty(id, `${failoverTargets}[${i}]`),
    ),
    connectTimeoutMs:
      maybe(timeout)(resolver['ConnectTimeout'], `${place}.Resolver.ConnectTimeout`) ||
      DEFAULT_CONNECT_TIMEOUT_MS,
    loadBalancer: maybe(parseLoadBalancer)(node['LoadBalancer'], `${place}.LoadBalancer`),
  }
}

/** Consul's own default. */
export const DEFAULT_CONNECT_TIMEOUT_MS = 5_000

/** Reads a duration that Consul wrote as text, such as `5s`, or as a number of nanoseconds. */
function timeout(value: unknown, place: string): number {
  const ms = typeof value === 'number' ? value / 1e6 : parseGoDuration(string(value, place))
  if (ms === undefined || !(ms >= 0)) throw new ShapeError(place, 'a duration such as "5s"', value)
  return ms
}

function parseLoadBalancer(value: unknown, place: string): LoadBalancer | undefined {
  const balancer = object(value, place)
  const policy = maybe(string)(balancer['Policy'], `${place}.Policy`)
  const leastRequest = maybe(object)(balancer['LeastRequestConfig'], `${place}.LeastRequestConfig`)
  const count = `${place}.LeastRequestConfig.ChoiceCount`
  return policy === undefined
    ? undefined
    : { policy, choiceCount: maybe(wholeNumber)(leastRequest?.['ChoiceCount'], count) || undefined }
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
