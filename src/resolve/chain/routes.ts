import type { CompiledChain, MeshGatewayMode } from '../../agent/endpoints/chain.js'
import type {
  ChainNode,
  HeaderModifiers,
  RetryDefinition,
  RouteDefinition,
} from '../../agent/endpoints/chain-nodes.js'
import type { HashPolicy } from '../../agent/endpoints/chain-load-balancer.js'
import type { HttpMatch } from '../../agent/endpoints/http-rules.js'
import { type Failover, chainError, failoverOf, nodeAt } from './failover.js'

/** Where the requests to a service go: the first route that matches a request, and there one leg by its share. */
export interface Routes {
  readonly routes: readonly Route[]
  /** The legs by the keys of their nodes. */
  readonly legs: ReadonlyMap<string, Failover>
}

export interface Route {
  readonly match: HttpMatch
  readonly prefixRewrite: string | undefined
  /** In milliseconds; Infinity for no limit. */
  readonly requestTimeoutMs: number
  /** In milliseconds; Infinity for no limit. */
  readonly idleTimeoutMs: number
  readonly retry: RetryDefinition
  readonly headers: HeaderModifiers
  readonly hashPolicies: readonly HashPolicy[]
  readonly legs: readonly RouteLeg[]
}

/** One of the ways that a route leads to. */
export interface RouteLeg {
  /** The key of the leg in `Routes`. */
  readonly key: string
  /** Its part of the requests, of the sum over all legs of the route. */
  readonly share: number
  readonly headers: HeaderModifiers
}

/** Upper bound on the routes of a service, each of which may be compared with every request. */
const MAX_ROUTES = 1_000
/** Upper bound on the legs of a service, each of which has watches. */
const MAX_LEGS = 256

/** The default of Envoy for the requests of a router or splitter. */
const DEFAULT_REQUEST_TIMEOUT_MS = 15_000

const EVERY_REQUEST: HttpMatch = { path: undefined, headers: [], query: [], methods: [] }
const NO_RETRIES: RetryDefinition = { most: 0, onConnectFailure: false, onStatusCodes: [], on: [] }
const NO_CHANGES = { remove: [], set: [], add: [] }
const NO_MODIFIERS: HeaderModifiers = { request: NO_CHANGES, response: NO_CHANGES }

const HTTP_PROTOCOLS: ReadonlySet<string> = new Set(['http', 'http2', 'grpc'])

/**
 * Follows a chain for HTTP requests.
 * @param gatewayMode - replaces the mode of all targets, as `OverrideMeshGateway` of Consul does
 * @returns undefined if the chain says nothing about requests, so that each connection can lead anywhere in it
 * @throws DialError with ERR_CONNECT_CHAIN
 */
export function followRoutes(chain: CompiledChain, gatewayMode?: MeshGatewayMode): Routes | undefined {
  const start = nodeAt(chain, chain.startNode)
  if (start.type === 'resolver') {
    const isHttp = HTTP_PROTOCOLS.has(chain.protocol)
    if (!isHttp || (start.loadBalancer === undefined && start.requestTimeoutMs === undefined))
      return undefined
  }
  const walk: Walk = { chain, gatewayMode, legs: new Map() }
  const routes =
    start.type === 'router'
      ? start.routes.map((definition) => routeOf(walk, definition))
      : [defaultRoute(walk, start)]
  if (routes.length > MAX_ROUTES)
    throw chainError(chain, `has ${routes.length} routes; at most ${MAX_ROUTES} are supported`)
  if (walk.legs.size > MAX_LEGS)
    throw chainError(chain, `has ${walk.legs.size} legs; at most ${MAX_LEGS} are supported`)
  return { routes, legs: walk.legs }
}

interface Walk {
  readonly chain: CompiledChain
  readonly gatewayMode: MeshGatewayMode | undefined
  readonly legs: Map<string, Failover>
}

function routeOf(walk: Walk, definition: RouteDefinition): Route {
  const { match, prefixRewrite, retry, headers, next } = definition
  const node = nodeAt(walk.chain, next)
  return {
    match,
    prefixRewrite,
    requestTimeoutMs: definition.requestTimeoutMs ?? DEFAULT_REQUEST_TIMEOUT_MS,
    idleTimeoutMs: definition.idleTimeoutMs ?? Infinity,
    retry,
    headers,
    ...waysOf(walk, next, node),
  }
}

/** The only route of a chain without a router. */
function defaultRoute(walk: Walk, start: ChainNode): Route {
  const byDefault = start.type === 'splitter' ? DEFAULT_REQUEST_TIMEOUT_MS : Infinity
  const ofResolver = start.type === 'resolver' ? start.requestTimeoutMs : undefined
  return {
    match: EVERY_REQUEST,
    prefixRewrite: undefined,
    requestTimeoutMs: ofResolver ?? byDefault,
    idleTimeoutMs: Infinity,
    retry: NO_RETRIES,
    headers: NO_MODIFIERS,
    ...waysOf(walk, walk.chain.startNode, start),
  }
}

function waysOf(walk: Walk, key: string, node: ChainNode): Pick<Route, 'hashPolicies' | 'legs'> {
  if (node.type !== 'resolver' && node.type !== 'splitter') {
    const name = node.type === 'unknown' ? node.name : node.type
    throw chainError(
      walk.chain,
      `leads to a node of the type ${JSON.stringify(name)}, which a request cannot follow`,
    )
  }
  const hashPolicies = node.loadBalancer?.hashPolicies ?? []
  if (node.type === 'resolver') {
    return { hashPolicies, legs: [{ key: legAt(walk, key), share: 1, headers: NO_MODIFIERS }] }
  }
  const legs = node.splits.map(({ weight, headers, next }) => ({
    key: legAt(walk, next),
    // In steps of 0.01 %, as Consul tells Envoy. It computes with 32 bits: 0.29 is 29 steps and not 28.
    share: Math.trunc(Math.fround(Math.fround(weight) * 100)),
    headers,
  }))
  if (legs.every(({ share }) => share === 0))
    throw chainError(walk.chain, 'splits requests among legs that all have the weight 0')
  return { hashPolicies, legs }
}

function legAt({ chain, gatewayMode, legs }: Walk, key: string): string {
  if (!legs.has(key)) legs.set(key, failoverOf(chain, key, gatewayMode))
  return key
}
