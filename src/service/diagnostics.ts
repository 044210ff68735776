import type { AgentRequestMessage } from '../agent/diagnostics.js'
import type { DecisionMessage, RevocationMessage } from '../authorize/diagnostics.js'
import type { RotationMessage } from '../identity/diagnostics.js'
import type { ResolutionMessage } from '../resolve/diagnostics.js'
import type { DialMessage, HandshakeMessage } from '../transport/diagnostics.js'

/**
 * What each channel of node:diagnostics_channel carries. A message is published when what it tells of is over, in the
 * asynchronous context in which that was asked for; durations are in milliseconds.
 */
export interface ChannelMessages {
  'consul-connect:dial': DialMessage
  'consul-connect:resolution': ResolutionMessage
  'consul-connect:handshake': HandshakeMessage
  'consul-connect:decision': DecisionMessage
  'consul-connect:revocation': RevocationMessage
  'consul-connect:rotation': RotationMessage
  'consul-connect:agent-request': AgentRequestMessage
}
