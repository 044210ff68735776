import { type Channel, openChannel } from '../base/channel.js'

/** Message of `consul-connect:agent-request`: a completed request to the HTTP API of the agent. */
export interface AgentRequestMessage {
  /** The configured address of the agent, without credentials. */
  readonly address: string
  readonly method: string
  /** Without the query string. */
  readonly path: string
  /** Whether it was a blocking query. */
  readonly isBlocking: boolean
  readonly durationMs: number
  /** The HTTP status; undefined without a response. */
  readonly status: number | undefined
  /** Why there was no response. */
  readonly error: Error | undefined
}

export const agentRequests: Channel<AgentRequestMessage> = openChannel('consul-connect:agent-request')
