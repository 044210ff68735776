import type { Upstream } from '../resolve/upstream.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import type { HostSettings } from './mesh-url.js'
import type { ConnectionLifetimes } from './connection-lifetimes.js'

/** What HTTP clients use of a service. */
export interface MeshAccess {
  readonly dial: (upstream: Upstream, how: HttpDial) => Promise<MeshSocket>
  readonly lifetimes: ConnectionLifetimes
  readonly hosts: HostSettings
  /** The default timeout of a dial, in milliseconds. */
  readonly dialTimeoutMs: number
  /** The default limit on connections to each host. */
  readonly maxConnectionsPerHost: number
  readonly crossServiceRedirects: boolean
}

interface HttpDial {
  readonly signal: AbortSignal
  readonly timeoutMs: number
  /** Whether our side stays open when the peer ends its side. */
  readonly allowHalfOpen: boolean
  readonly alpnProtocols: readonly string[]
}
