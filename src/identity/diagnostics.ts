import { type Channel, openChannel } from '../base/channel.js'
import type { Leaf } from './leaf.js'
import type { Roots } from './roots.js'

/** What `consul-connect:rotation` carries: a certificate or roots that are new and in use from now on. */
export interface RotationMessage {
  readonly service: string
  /** What is new. */
  readonly what: 'leaf' | 'roots'
  /** Without its key. */
  readonly leaf: Leaf
  readonly roots: Roots
}

export const rotations: Channel<RotationMessage> = openChannel('consul-connect:rotation')
