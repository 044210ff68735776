import type { LoadBalancer } from '../agent/endpoints/chain-load-balancer.js'
import { ConnectError, DialError, withCause } from '../base/errors.js'
import { describe, isHost } from '../base/options/validate.js'
import { isServerName } from '../identity/server-name.js'
import type { ExpectedIdentity } from '../identity/verify.js'

/** An address of an upstream, with the identity that its peer must have. */
export interface Endpoint {
  /** An IP address or host name. */
  readonly host: string
  readonly port: number
  /**
   * The expected identity of the peer. Namespace, partition, and datacenter default to our own: a service of the same
   * name elsewhere is another service.
   */
  readonly identity: ExpectedIdentity
  /** The weight among the endpoints; one with weight 0 is used if there is no other. @default 1 */
  readonly weight?: number | undefined
  /**
   * The failover group, 0 for the first. A group is used while every instance of the earlier ones is missing, ejected, or
   * has failed in this dial. @default 0
   */
  readonly priority?: number | undefined
  /** The server name (SNI) of the handshake, by which gateways route. @default that of the identity */
  readonly serverName?: string | undefined
  /** The subset of the service, for events and errors. */
  readonly subset?: string | undefined
  /** Whether the instance announces that it takes many connections over one (`mux`). @default false */
  readonly mux?: boolean | undefined
}

/** The request to a resolver. */
export interface ResolveRequest {
  /** Aborted when the result is no longer needed. */
  readonly signal: AbortSignal
  /** Our own datacenter. */
  readonly datacenter: string
  /** Whether all previous endpoints failed, so that cached ones should not be returned. */
  readonly refresh: boolean
}

/**
 * Resolves an upstream to addresses and expected identities. Implement it for any source of addresses, and pass it to
 * `dial` instead of a name.
 *
 * The state of instances (load, failures) is kept with the resolver object: create one and use it for all dials.
 */
export interface Resolver {
  /** The name of the upstream in messages. */
  readonly name: string
  /**
   * Whether the list is sorted, the best endpoint first. Each dial then takes the first healthy endpoint instead of
   * choosing by weight and load. Read after `resolve`. @default false
   */
  readonly isSorted?: boolean
  /** The error of the last lookup. The cause of a dial that times out. */
  readonly lastError?: Error | undefined
  /**
   * Returns the current endpoints; an empty list if there are none. If it returns the same frozen array, it is not
   * validated again.
   */
  resolve(request: ResolveRequest): Promise<readonly Endpoint[]> | readonly Endpoint[]
  /**
   * Returns the current endpoints if they are known without waiting: the same frozen array while nothing changes. HTTP
   * clients then stop using connections to an endpoint that is no longer listed, or that is a failover which is no longer
   * needed. @default connections stay in use
   */
  known?(): readonly Endpoint[] | undefined
}

/** Validated copies of frozen lists. */
const copies = new WeakMap<readonly unknown[], readonly Endpoint[]>()

/**
 * Calls a resolver, which may belong to the application, and validates its result. Returns a deeply frozen copy, so
 * that an expected identity cannot be changed afterwards.
 * @throws DialError with ERR_CONNECT_NO_INSTANCES or ERR_CONNECT_RESOLVER; a ConnectError of the resolver, unchanged
 */
export async function resolveEndpoints(
  resolver: Resolver,
  request: ResolveRequest,
): Promise<readonly Endpoint[]> {
  const fail = (problem: string, cause?: unknown): DialError =>
    new DialError('ERR_CONNECT_RESOLVER', resolver.name, problem, { cause })
  let answer: unknown
  try {
    answer = await resolver.resolve(request)
  } catch (cause) {
    if (cause instanceof ConnectError) throw cause
    throw fail(`its resolver failed${withCause(cause)}`, cause)
  }
  if (!Array.isArray(answer)) throw fail('its resolver returned something else than a list of endpoints')
  const list: readonly unknown[] = answer
  if (list.length === 0) {
    const message = 'the resolver returned no endpoints'
    throw new DialError('ERR_CONNECT_NO_INSTANCES', resolver.name, message, { reason: 'empty' })
  }
  return copies.get(list) ?? copyOf(list, fail)
}

/** How the operator of a service wants its endpoints to be dialed. */
export interface DialPolicy {
  /** How an endpoint is chosen among those of a group. @default by weight and load, see Balancer */
  readonly loadBalancer?: LoadBalancer | undefined
  /** How long one connection attempt may take, in milliseconds. @default until the deadline of the dial */
  readonly connectTimeoutMs?: number | undefined
}

const policies = new WeakMap<readonly unknown[], DialPolicy>()
const NO_POLICY: DialPolicy = {}

/** Creates a deeply frozen list of our own, which needs no validation. */
export function endpointList(endpoints: readonly Endpoint[], policy?: DialPolicy): readonly Endpoint[] {
  for (const endpoint of endpoints) Object.freeze(Object.freeze(endpoint).identity)
  const list = Object.freeze(endpoints)
  copies.set(list, list)
  if (policy !== undefined) policies.set(list, policy)
  return list
}

/** Returns the policy of a list of endpoints; an empty one for a list of an application. */
export function dialPolicyOf(endpoints: readonly Endpoint[]): DialPolicy {
  return policies.get(endpoints) ?? NO_POLICY
}

function copyOf(list: readonly unknown[], fail: (problem: string) => DialError): readonly Endpoint[] {
  // Array.from, because the list may have holes.
  const endpoints = Array.from(list, (item, i) => {
    const endpoint = tryToRead(item)
    if (typeof endpoint === 'object') return endpoint
    throw fail(`its resolver returned a list whose item ${i} ${endpoint}`)
  })
  const copy = endpointList(endpoints)
  if (Object.isFrozen(list)) copies.set(list, copy)
  return copy
}

/** Runs code that may call getters of the application. */
function tryToRead(value: unknown): Endpoint | string {
  try {
    return readEndpoint(value)
  } catch (error) {
    return `cannot be read${withCause(error)}`
  }
}

/** Copies an endpoint, reading each property once. @returns a problem if it is invalid */
function readEndpoint(value: unknown): Endpoint | string {
  if (typeof value !== 'object' || value === null) return 'is no endpoint { host, port, identity }'
  const { host, port, identity, weight, priority, serverName, subset, mux } = value as Partial<
    Record<keyof Endpoint, unknown>
  >
  if (typeof host !== 'string' || !isHost(host))
    return `should have a host name or an address as its host, and has ${describe(host)}`
  if (!isPort(port)) return `should have a port from 1 to 65535, and has ${describe(port)}`
  if (weight !== undefined && !isWeight(weight)) {
    return `should have a weight of 0 or more, and has ${describe(weight)}`
  }
  if (priority !== undefined && !isPriority(priority)) {
    return `should have a priority from 0 to ${MAX_PRIORITY}, and has ${describe(priority)}`
  }
  if (serverName !== undefined && !isServerName(serverName)) {
    return `should have a host name as its serverName, and has ${describe(serverName)}`
  }
  if (subset !== undefined && !isName(subset))
    return `should have a name as its subset, and has ${describe(subset)}`
  if (mux !== undefined && typeof mux !== 'boolean')
    return `should have true or false as its mux, and has ${describe(mux)}`
  if (typeof identity !== 'object' || identity === null) return 'should have an identity { service }'
  const { service, namespace, partition, datacenter } = identity as Record<keyof ExpectedIdentity, unknown>
  if (!isName(service))
    return `should have the name of a service in its identity, and has ${describe(service)}`
  for (const name of [namespace, partition, datacenter]) {
    if (name !== undefined && !isName(name))
      return `should have names in its identity, and has ${describe(name)}`
  }
  const place = { namespace, partition, datacenter } as Omit<ExpectedIdentity, 'service'>
  return {
    host,
    port,
    identity: { service, ...place },
    ...(weight !== undefined && { weight }),
    ...(priority !== undefined && { priority }),
    ...(serverName !== undefined && { serverName }),
    ...(subset !== undefined && { subset }),
    ...(mux !== undefined && { mux }),
  }
}

/** More groups than any failover has. */
const MAX_PRIORITY = 1_000

function isPriority(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_PRIORITY
}

function isPort(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65535
}

function isWeight(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}
