import { formatHostPort } from '../base/host-port.js'
import { type Channel, openChannel } from '../base/channel.js'
import type { Endpoint } from './resolver.js'

/** Message of `consul-connect:resolution`: the instances of an upstream were looked up or have changed. */
export interface ResolutionMessage {
  /** The name of the upstream, as in errors. */
  readonly upstream: string
  /** The datacenter of the instances; undefined if it is not known. */
  readonly datacenter: string | undefined
  /** `host:port` of each instance that can be dialed. */
  readonly addresses: readonly string[]
  /** Whether the first address is the nearest, and is dialed first. */
  readonly isSorted: boolean
  /** The error of a failed lookup, after which earlier instances may stay in use. */
  readonly error: Error | undefined
}

const resolutions: Channel<ResolutionMessage> = openChannel('consul-connect:resolution')

/** Publishes the instances of an upstream. */
export function publishResolution(upstream: string, endpoints: readonly Endpoint[], isSorted: boolean): void {
  if (!resolutions.hasSubscribers) return
  resolutions.publish({
    upstream,
    datacenter: endpoints[0]?.identity.datacenter,
    addresses: endpoints.map(formatHostPort),
    isSorted,
    error: undefined,
  })
}

/** Publishes a failed lookup. */
export function publishResolutionFailure(upstream: string, error: Error): void {
  if (!resolutions.hasSubscribers) return
  resolutions.publish({ upstream, datacenter: undefined, addresses: [], isSorted: false, error })
}
