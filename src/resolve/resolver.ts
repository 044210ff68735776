import { ConnectError, DialError, withCause } from '../base/errors.js'
import { describe, isHost } from '../base/validate.js'
import type { ExpectedIdentity } from '../identity/verify.js'

/** One place where an upstream can be reached, and who must be found there. */
export interface Endpoint {
  /** An IP address or a host name. */
  readonly host: string
  readonly port: number
  /**
   * The identity that the peer must prove. Namespace, partition and datacenter default to our own: a service of
   * the same name elsewhere is another service.
   */
  readonly identity: ExpectedIdentity
  /** Its share of the connections, in proportion to the others'; 0 is for when there is no other. @default 1 */
  readonly weight?: number | undefined
}

/** What a resolver is asked. */
export interface ResolveRequest {
  /** Aborted when the answer is no longer wanted. */
  readonly signal: AbortSignal
  /** The datacenter that we are in. */
  readonly datacenter: string
  /** Nothing that was said before could be reached: look again rather than answer from memory. */
  readonly refresh: boolean
}

/**
 * Answers "where is it, and who must it be". The two come together, so that an address can never be used with the
 * wrong expectation. Implement it for any source of addresses; `dial` takes it in place of a name.
 *
 * What is known of the instances (their load, who has failed) is kept with the resolver object: make one and use it
 * for every dial.
 */
export interface Resolver {
  /** For messages: what this resolves. */
  readonly name: string
  /**
   * Whether the list is sorted, the best first: then each dial takes the first that is not known to fail. Read after
   * `resolve`. @default false: they are chosen by weight and load
   */
  readonly isSorted?: boolean
  /** What the last look-up failed with. It becomes the cause when the time of a dial is over. */
  readonly lastError?: Error | undefined
  /**
   * The instances that can be dialled now. An empty list means that there is none. A frozen array that is returned
   * again is not examined again.
   */
  resolve(request: ResolveRequest): Promise<readonly Endpoint[]> | readonly Endpoint[]
}

/** Our own copies of lists that cannot change, by the list. */
const copies = new WeakMap<readonly unknown[], readonly Endpoint[]>()

/**
 * Asks a resolver, and checks what it says: a resolver may be anybody's. What comes back is a copy, frozen through and
 * through, so that who is expected somewhere cannot be changed afterwards by whoever else holds the list.
 * @throws DialError with ERR_CONNECT_NO_INSTANCES or ERR_CONNECT_RESOLVER; a ConnectError of the resolver's own as
 * it is
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
    const message = 'there is no instance to dial'
    throw new DialError('ERR_CONNECT_NO_INSTANCES', resolver.name, message, { reason: 'empty' })
  }
  return copies.get(list) ?? copyOf(list, fail)
}

/** A list of ours, frozen through and through, which is its own copy. */
export function endpointList(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  for (const endpoint of endpoints) Object.freeze(Object.freeze(endpoint).identity)
  const list = Object.freeze(endpoints)
  copies.set(list, list)
  return list
}

function copyOf(list: readonly unknown[], fail: (problem: string) => DialError): readonly Endpoint[] {
  // From, since a list may have holes.
  const endpoints = Array.from(list, (item, i) => {
    const endpoint = tryToRead(item)
    if (typeof endpoint === 'object') return endpoint
    throw fail(`its resolver returned a list whose item ${i} ${endpoint}`)
  })
  const copy = endpointList(endpoints)
  if (Object.isFrozen(list)) copies.set(list, copy)
  return copy
}

/** What is read may be a getter of anybody's. */
function tryToRead(value: unknown): Endpoint | string {
  try {
    return readEndpoint(value)
  } catch (error) {
    return `cannot be read${withCause(error)}`
  }
}

/** A copy of one endpoint, each property read once; or what is wrong with it. */
function readEndpoint(value: unknown): Endpoint | string {
  if (typeof value !== 'object' || value === null) return 'is no endpoint { host, port, identity }'
  const { host, port, identity, weight } = value as Partial<Record<keyof Endpoint, unknown>>
  if (typeof host !== 'string' || !isHost(host))
    return `should have a host name or an address as its host, and has ${describe(host)}`
  if (!isPort(port)) return `should have a port from 1 to 65535, and has ${describe(port)}`
  if (weight !== undefined && !isWeight(weight)) {
    return `should have a weight of 0 or more, and has ${describe(weight)}`
  }
  if (typeof identity !== 'object' || identity === null) return 'should have an identity { service }'
  const { service, namespace, partition, datacenter } = identity as Record<keyof ExpectedIdentity, unknown>
  if (!isName(service))
    return `should have the name of a service in its identity, and has ${describe(service)}`
  for (const name of [namespace, partition, datacenter]) {
    if (name !== undefined && !isName(name))
      return `should have names in its identity, and has ${describe(name)}`
  }
  const place = { namespace, partition, datacenter } as Omit<ExpectedIdentity, 'service'>
  return { host, port, identity: { service, ...place }, ...(weight !== undefined && { weight }) }
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
