import { type Channel, openChannel } from '../base/channel.js'
import type { Leaf } from './leaf.js'
import type { Roots } from './roots.js'

/** Message of `consul-connect:rotation`: a new certificate or new roots are in use. */
export interface RotationMessage {
  readonly service: string
  /** Whether the certificate or the roots are new. */
  readonly what: 'leaf' | 'roots'
  /** The certificate, without its private key. */
  readonly leaf: Leaf
  readonly roots: Roots
}

export const rotations: Channel<RotationMessage> = openChannel('consul-connect:rotation')
