import type { DeniedError, RevokedError } from '../authorize/authorizer.js'
import type { RequestDeniedError } from '../authorize/requests/request-denied-error.js'
import type { Staleness } from '../authorize/destination-intentions.js'
import type { Leaf } from '../identity/leaf.js'
import type { Roots } from '../identity/roots.js'

/** The events of a service, with their arguments. */
export interface ServiceEvents {
  /** New connections use a new certificate. Also emitted for the first one. */
  rotated: [leaf: Leaf]
  /** The CA roots changed. New connections are verified against the new ones. */
  roots: [roots: Roots]
  /** A verified peer was denied. */
  denied: [error: DeniedError]
  /**
   * An HTTP request was denied by the permissions of its source, or could not be decided. At most 11 events are emitted per
   * second: the last one stands for `count` requests and is about the latest one. `count` is 1 for all others.
   */
  requestDenied: [error: RequestDeniedError, count: number]
  /** An open connection or request was ended because its peer is no longer authorized or trusted. */
  revoked: [error: RevokedError]
  /**
   * Decisions may have changed, and open connections are being authorized again. Applications that terminate TLS
   * themselves should call `authorize` again.
   */
  decisions: []
  /** The agent does not answer. The last known intentions stay in use until `deniesAt`. */
  stale: [staleness: Staleness]
  /** The agent answers again. */
  fresh: []
  /**
   * The handshake or the verification of a peer failed. `remoteAddress` is undefined if the peer has disconnected, or
   * on a Unix socket. At most 11 events are emitted per second: the last one stands for `count` rejections and has the
   * error of the latest one. `count` is 1 for all others.
   */
  rejected: [error: Error, remoteAddress: string | undefined, count: number]
  /**
   * A problem that an operator should know about, such as an agent that does not answer or a rejected certificate; see
   * `error.code`. The service keeps running. Without a listener, warnings are passed to `process.emitWarning`, at most
   * once a minute for each code.
   */
  warning: [error: Error]
  /** The service has closed completely. */
  closed: []
}
