import { ConnectError, DialError, because } from '../errors.js'
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

/** Lists that were found to be in order. They are frozen, so they still are. */
const checked = new WeakSet<readonly Endpoint[]>()

/**
 * Asks a resolver, and checks what it says: a resolver may be anybody's.
 * @throws DialError with ERR_CONNECT_NO_INSTANCES or ERR_CONNECT_RESOLVER; a ConnectError of the resolver's own as
 * it is
 */
export async function resolveEndpoints(
  resolver: Resolver,
  request: ResolveRequest,
): Promise<readonly Endpoint[]> {
  let answer: unknown
  try {
    answer = await resolver.resolve(request)
  } catch (cause) {
    if (cause instanceof ConnectError) throw cause
    throw new DialError('ERR_CONNECT_RESOLVER', resolver.name, `its resolver failed${because(cause)}`, {
      cause,
    })
  }
  if (!isList(answer)) {
    const message =
      'its resolver returned something else than a list of { host, port, identity: { service } }'
    throw new DialError('ERR_CONNECT_RESOLVER', resolver.name, message)
  }
  if (answer.length === 0) {
    const message = 'there is no instance to dial'
    throw new DialError('ERR_CONNECT_NO_INSTANCES', resolver.name, message, { reason: 'empty' })
  }
  return answer
}

function isList(answer: unknown): answer is readonly Endpoint[] {
  if (!Array.isArray(answer)) return false
  if (checked.has(answer)) return true
  if (!answer.every(isEndpoint)) return false
  if (Object.isFrozen(answer)) checked.add(answer)
  return true
}

function isEndpoint(value: unknown): value is Endpoint {
  if (typeof value !== 'object' || value === null) return false
  const { host, port, identity, weight } = value as Partial<Record<keyof Endpoint, unknown>>
  return isHost(host) && isPort(port) && isIdentity(identity) && (weight === undefined || isWeight(weight))
}

/** An address or a name, with nothing in it that neither has. */
function isHost(value: unknown): boolean {
  return typeof value === 'string' && /^[A-Za-z0-9_.:%-]{1,255}$/.test(value)
}

function isPort(value: unknown): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65535
}

function isWeight(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

function isIdentity(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const { service, ...place } = value as Record<keyof ExpectedIdentity, unknown>
  const { namespace, partition, datacenter } = place
  return (
    isName(service) && [namespace, partition, datacenter].every((name) => name === undefined || isName(name))
  )
}

function isName(value: unknown): boolean {
  return typeof value === 'string' && value !== ''
}
