import {
  type ChainTarget,
  type CompiledChain,
  DEFAULT_CONNECT_TIMEOUT_MS,
  type LoadBalancer,
  type MeshGatewayMode,
} from '../../agent/endpoints/chain.js'
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
  const fail = (problem: string): DialError =>
    new DialError('ERR_CONNECT_CHAIN', chain.service, `its discovery chain ${problem}`)
  const node = chain.nodes.get(chain.startNode)
  if (node === undefined)
    throw fail(`starts with the node ${JSON.stringify(chain.startNode)}, which is missing`)
  if (node.type !== 'resolver') {
    const name = node.type === 'unknown' ? node.name : node.type
    throw fail(`starts with a node of the type ${JSON.stringify(name)}, which a dial cannot follow`)
  }
  const ids = [...new Set([node.target, ...node.failover])]
  if (ids.length > MAX_TARGETS) throw fail(`has ${ids.length} targets; at most ${MAX_TARGETS} are supported`)
  const targets = ids.map((id) => {
    const target = chain.targets.get(id)
    if (target === undefined) throw fail(`leads to the target ${JSON.stringify(id)}, which is missing`)
    return gatewayMode === undefined || target.isExternal ? target : { ...target, gatewayMode }
  })
  return { targets, connectTimeoutMs: node.connectTimeoutMs, loadBalancer: node.loadBalancer }
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
