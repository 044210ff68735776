import type { Endpoint, Resolver } from './resolver.js'

/** Resolves to the endpoints that are given, always. */
export function staticResolver(name: string, endpoints: readonly Endpoint[]): Resolver {
  return { name, resolve: () => endpoints }
}
