import type { AgentClient } from '../client.js'
import { right } from '../agent-errors.js'
import { boolean, object, string } from '../json.js'

export interface AuthorizeRequest {
  /** The destination service. */
  readonly target: string
  readonly clientCertUri: string
  /** Colon-separated hexadecimal. */
  readonly clientCertSerial: string
}

export interface AuthorizeAnswer {
  readonly authorized: boolean
  /** For people; the wording differs between versions of Consul. */
  readonly reason: string
  /** How long the agent has been unable to refresh its cached intentions, in milliseconds. */
  readonly ageMs: number
}

/** Asks the agent for a decision: `POST /v1/agent/connect/authorize`. Needs `service:write` on the target. */
export async function askAuthorize(
  agent: AgentClient,
  request: AuthorizeRequest,
  options: { signal?: AbortSignal | undefined },
): Promise<AuthorizeAnswer> {
  const { namespace } = agent.settings
  const body = {
    Target: request.target,
    ClientCertURI: request.clientCertUri,
    ClientCertSerial: request.clientCertSerial,
    ...(namespace !== undefined && { Namespace: namespace }),
  }
  const answer = await agent.request(
    {
      method: 'POST',
      path: '/v1/agent/connect/authorize',
      body,
      signal: options.signal,
      needs: right('service:write', request.target),
    },
    parseAuthorize,
  )
  return { ...answer.value, ageMs: answer.ageMs ?? 0 }
}

export function parseAuthorize(body: unknown): Omit<AuthorizeAnswer, 'ageMs'> {
  const answer = object(body, '')
  return {
    authorized: boolean(answer['Authorized'], 'Authorized'),
    reason: string(answer['Reason'], 'Reason'),
  }
}
