import { OptionError, withCause } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { isTrustDomain } from '../identity/spiffe.js'
import {
  describe,
  expectFunction,
  expectName,
  optional,
  readOptions,
  withDefault,
} from '../base/options/validate.js'
import type { AuthorizeRequest, Authorizer } from './authorizer.js'
import { type Decision, expectDecision } from './decision.js'

/** A service that is authorized. */
export interface AllowedService {
  readonly service: string
  /** @default default */
  readonly namespace?: string
  /** @default default */
  readonly partition?: string
  /** @default any datacenter, as with intentions */
  readonly datacenter?: string
}

/**
 * Authorizes by the intentions of the mesh. The default of a service.
 * @example
 * ```ts
 * connect.service('api', { authorize: connect.authorizeIntentions }).destroy()
 * ```
 */
export const authorizeIntentions: Authorizer = ({ intentions }) => intentions()

/**
 * Authorizes every service of the mesh, independent of intentions.
 * @example
 * ```ts
 * connect.service('api', { authorize: connect.authorizeAny }).destroy()
 * ```
 */
export const authorizeAny: Authorizer = () => ({
  authorized: true,
  reason: 'all services of the mesh are authorized',
})

/**
 * Authorizes one service, independent of intentions.
 * @throws OptionError
 * @example
 * ```ts
 * connect.service('api', { authorize: connect.authorizeService('web') }).destroy()
 * ```
 */
export function authorizeService(allowed: string | AllowedService): Authorizer {
  return authorizeOneOf([allowed])
}

/**
 * Authorizes a list of services, independent of intentions.
 * @throws OptionError
 * @example
 * ```ts
 * connect.service('api', { authorize: connect.authorizeOneOf(['web', { service: 'jobs', datacenter: 'dc2' }])
 * }).destroy()
 * ```
 */
export function authorizeOneOf(allowed: readonly (string | AllowedService)[]): Authorizer {
  const services = expectList('allowed', allowed).map((each, i) => expectService(`allowed[${i}]`, each))
  const names = services.map(({ service }) => service).join(', ')
  return ({ peer }) => {
    const authorized = services.some((each) => isService(peer, each))
    const reason = authorized ? `${peer.service} is one of ${names}` : `only ${names} may connect`
    return { authorized, reason }
  }
}

/**
 * Authorizes all services of a trust domain, independent of intentions.
 * @throws OptionError
 * @example
 * ```ts
 * connect.service('api', { authorize: connect.authorizeTrustDomain(web.trustDomain ?? '') }).destroy()
 * ```
 */
export function authorizeTrustDomain(trustDomain: string): Authorizer {
  if (typeof (trustDomain as unknown) !== 'string' || !isTrustDomain(trustDomain))
    throw new OptionError('trustDomain', 'a trust domain, such as 1f0a….consul', describe(trustDomain))
  return ({ peer }) => {
    const authorized = peer.trustDomain === trustDomain
    return { authorized, reason: `the peer is ${authorized ? '' : 'not '}in the trust domain ${trustDomain}` }
  }
}

/**
 * Authorizes a peer that all authorizers accept. They are called in order until one denies.
 * @throws OptionError
 * @example
 * ```ts
 * const both = connect.allOf(connect.authorizeIntentions, connect.authorizeService('web'))
 * connect.service('api', { authorize: both }).destroy()
 * ```
 */
export function allOf(...authorizers: readonly Authorizer[]): Authorizer {
  expectAuthorizers(authorizers)
  return async (request) => {
    const reasons: string[] = []
    let last: Decision = { authorized: false, reason: 'no authorizer' }
    for (const authorizer of authorizers) {
      last = expectDecision(await authorizer(request))
      if (!last.authorized) return last
      reasons.push(last.reason)
    }
    return { ...last, reason: reasons.join('; ') }
  }
}

/**
 * Authorizes a peer that one of the authorizers accepts. They are called in order until one allows. An authorizer that
 * fails denies, and the next one is called.
 * @throws OptionError
 * @example
 * ```ts
 * const either = connect.anyOf(connect.authorizeIntentions, connect.authorizeService('debugger'))
 * connect.service('api', { authorize: either }).destroy()
 * ```
 */
export function anyOf(...authorizers: readonly Authorizer[]): Authorizer {
  expectAuthorizers(authorizers)
  return async (request) => {
    const reasons: string[] = []
    for (const authorizer of authorizers) {
      const decision = await attempt(authorizer, request)
      if (decision.authorized) return decision
      reasons.push(decision.reason)
    }
    return { authorized: false, reason: reasons.join('; ') }
  }
}

async function attempt(authorizer: Authorizer, request: AuthorizeRequest): Promise<Decision> {
  try {
    return expectDecision(await authorizer(request))
  } catch (cause) {
    return { authorized: false, reason: `authorizer failed${withCause(cause)}`, basis: 'failed' }
  }
}

/** A service with all its scopes; an undefined datacenter stands for any. */
interface CompleteService extends Required<Omit<AllowedService, 'datacenter'>> {
  readonly datacenter: string | undefined
}

function isService(peer: Peer, allowed: CompleteService): boolean {
  const { service, namespace, partition, datacenter = peer.datacenter } = allowed
  return (
    peer.service === service &&
    peer.namespace === namespace &&
    peer.partition === partition &&
    peer.datacenter === datacenter
  )
}

function expectService(option: string, value: unknown): CompleteService {
  const checks = {
    service: expectName,
    namespace: withDefault(expectName, 'default'),
    partition: withDefault(expectName, 'default'),
    datacenter: optional(expectName),
  }
  return readOptions(typeof value === 'string' ? { service: value } : value, checks, option)
}

function expectAuthorizers(authorizers: readonly unknown[]): void {
  expectList('authorizers', authorizers)
  for (const [i, each] of authorizers.entries()) expectFunction(`authorizers[${i}]`, each)
}

/** Rejects an empty list, whose meaning is ambiguous. */
function expectList<T>(option: string, value: readonly T[]): readonly T[] {
  const length = Array.isArray(value) ? value.length : undefined
  if (length !== undefined && length > 0) return value
  throw new OptionError(
    option,
    'a list with at least one item',
    length === 0 ? 'an empty list' : describe(value),
  )
}
