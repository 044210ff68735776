import type { Balancer } from './balancing/balancer.js'
import type { Resolver } from './resolver.js'

/** The resolver and the balancer of an upstream. */
export interface ActiveUpstream {
  readonly resolver: Resolver
  readonly balancer: Balancer
}
