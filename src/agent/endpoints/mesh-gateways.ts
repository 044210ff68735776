import { type AgentClient, type AgentResponse, path } from '../client.js'
import { right } from '../agent-errors.js'
import { object } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'
import { type ConnectInstance, parseMeshGateways } from './health.js'

/** The mesh gateways of each datacenter. */
export type GatewaysByDatacenter = ReadonlyMap<string, readonly ConnectInstance[]>

/**
 * Reads the mesh gateways of all datacenters, whatever their service is called:
 * `GET /v1/internal/federation-states/mesh-gateways`. The agent leaves out those for which the token lacks
 * `service:read` or `node:read`. Consul 1.8 and later.
 */
export async function fetchMeshGateways(
  agent: AgentClient,
  query: BlockingQuery,
): Promise<AgentResponse<GatewaysByDatacenter>> {
  const { query: parameters, ...bounds } = blocking(query)
  const request = {
    path: '/v1/internal/federation-states/mesh-gateways',
    query: { stale: true, ...parameters },
    ...bounds,
  }
  return agent.request(request, parseGatewaysByDatacenter)
}

/** Reads the mesh gateways of one datacenter by the name of their service: `GET /v1/health/service/:service`. */
export async function fetchGatewayService(
  agent: AgentClient,
  service: string,
  datacenter: string,
  signal: AbortSignal,
): Promise<readonly ConnectInstance[]> {
  const request = {
    path: path`/v1/health/service/${service}`,
    query: { stale: true, dc: datacenter },
    needs: `${right('service:read', service)} and node:read`,
    signal,
  }
  return (await agent.request(request, (body) => parseMeshGateways(body))).value
}

export function parseGatewaysByDatacenter(body: unknown): GatewaysByDatacenter {
  const entries = Object.entries(object(body, ''))
  return new Map(
    entries.map(([datacenter, list]) => [
      datacenter,
      parseMeshGateways(list, `[${JSON.stringify(datacenter)}]`),
    ]),
  )
}
