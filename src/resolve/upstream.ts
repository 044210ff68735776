import { isDnsName } from '../agent/dns/message.js'
import { type MeshGatewayMode, isMeshGatewayMode } from '../agent/endpoints/chain.js'
import type { Scope } from '../agent/endpoints/health.js'
import { OptionError } from '../base/errors.js'
import type { ExpectedIdentity } from '../identity/verify.js'
import {
  describe,
  expectAddress,
  expectBoolean,
  expectName,
  expectString,
  expectStrings,
  optional,
  readOptions,
} from '../base/options/validate.js'
import type { Resolver } from './resolver.js'

/**
 * A service of the mesh, by its name. A missing scope is that of the agent. Its discovery chain may lead to a subset,
 * another service, or another datacenter; the conditions apply to the instances of each target, whose identity is
 * expected.
 */
export interface ServiceUpstream extends Scope {
  readonly service: string
  /** Only instances with all of these tags. */
  readonly tags?: readonly string[] | undefined
  /**
   * The name of a node, or `_agent` for the node of the agent: instances with the shortest estimated round trip from it
   * come first. @default instances are chosen by weight and load
   */
  readonly near?: string | undefined
  /** Only instances that match this expression of Consul's filter language, such as `Service.Meta.version == "2"`. */
  readonly filter?: string | undefined
  /**
   * Whether instances with a failing check of the status `warning` are left out. Otherwise they get connections by their
   * warning weight. @default that of the subset; false without a subset
   */
  readonly onlyPassing?: boolean | undefined
  /**
   * How connections to another datacenter travel: `none` directly, `local` through the mesh gateways of our datacenter,
   * `remote` through those of the other one. @default the mode of the service
   */
  readonly meshGateway?: MeshGatewayMode | undefined
}

/** A prepared query. Its instances must prove the identity of the service that the query names. */
export interface QueryUpstream extends Scope {
  /** The name or ID of the query; for a template, any name that it matches. */
  readonly query: string
  /** The name of a node, or `_agent`: instances with the shortest round trip come first. @default that of the query */
  readonly near?: string | undefined
}

/** A name in Consul's DNS, and the service that its addresses must belong to: DNS is not trusted for identities. */
export interface DnsUpstream extends Scope {
  /**
   * `<service>.connect[.<datacenter>].<domain>`, `<query>.query[.<datacenter>].<domain>`, or any name with SRV records.
   */
  readonly dns: string
  readonly service: string
}

/** Fixed addresses, and the service that they must belong to. */
export interface AddressUpstream extends Scope {
  /** `host:port`, with an IPv6 address in brackets; or a list of them. */
  readonly address: string | readonly string[]
  readonly service: string
}

/**
 * The destination of a dial: the name of a service as a string; an object for a service with conditions, a prepared
 * query, a DNS name, or addresses; or a custom resolver.
 */
export type Upstream = string | ServiceUpstream | QueryUpstream | DnsUpstream | AddressUpstream | Resolver

/** An upstream that this library resolves. */
export type ParsedUpstream =
  | ({ readonly kind: 'service' } & ServiceUpstream)
  | ({ readonly kind: 'query' } & QueryUpstream)
  | ({ readonly kind: 'dns' } & DnsUpstream)
  | ({ readonly kind: 'address' } & AddressUpstream & { readonly address: readonly string[] })

export function isResolver(value: unknown): value is Resolver {
  if (typeof value !== 'object' || value === null) return false
  const { name, resolve } = value as Partial<Record<keyof Resolver, unknown>>
  return typeof name === 'string' && typeof resolve === 'function'
}

/**
 * Validates an upstream.
 * @throws OptionError
 */
export function parseUpstream(upstream: unknown): ParsedUpstream {
  if (typeof upstream === 'string') return { kind: 'service', service: expectServiceName(upstream) }
  if (typeof upstream !== 'object' || upstream === null || Array.isArray(upstream))
    throw new OptionError('upstream', 'a service name or an object', describe(upstream))
  const given: object = upstream
  if (Object.hasOwn(given, 'query')) return parseQuery(given)
  if (Object.hasOwn(given, 'dns')) return parseDns(given)
  if (Object.hasOwn(given, 'address')) return parseAddress(given)
  return parseService(given)
}

/**
 * Validates and copies an upstream, so that later changes of the object of the caller have no effect.
 * @throws OptionError
 */
export function settledUpstream(upstream: unknown): Upstream {
  if (isResolver(upstream)) return upstream
  parseUpstream(upstream)
  return structuredClone(upstream as Upstream)
}

const SCOPE_CHECKS = {
  datacenter: optional(expectName),
  namespace: optional(expectName),
  partition: optional(expectName),
}

/**
 * Converts the name of a service, or a service with its scope, to an expected identity.
 * @throws OptionError
 */
export function toIdentity(upstream: unknown): ExpectedIdentity {
  if (typeof upstream === 'string') return { service: expectName('upstream', upstream) }
  return readOptions(upstream, { service: expectName, ...SCOPE_CHECKS }, 'upstream')
}

function expectServiceName(upstream: string): string {
  if (!upstream.includes('://')) return expectName('upstream', upstream)
  throw new OptionError(
    'upstream',
    'a service name (for a URL, use fetch(), dispatcher(), or httpAgent())',
    describe(upstream),
  )
}

function parseService(given: object): ParsedUpstream {
  const checks = {
    service: expectName,
    ...SCOPE_CHECKS,
    tags: optional(expectTags),
    near: optional(expectName),
    filter: optional(expectFilter),
    onlyPassing: optional(expectBoolean),
    meshGateway: optional(expectGatewayMode),
  }
  return { kind: 'service', ...readOptions(given, checks, 'upstream') }
}

export function expectGatewayMode(option: string, value: unknown): MeshGatewayMode {
  if (isMeshGatewayMode(value)) return value
  throw new OptionError(option, 'none, local, or remote', describe(value))
}

function parseQuery(given: object): ParsedUpstream {
  const checks = { query: expectName, ...SCOPE_CHECKS, near: optional(expectName) }
  return { kind: 'query', ...readOptions(given, checks, 'upstream') }
}

function parseDns(given: object): ParsedUpstream {
  const checks = { dns: expectDnsName, service: expectName, ...SCOPE_CHECKS }
  return { kind: 'dns', ...readOptions(given, checks, 'upstream') }
}

function expectDnsName(option: string, value: unknown): string {
  const name = expectString(option, value)
  if (isDnsName(name)) return name
  throw new OptionError(option, 'a DNS name', describe(name))
}

function parseAddress(given: object): ParsedUpstream {
  const checks = { address: expectAddresses, service: expectName, ...SCOPE_CHECKS }
  return { kind: 'address', ...readOptions(given, checks, 'upstream') }
}

function expectAddresses(option: string, value: unknown): readonly string[] {
  const list = Array.isArray(value) ? expectStrings(option, value) : [expectString(option, value)]
  if (list.length === 0) throw new OptionError(option, 'an address or more', 'an empty list')
  for (const each of list) expectAddress(option, each)
  return list
}

/** Longer than filters are in practice, and short enough for a URL. */
const LONGEST_FILTER = 2_048
const MOST_TAGS = 32

export function expectFilter(option: string, value: unknown): string {
  const filter = expectString(option, value)
  if (filter.length > LONGEST_FILTER)
    throw new OptionError(option, `at most ${LONGEST_FILTER} characters`, `${filter.length}`)
  if (isBalanced(filter)) return filter
  throw new OptionError(option, 'an expression with balanced parentheses', describe(filter))
}

/** Whether no parenthesis of a filter closes one outside of it, so that it can be joined with another filter. */
function isBalanced(filter: string): boolean {
  let depth = 0
  for (const [token] of filter.matchAll(/"(?:[^"\\]|\\.)*"|`[^`]*`|[()]/g)) {
    if (token === '(') depth += 1
    if (token === ')') depth -= 1
    if (depth < 0) return false
  }
  return depth === 0
}

export function expectTags(option: string, value: unknown): readonly string[] {
  const tags = expectStrings(option, value)
  if (tags.length > MOST_TAGS) throw new OptionError(option, `at most ${MOST_TAGS} tags`, `${tags.length}`)
  return tags
}
