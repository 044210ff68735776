import { isDnsName } from '../agent/dns/message.js'
import type { Scope } from '../agent/endpoints/health.js'
import { OptionError } from '../base/errors.js'
import type { ExpectedIdentity } from '../identity/verify.js'
import {
  describe,
  expectAddress,
  expectBoolean,
  expectKeys,
  expectName,
  expectObject,
  expectString,
  expectStrings,
  optional,
} from '../base/validate.js'
import type { Resolver } from './resolver.js'

/** A service of the mesh, by name. What is left out is the agent's own. */
export interface ServiceTarget extends Scope {
  readonly service: string
  /** Only instances that have every one of these tags. */
  readonly tags?: readonly string[] | undefined
  /**
   * A node's name, or `_agent` for the agent's own: the instances that are nearest to it, by the estimated round trip,
   * come first. @default instances are chosen by weight and load
   */
  readonly near?: string | undefined
  /** Only instances that pass this expression of Consul's filter language, such as `Service.Meta.version == "2"`. */
  readonly filter?: string | undefined
  /** Whether instances whose checks warn are left out. @default true */
  readonly onlyPassing?: boolean | undefined
}

/** A prepared query. The instances must prove the name of the service that the query is about. */
export interface QueryTarget extends Scope {
  /** The query's name or id; for a template, any name that it matches. */
  readonly query: string
  /** Sorted by the round trip from this node, or from the agent's own: `_agent`. @default as the query itself says */
  readonly near?: string | undefined
}

/**
 * A name of Consul's DNS, and who must be found behind it: DNS can be forged, and says nothing of identities, so they
 * never come from there.
 */
export interface DnsTarget extends Scope {
  /**
   * `<service>.connect[.<datacenter>].<domain>`, `<query>.query[.<datacenter>].<domain>`, or any name with SRV records.
   */
  readonly dns: string
  readonly service: string
}

/** Fixed addresses, and the service that must be found there. */
export interface AddressTarget extends Scope {
  /** `host:port`, with an IPv6 address in brackets; or a list of them. */
  readonly address: string | readonly string[]
  readonly service: string
}

/**
 * What can be dialled. A string is exactly a service's name; an object is a service with more said about which of its
 * instances, or a prepared query, or a DNS name or addresses with the service that must be there; a resolver is
 * anything else.
 */
export type Upstream = string | ServiceTarget | QueryTarget | DnsTarget | AddressTarget | Resolver

/** An upstream that we resolve ourselves. */
export type Target =
  | ({ readonly kind: 'service' } & ServiceTarget)
  | ({ readonly kind: 'query' } & QueryTarget)
  | ({ readonly kind: 'dns' } & DnsTarget)
  | ({ readonly kind: 'address' } & AddressTarget & { readonly address: readonly string[] })

export function isResolver(value: unknown): value is Resolver {
  if (typeof value !== 'object' || value === null) return false
  const { name, resolve } = value as Partial<Record<keyof Resolver, unknown>>
  return typeof name === 'string' && typeof resolve === 'function'
}

/**
 * What an upstream names.
 * @throws OptionError
 */
export function toTarget(upstream: unknown): Target {
  if (typeof upstream === 'string') return { kind: 'service', service: expectServiceName(upstream) }
  const given = expectObject('upstream', upstream)
  if (Object.hasOwn(given, 'query')) return queryTarget(given)
  if (Object.hasOwn(given, 'dns')) return dnsTarget(given)
  if (Object.hasOwn(given, 'address')) return addressTarget(given)
  return serviceTarget(given)
}

/**
 * An upstream as it is now, whatever becomes of the object that it was given by.
 * @throws OptionError
 */
export function settledUpstream(upstream: unknown): Upstream {
  if (isResolver(upstream)) return upstream
  toTarget(upstream)
  return structuredClone(upstream as Upstream)
}

/**
 * A service's name, or a service and where it is.
 * @throws OptionError
 */
export function toIdentity(upstream: unknown): ExpectedIdentity {
  if (typeof upstream === 'string') return { service: expectName('upstream', upstream) }
  const given = expectObject('upstream', upstream)
  expectKeys('upstream', given, ['service', ...SCOPE_KEYS])
  return { service: expectName('upstream.service', given['service']), ...scopeOf(given) }
}

function expectServiceName(upstream: string): string {
  if (!upstream.includes('://')) return expectName('upstream', upstream)
  throw new OptionError(
    'upstream',
    'a service name (for a URL, use fetch(), dispatcher(), or httpAgent())',
    describe(upstream),
  )
}

type Given = Readonly<Record<string, unknown>>

function serviceTarget(given: Given): Target {
  expectKeys('upstream', given, ['service', ...SCOPE_KEYS, 'tags', 'near', 'filter', 'onlyPassing'])
  return {
    kind: 'service',
    service: expectName('upstream.service', given['service']),
    ...scopeOf(given),
    tags: optional(expectTags)('upstream.tags', given['tags']),
    near: optional(expectName)('upstream.near', given['near']),
    filter: optional(expectFilter)('upstream.filter', given['filter']),
    onlyPassing: optional(expectBoolean)('upstream.onlyPassing', given['onlyPassing']),
  }
}

function queryTarget(given: Given): Target {
  expectKeys('upstream', given, ['query', ...SCOPE_KEYS, 'near'])
  return {
    kind: 'query',
    query: expectName('upstream.query', given['query']),
    ...scopeOf(given),
    near: optional(expectName)('upstream.near', given['near']),
  }
}

function dnsTarget(given: Given): Target {
  expectKeys('upstream', given, ['dns', 'service', ...SCOPE_KEYS])
  const dns = expectString('upstream.dns', given['dns'])
  if (!isDnsName(dns)) throw new OptionError('upstream.dns', 'a DNS name', describe(dns))
  return { kind: 'dns', dns, service: expectName('upstream.service', given['service']), ...scopeOf(given) }
}

function addressTarget(given: Given): Target {
  expectKeys('upstream', given, ['address', 'service', ...SCOPE_KEYS])
  const { address } = given
  const list = Array.isArray(address)
    ? expectStrings('upstream.address', address)
    : [expectString('upstream.address', address)]
  if (list.length === 0) throw new OptionError('upstream.address', 'an address or more', 'an empty list')
  for (const each of list) expectAddress('upstream.address', each)
  return {
    kind: 'address',
    address: list,
    service: expectName('upstream.service', given['service']),
    ...scopeOf(given),
  }
}

/** Longer than filters are in practice, and short enough for a URL. */
const LONGEST_FILTER = 2_048
const MOST_TAGS = 32

export function expectFilter(option: string, value: unknown): string {
  const filter = expectString(option, value)
  if (filter.length <= LONGEST_FILTER) return filter
  throw new OptionError(option, `at most ${LONGEST_FILTER} characters`, `${filter.length}`)
}

export function expectTags(option: string, value: unknown): readonly string[] {
  const tags = expectStrings(option, value)
  if (tags.length > MOST_TAGS) throw new OptionError(option, `at most ${MOST_TAGS} tags`, `${tags.length}`)
  return tags
}

const SCOPE_KEYS = ['datacenter', 'namespace', 'partition']

function scopeOf(given: Given): Scope {
  return {
    datacenter: optional(expectName)('upstream.datacenter', given['datacenter']),
    namespace: optional(expectName)('upstream.namespace', given['namespace']),
    partition: optional(expectName)('upstream.partition', given['partition']),
  }
}
