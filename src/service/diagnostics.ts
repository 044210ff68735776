import type { AgentRequestMessage } from '../agent/diagnostics.js'
import type { DecisionMessage, RequestMessage, RevocationMessage } from '../authorize/diagnostics.js'
import type { RotationMessage } from '../identity/diagnostics.js'
import type { ResolutionMessage } from '../resolve/diagnostics.js'
import type { DialMessage, HandshakeMessage } from '../transport/diagnostics.js'

/**
 * The messages of the channels of node:diagnostics_channel. Each is published when its operation has completed, in the
 * asynchronous context of the caller. Durations are in milliseconds.
 */
export interface ChannelMessages {
  'consul-connect:dial': DialMessage
  'consul-connect:resolution': ResolutionMessage
  'consul-connect:handshake': HandshakeMessage
  'consul-connect:decision': DecisionMessage
  'consul-connect:request': RequestMessage
  'consul-connect:revocation': RevocationMessage
  'consul-connect:rotation': RotationMessage
  'consul-connect:agent-request': AgentRequestMessage
}
