import { type Channel, openChannel } from '../base/channel.js'

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

export const agentRequests: Channel<AgentRequestMessage> = openChannel('consul-connect:agent-request')
