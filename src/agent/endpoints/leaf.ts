import { type AgentClient, type AgentResponse, path, right } from '../client.js'
import { nonEmpty, object } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** A service's certificate as the agent gives it. */
export interface LeafCertificate {
  /** The leaf, and after it any intermediates that peers need. */
  readonly chainPem: string
  readonly privateKeyPem: string
}

/** `GET /v1/agent/connect/ca/leaf/:service`: needs `service:write` on it. */
export function fetchLeaf(
  agent: AgentClient,
  service: string,
  query: BlockingQuery,
): Promise<AgentResponse<LeafCertificate>> {
  const needs = right('service:write', service)
  return agent.request(
    { path: path`/v1/agent/connect/ca/leaf/${service}`, needs, ...blocking(query) },
    parseLeaf,
  )
}

export function parseLeaf(body: unknown): LeafCertificate {
  const answer = object(body, '')
  return {
    chainPem: nonEmpty(answer['CertPEM'], 'CertPEM'),
    privateKeyPem: nonEmpty(answer['PrivateKeyPEM'], 'PrivateKeyPEM'),
  }
}
