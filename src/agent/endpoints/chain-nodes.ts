import {
  type JsonObject,
  ShapeError,
  array,
  boolean,
  count,
  duration,
  limit,
  maybe,
  nonEmpty,
  noteUnknown,
  object,
  string,
  wholeNumber,
} from '../json.js'
import { type LoadBalancer, parseLoadBalancer } from './chain-load-balancer.js'
import { type HttpMatch, parseHttpMatch } from './http-rules.js'

/** A step of a chain. */
export type ChainNode = RouterNode | SplitterNode | ResolverNode | UnknownNode

/** A node that chooses the next one by the first route that matches the request. */
export interface RouterNode {
  readonly type: 'router'
  readonly routes: readonly RouteDefinition[]
}

export interface RouteDefinition {
  readonly match: HttpMatch
  /** What replaces the matched part of the path; undefined to leave it as it is. */
  readonly prefixRewrite: string | undefined
  /** How long a request may take, with all retries, in milliseconds; Infinity for no limit. @default that of Envoy */
  readonly requestTimeoutMs: number | undefined
  /** How long a request may go without a byte, in milliseconds; Infinity for no limit. @default no limit of its own */
  readonly idleTimeoutMs: number | undefined
  readonly retry: RetryDefinition
  readonly headers: HeaderModifiers
  /** The key of the next node. */
  readonly next: string
}

/** When a request is sent again. */
export interface RetryDefinition {
  /** The most retries of a request. */
  readonly most: number
  readonly onConnectFailure: boolean
  readonly onStatusCodes: readonly number[]
  /** Conditions in the terms of Envoy, such as `5xx`. */
  readonly on: readonly string[]
}

/** Changes of the headers of a request and of its response. */
export interface HeaderModifiers {
  readonly request: HeaderChanges
  readonly response: HeaderChanges
}

/** Headers are removed first. */
export interface HeaderChanges {
  /** In lower case. */
  readonly remove: readonly string[]
  /** Replaces a header. */
  readonly set: readonly (readonly [name: string, value: string])[]
  /** Adds a line. */
  readonly add: readonly (readonly [name: string, value: string])[]
}

/** A node that chooses the next one at random. */
interface SplitterNode {
  readonly type: 'splitter'
  readonly splits: readonly Split[]
  readonly loadBalancer: LoadBalancer | undefined
}

export interface Split {
  /** In percent. */
  readonly weight: number
  readonly headers: HeaderModifiers
  /** The key of the next node. */
  readonly next: string
}

/** A node that leads to a target, and to further targets if the first one has no healthy instance. */
export interface ResolverNode {
  readonly type: 'resolver'
  /** The ID of the target. */
  readonly target: string
  /** The IDs of the failover targets, in order. */
  readonly failover: readonly string[]
  /** How long a connection attempt may take, in milliseconds. */
  readonly connectTimeoutMs: number
  /** As that of a route, for a chain that starts with this node. */
  readonly requestTimeoutMs: number | undefined
  readonly loadBalancer: LoadBalancer | undefined
}

/** A node of a type that this version does not support. */
interface UnknownNode {
  readonly type: 'unknown'
  /** The type as the agent wrote it. */
  readonly name: string
}

/** Consul's own default. */
export const DEFAULT_CONNECT_TIMEOUT_MS = 5_000

/**
 * Reads a node.
 * @param ignored - receives the place of each field that this version does not know
 */
export function parseNode(node: JsonObject, place: string, ignored: string[]): ChainNode {
  const type = string(node['Type'], `${place}.Type`)
  const items = (field: string): readonly unknown[] => array(node[field] ?? null, `${place}.${field}`)
  const loadBalancer = maybe((value, at) => parseLoadBalancer(value, at, ignored))(
    node['LoadBalancer'],
    `${place}.LoadBalancer`,
  )
  switch (type) {
    case 'router':
      return {
        type,
        routes: items('Routes').map((item, i) => parseRoute(item, `${place}.Routes[${i}]`, ignored)),
      }
    case 'splitter':
      return {
        type,
        splits: items('Splits').map((item, i) => parseSplit(item, `${place}.Splits[${i}]`, ignored)),
        loadBalancer,
      }
    case 'resolver':
      return { type, ...parseResolver(node['Resolver'], `${place}.Resolver`), loadBalancer }
    default:
      return { type: 'unknown', name: type }
  }
}

function parseResolver(
  value: unknown,
  place: string,
): Pick<ResolverNode, 'target' | 'failover' | 'connectTimeoutMs' | 'requestTimeoutMs'> {
  const resolver = object(value, place)
  const failover = maybe(object)(resolver['Failover'], `${place}.Failover`)
  const targets = `${place}.Failover.Targets`
  return {
    target: nonEmpty(resolver['Target'], `${place}.Target`),
    failover: array(failover?.['Targets'] ?? null, targets).map((id, i) => nonEmpty(id, `${targets}[${i}]`)),
    connectTimeoutMs:
      maybe(duration)(resolver['ConnectTimeout'], `${place}.ConnectTimeout`) || DEFAULT_CONNECT_TIMEOUT_MS,
    requestTimeoutMs: maybe(limit)(resolver['RequestTimeout'], `${place}.RequestTimeout`),
  }
}

const DESTINATION_FIELDS = [
  ...['Service', 'ServiceSubset', 'Namespace', 'Partition', 'PrefixRewrite', 'RequestTimeout', 'IdleTimeout'],
  ...['NumRetries', 'RetryOnConnectFailure', 'RetryOn', 'RetryOnStatusCodes'],
  ...['RequestHeaders', 'ResponseHeaders'],
]

function parseRoute(item: unknown, place: string, ignored: string[]): RouteDefinition {
  const route = object(item, place)
  const definition = maybe(object)(route['Definition'], `${place}.Definition`) ?? {}
  noteUnknown(definition, `${place}.Definition`, ['Match', 'Destination'], ignored)
  const at = `${place}.Definition.Destination`
  const destination = maybe(object)(definition['Destination'], at) ?? {}
  noteUnknown(destination, at, DESTINATION_FIELDS, ignored)
  return {
    match: parseMatch(definition['Match'], `${place}.Definition.Match`, ignored),
    prefixRewrite: maybe(string)(destination['PrefixRewrite'], `${at}.PrefixRewrite`),
    requestTimeoutMs: maybe(limit)(destination['RequestTimeout'], `${at}.RequestTimeout`),
    idleTimeoutMs: maybe(limit)(destination['IdleTimeout'], `${at}.IdleTimeout`),
    retry: parseRetry(destination, at),
    headers: parseModifiers(destination, at, ignored),
    next: nonEmpty(route['NextNode'], `${place}.NextNode`),
  }
}

function parseMatch(value: unknown, place: string, ignored: string[]): HttpMatch {
  const match = maybe(object)(value, place) ?? {}
  noteUnknown(match, place, ['HTTP'], ignored)
  return parseHttpMatch(maybe(object)(match['HTTP'], `${place}.HTTP`) ?? {}, `${place}.HTTP`, ignored)
}

/** The number of retries of Envoy, where Consul says none. */
const DEFAULT_RETRIES = 1

function parseRetry(destination: JsonObject, place: string): RetryDefinition {
  const list = (field: string): readonly unknown[] => array(destination[field] ?? null, `${place}.${field}`)
  return {
    most: maybe(count)(destination['NumRetries'], `${place}.NumRetries`) || DEFAULT_RETRIES,
    onConnectFailure:
      maybe(boolean)(destination['RetryOnConnectFailure'], `${place}.RetryOnConnectFailure`) ?? false,
    onStatusCodes: list('RetryOnStatusCodes').map((code, i) =>
      wholeNumber(code, `${place}.RetryOnStatusCodes[${i}]`),
    ),
    on: list('RetryOn').map((condition, i) => nonEmpty(condition, `${place}.RetryOn[${i}]`)),
  }
}

const SPLIT_FIELDS = [
  ...['Weight', 'Service', 'ServiceSubset', 'Namespace', 'Partition'],
  ...['RequestHeaders', 'ResponseHeaders'],
]

function parseSplit(item: unknown, place: string, ignored: string[]): Split {
  const split = object(item, place)
  const at = `${place}.Definition`
  const definition = maybe(object)(split['Definition'], at) ?? {}
  noteUnknown(definition, at, SPLIT_FIELDS, ignored)
  return {
    weight: maybe(percent)(split['Weight'], `${place}.Weight`) ?? 0,
    headers: parseModifiers(definition, at, ignored),
    next: nonEmpty(split['NextNode'], `${place}.NextNode`),
  }
}

function percent(value: unknown, place: string): number {
  if (typeof value === 'number' && value >= 0 && value <= 100) return value
  throw new ShapeError(place, 'a number from 0 to 100', value)
}

function parseModifiers(value: JsonObject, place: string, ignored: string[]): HeaderModifiers {
  const read = (field: string): HeaderChanges => parseChanges(value[field], `${place}.${field}`, ignored)
  return { request: read('RequestHeaders'), response: read('ResponseHeaders') }
}

function parseChanges(value: unknown, place: string, ignored: string[]): HeaderChanges {
  const changes = maybe(object)(value, place) ?? {}
  noteUnknown(changes, place, ['Add', 'Set', 'Remove'], ignored)
  const lines = (field: string): [string, string][] =>
    Object.entries(maybe(object)(changes[field], `${place}.${field}`) ?? {}).map(([name, line]) => [
      name.toLowerCase(),
      string(line, `${place}.${field}[${JSON.stringify(name)}]`),
    ])
  const remove = array(changes['Remove'] ?? null, `${place}.Remove`)
  return {
    remove: remove.map((name, i) => nonEmpty(name, `${place}.Remove[${i}]`).toLowerCase()),
    set: lines('Set'),
    add: lines('Add'),
  }
}
