import { formatHostPort } from '../base/host-port.js'
import { type Channel, openChannel } from '../base/channel.js'
import type { Endpoint } from './resolver.js'

/** What `consul-connect:resolution` carries: the instances of an upstream, when they were looked up or have changed. */
export interface ResolutionMessage {
  /** The upstream, as errors name it. */
  readonly upstream: string
  /** The datacenter of the instances; undefined where it is not known. */
  readonly datacenter: string | undefined
  /** `host:port` of each instance that can be dialed. */
  readonly addresses: readonly string[]
  /** Whether the first address is the nearest, and is dialed first. */
  readonly isSorted: boolean
  /** Why the look-up failed; the instances of an earlier one may be in use. */
  readonly error: Error | undefined
}

const resolutions: Channel<ResolutionMessage> = openChannel('consul-connect:resolution')

/** Reports the instances of an upstream. */
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

/** Reports that the instances of an upstream cannot be looked up. */
export function publishResolutionFailure(upstream: string, error: Error): void {
  if (!resolutions.hasSubscribers) return
  resolutions.publish({ upstream, datacenter: undefined, addresses: [], isSorted: false, error })
}
