import { type AgentClient, type AgentResponse, path } from '../client.js'
import { right } from '../agent-errors.js'
import { nonEmpty, object } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** The certificate of a service. */
export interface LeafCertificate {
  /** The leaf, followed by intermediate certificates. */
  readonly chainPem: string
  readonly privateKeyPem: string
}

/**
 * Reads the certificate of a service: `GET /v1/agent/connect/ca/leaf/:service`. Needs `service:write` on the service.
 */
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
