import type { AgentClient } from '../agent/client.js'
import { OptionError } from '../errors.js'
import { describe, expectKeys, expectName, expectObject, expectString, optional } from '../options.js'
import { type ServiceTarget, healthResolver } from './health.js'
import type { Resolver } from './resolver.js'
import { staticResolver } from './static.js'

/** A fixed address, and the service that must be found there. */
export interface AddressTarget extends ServiceTarget {
  /** `host:port`, with an IPv6 address in brackets. */
  readonly address: string
}

/**
 * What can be dialled: a string is exactly a service's name; an object is a service with more said about where, or
 * an address with the service that must be there; a resolver is anything else.
 */
export type Upstream = string | ServiceTarget | AddressTarget | Resolver

/**
 * The resolver for an upstream.
 * @throws OptionError
 */
export function toResolver(agent: AgentClient, upstream: Upstream): Resolver {
  if (isResolver(upstream)) return upstream
  const { address, ...target } = toTarget(upstream)
  if (address === undefined) return healthResolver(agent, target)
  return staticResolver(`${target.service} at ${address}`, [{ ...hostAndPort(address), identity: target }])
}

/**
 * The service that an upstream names, with its address where it has one.
 * @throws OptionError
 */
export function toTarget(upstream: unknown): ServiceTarget & { readonly address?: string } {
  if (typeof upstream === 'string') return { service: expectName('upstream', upstream) }
  const given = expectObject('upstream', upstream)
  expectKeys('upstream', given, ['service', 'address', 'datacenter', 'namespace', 'partition'])
  const address = optional(expectString)('upstream.address', given['address'])
  return {
    service: expectName('upstream.service', given['service']),
    datacenter: optional(expectName)('upstream.datacenter', given['datacenter']),
    namespace: optional(expectName)('upstream.namespace', given['namespace']),
    partition: optional(expectName)('upstream.partition', given['partition']),
    ...(address !== undefined && { address }),
  }
}

function isResolver(value: unknown): value is Resolver {
  if (typeof value !== 'object' || value === null) return false
  const { name, resolve } = value as Partial<Record<keyof Resolver, unknown>>
  return typeof name === 'string' && typeof resolve === 'function'
}

function hostAndPort(address: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+(?:%[A-Za-z0-9._-]+)?)\]|([^:\s/[\]]+)):(\d{1,5})$/.exec(address)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || !(port >= 1 && port <= 65535)) {
    throw new OptionError('upstream.address', 'host:port or [ipv6]:port', describe(address))
  }
  return { host, port }
}
