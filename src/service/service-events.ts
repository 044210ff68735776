import type { DeniedError, RevokedError } from '../authorize/authorizer.js'
import type { Staleness } from '../authorize/destination-intentions.js'
import type { Leaf } from '../identity/leaf.js'
import type { Roots } from '../identity/roots.js'

/** What a Service tells, and with what. */
export interface ServiceEvents {
  /** A new certificate of ours is in use for new connections; the first one counts. */
  rotated: [leaf: Leaf]
  /** The mesh's roots changed; new connections are verified against the new ones. */
  roots: [roots: Roots]
  /** A peer proved who it is and was not let in. */
  denied: [error: DeniedError]
  /** A peer that was let in may no longer be: its connection was ended. */
  revoked: [error: RevokedError]
  /**
   * Decisions may have become others, and open connections are being decided again. Whoever terminates TLS elsewhere
   * asks `authorize` again.
   */
  decisions: []
  /** The agent is away: the last known intentions serve, until `deniesAt`. */
  stale: [staleness: Staleness]
  /** The agent is back. */
  fresh: []
  /**
   * A peer did not prove who it is; `remoteAddress` is undefined when the peer is gone already, or on a unix socket.
   * There are at most 11 such events in a second: the last one stands for `count` rejections, of which it tells the
   * newest. Every other one has a `count` of 1.
   */
  rejected: [error: Error, remoteAddress: string | undefined, count: number]
  /**
   * Something an operator should know, while work goes on with what there is: the agent is away, a certificate was
   * refused, a check could not be renewed. `error.code` tells which. Without a listener warnings go to
   * `process.emitWarning`, those of one code once a minute.
   */
  warning: [error: Error]
  /** Everything is closed. */
  closed: []
}
