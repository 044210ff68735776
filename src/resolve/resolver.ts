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
}

/**
 * Answers "where is it, and who must it be". The two come together, so that an address can never be used with the
 * wrong expectation. Implement it for any source of addresses; `dial` takes it in place of a name.
 */
export interface Resolver {
  /** For messages: what this resolves. */
  readonly name: string
  /** The instances that can be dialled now, in any order. An empty list means that there is none. */
  resolve(options: { readonly signal: AbortSignal }): Promise<readonly Endpoint[]> | readonly Endpoint[]
}

/**
 * Asks a resolver, and checks what it says: a resolver may be anybody's.
 * @throws DialError with ERR_CONNECT_NO_INSTANCES; ConnectError with ERR_CONNECT_RESOLVER; a ConnectError of the
 * resolver's own as it is
 */
export async function resolveEndpoints(
  resolver: Resolver,
  signal: AbortSignal,
): Promise<readonly Endpoint[]> {
  let answer: unknown
  try {
    answer = await resolver.resolve({ signal })
  } catch (cause) {
    if (cause instanceof ConnectError) throw cause
    throw new DialError('ERR_CONNECT_RESOLVER', resolver.name, `its resolver failed${because(cause)}`, {
      cause,
    })
  }
  if (!Array.isArray(answer) || !answer.every(isEndpoint)) {
    const message =
      'its resolver returned something else than a list of { host, port, identity: { service } }'
    throw new DialError('ERR_CONNECT_RESOLVER', resolver.name, message)
  }
  if (answer.length === 0)
    throw new DialError('ERR_CONNECT_NO_INSTANCES', resolver.name, 'there is no instance to dial')
  return answer
}

function isEndpoint(value: unknown): value is Endpoint {
  if (typeof value !== 'object' || value === null) return false
  const { host, port, identity } = value as Partial<Record<keyof Endpoint, unknown>>
  if (
    typeof host !== 'string' ||
    host === '' ||
    !isPort(port) ||
    typeof identity !== 'object' ||
    identity === null
  )
    return false
  const { service } = identity as { service?: unknown }
  return typeof service === 'string' && service !== ''
}

function isPort(value: unknown): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65535
}
