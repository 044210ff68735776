import { channel } from 'node:diagnostics_channel'
import type { Decision, RevokedError } from './authorize/authorizer.js'
import type { DialAttempt } from './errors.js'
import type { Leaf } from './identity/leaf.js'
import type { Peer } from './identity/peer.js'
import type { Roots } from './identity/roots.js'

/**
 * What each channel of node:diagnostics_channel carries. A message is published when what it tells of is over, in the
 * asynchronous context in which that was asked for; durations are in milliseconds.
 */
export interface ChannelMessages {
  'consul-connect:dial': DialMessage
  'consul-connect:handshake': HandshakeMessage
  'consul-connect:decision': DecisionMessage
  'consul-connect:revocation': RevocationMessage
  'consul-connect:rotation': RotationMessage
  'consul-connect:agent-request': AgentRequestMessage
}

/** What `consul-connect:dial` carries: a dial that is over, by `dial` itself or by whatever stands on it. */
export interface DialMessage {
  /** The service that dialled. */
  readonly service: string
  /** The upstream, as errors call it. */
  readonly upstream: string
  readonly durationMs: number
  /** The tries that failed, also when another went well in the end. */
  readonly attempts: readonly DialAttempt[]
  /** Who answered, when it went well. */
  readonly peer: Peer | undefined
  /** `host:port` of who answered. */
  readonly address: string | undefined
  /** Why nobody did. */
  readonly error: Error | undefined
}

/** What `consul-connect:handshake` carries: an inbound handshake that is over, the identity step included. */
export interface HandshakeMessage {
  /** The service that listens. */
  readonly service: string
  /** Since the connection was accepted; undefined when it was gone too early to tell. */
  readonly durationMs: number | undefined
  /** Who it is, when it went well. Whether it may connect is decided afterwards. */
  readonly peer: Peer | undefined
  /** Why it did not. */
  readonly error: Error | undefined
}

/** What `consul-connect:decision` carries: what was decided of a peer that wants in. */
export interface DecisionMessage extends Required<Decision> {
  /** The service that is being connected to. */
  readonly service: string
  readonly peer: Peer
  readonly durationMs: number
}

/** What `consul-connect:revocation` carries: an inbound connection that was ended since its peer may no longer be in. */
export interface RevocationMessage {
  readonly service: string
  readonly peer: Peer
  /** With the reason, its ground, and the connection's age. */
  readonly error: RevokedError
}

/** What `consul-connect:rotation` carries: a certificate or roots that are new and in use from now on. */
export interface RotationMessage {
  readonly service: string
  /** What is new. */
  readonly what: 'leaf' | 'roots'
  /** Without its key. */
  readonly leaf: Leaf
  readonly roots: Roots
}

/** What `consul-connect:agent-request` carries: a request to the agent's HTTP API that is over. */
export interface AgentRequestMessage {
  /** The agent's address as configured, without credentials. */
  readonly address: string
  readonly method: string
  /** Without the query string. */
  readonly path: string
  /** Whether the agent was asked to hold it until something changes. */
  readonly isBlocking: boolean
  readonly durationMs: number
  /** The HTTP status, when there was an answer. */
  readonly status: number | undefined
  /** Why there was none. */
  readonly error: Error | undefined
}

/** The part of a channel that is used here; typed, as Node's own types are not. */
interface Publisher<T> {
  readonly hasSubscribers: boolean
  publish(message: T): void
}

/** Without a subscriber they cost next to nothing. */
export const channels: { readonly [K in keyof ChannelMessages as Short<K>]: Publisher<ChannelMessages[K]> } =
  {
    dial: channel('consul-connect:dial'),
    handshake: channel('consul-connect:handshake'),
    decision: channel('consul-connect:decision'),
    revocation: channel('consul-connect:revocation'),
    rotation: channel('consul-connect:rotation'),
    'agent-request': channel('consul-connect:agent-request'),
  }

type Short<K> = K extends `consul-connect:${infer Name}` ? Name : never
