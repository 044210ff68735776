import type { Upstream } from '../resolve/upstream.js'
import type { MeshSocket } from '../transport/mesh-socket.js'
import type { HostSettings } from './mesh-url.js'
import type { ConnectionLifetimes } from './connection-lifetimes.js'

/** How an adapter that keeps connections reaches the mesh. */
export interface MeshAccess {
  readonly dial: (upstream: Upstream, how: HttpDial) => Promise<MeshSocket>
  readonly lifetimes: ConnectionLifetimes
  readonly hosts: HostSettings
  /** The bound on a dial where the adapter's own options have none. */
  readonly dialTimeoutMs: number
  /** Upper bound on the connections to each host where the adapter's own options have none. */
  readonly maxConnectionsPerHost: number
  readonly crossServiceRedirects: boolean
}

interface HttpDial {
  readonly signal: AbortSignal
  readonly timeoutMs: number
  /** Whether our side stays open when the peer ends its own. */
  readonly allowHalfOpen: boolean
  readonly alpnProtocols: readonly string[]
}
