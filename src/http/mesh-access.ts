import type { Time } from '../base/clock.js'
import type { ActiveUpstream } from '../resolve/active-upstream.js'
import type { ServiceChain, ServiceResolver } from '../resolve/chain/service-resolver.js'
import type { Endpoint } from '../resolve/resolver.js'
import type { UpstreamLease } from '../resolve/upstream-registry.js'
import type { Upstream } from '../resolve/upstream.js'
import type { Dialed } from '../transport/outbound/dial-race.js'
import type { HostSettings } from './mesh-url.js'
import type { ConnectionLifetimes } from '../transport/connection-lifetimes.js'

/** What HTTP clients use of a service. */
export interface MeshAccess {
  readonly time: Time
  readonly lease: (upstream: Upstream) => UpstreamLease
  /** Reads the chain of a service. */
  readonly readChain: (service: ServiceResolver, bounds: HttpBounds) => Promise<ServiceChain>
  readonly resolve: (upstream: ActiveUpstream, bounds: HttpBounds) => Promise<readonly Endpoint[]>
  readonly dial: (upstream: ActiveUpstream, how: HttpDial) => Promise<Dialed>
  readonly lifetimes: ConnectionLifetimes
  readonly hosts: HostSettings
  /** The default timeout of a dial, in milliseconds. */
  readonly dialTimeoutMs: number
  /** The default limit on connections to each host. */
  readonly maxConnectionsPerHost: number
  readonly crossServiceRedirects: boolean
}

interface HttpBounds {
  readonly signal: AbortSignal
  readonly timeoutMs: number
}

interface HttpDial extends HttpBounds {
  /** The endpoint to try first. @default chosen by the balancer */
  readonly preferred?: Endpoint | undefined
  /** Whether our side stays open when the peer ends its side. */
  readonly allowHalfOpen: boolean
  readonly alpnProtocols: readonly string[]
}
