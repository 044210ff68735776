import type { ChainTarget, CompiledChain, MeshGatewayMode } from '../../agent/endpoints/chain.js'
import { type ChainNode, DEFAULT_CONNECT_TIMEOUT_MS } from '../../agent/endpoints/chain-nodes.js'
import type { LoadBalancer } from '../../agent/endpoints/chain-load-balancer.js'
import { DialError } from '../../base/errors.js'

/** Where a chain leads: targets in failover order, and how they are dialed. */
export interface Failover {
  /** The first one is used while it has a healthy instance. */
  readonly targets: readonly ChainTarget[]
  readonly connectTimeoutMs: number
  readonly loadBalancer: LoadBalancer | undefined
}

/** Upper bound on the failover targets of one dial, each of which has a watch. */
const MAX_TARGETS = 64

/**
 * Follows a chain for bytes to its targets. Such a chain starts with a resolver.
 * @param gatewayMode - replaces the mode of all targets, as `OverrideMeshGateway` of Consul does
 * @throws DialError with ERR_CONNECT_CHAIN
 */
export function followChain(chain: CompiledChain, gatewayMode?: MeshGatewayMode): Failover {
  return failoverOf(chain, chain.startNode, gatewayMode)
}

/**
 * Follows a resolver of a chain to its targets.
 * @param key - the key of the node
 * @throws DialError with ERR_CONNECT_CHAIN
 */
export function failoverOf(
  chain: CompiledChain,
  key: string,
  gatewayMode: MeshGatewayMode | undefined,
): Failover {
  const node = nodeAt(chain, key)
  if (node.type !== 'resolver') {
    const name = node.type === 'unknown' ? node.name : node.type
    const problem = `leads to a node of the type ${JSON.stringify(name)}, which a connection cannot follow`
    throw chainError(chain, problem)
  }
  const ids = [...new Set([node.target, ...node.failover])]
  if (ids.length > MAX_TARGETS)
    throw chainError(chain, `has ${ids.length} targets; at most ${MAX_TARGETS} are supported`)
  const targets = ids.map((id) => {
    const target = chain.targets.get(id)
    if (target === undefined)
      throw chainError(chain, `leads to the target ${JSON.stringify(id)}, which is missing`)
    return gatewayMode === undefined || target.isExternal ? target : { ...target, gatewayMode }
  })
  return { targets, connectTimeoutMs: node.connectTimeoutMs, loadBalancer: node.loadBalancer }
}

/** @throws DialError with ERR_CONNECT_CHAIN */
export function nodeAt(chain: CompiledChain, key: string): ChainNode {
  const node = chain.nodes.get(key)
  if (node === undefined)
    throw chainError(chain, `leads to the node ${JSON.stringify(key)}, which is missing`)
  return node
}

/** A chain that cannot be followed. */
export function chainError({ service }: CompiledChain, problem: string): DialError {
  return new DialError('ERR_CONNECT_CHAIN', service, `its discovery chain ${problem}`)
}

/** Leads to a service itself, where the caller says, for an agent without discovery chains. */
export function withoutChain(service: string, gatewayMode: MeshGatewayMode = 'none'): Failover {
  const target: ChainTarget = {
    service,
    subset: undefined,
    peer: undefined,
    serverName: undefined,
    filter: undefined,
    onlyPassing: false,
    gatewayMode,
    isExternal: false,
  }
  return { targets: [target], connectTimeoutMs: DEFAULT_CONNECT_TIMEOUT_MS, loadBalancer: undefined }
}
