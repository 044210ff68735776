import { parseGoDuration } from '../../base/duration.js'
import { type AgentClient, path } from '../client.js'
import { type ConnectInstance, type Scope, parseConnectInstances, scoped } from './health.js'
import { array, maybe, nonEmpty, object, string } from '../json.js'

/** The result of a prepared query. */
export interface QueryAnswer {
  /** The service that the query resolved to. */
  readonly service: string
  readonly namespace: string | undefined
  /** The datacenter of the instances: after a failover, another one than ours. */
  readonly datacenter: string | undefined
  readonly instances: readonly ConnectInstance[]
  /** The node of each entry in the order of the response, to detect its sorting. `instances` omits gateways. */
  readonly nodes: readonly string[]
  /** The TTL of the query, in milliseconds; undefined if it defines none. */
  readonly ttlMs: number | undefined
}

export interface QueryRequest extends Scope {
  /** The name or ID of the query. */
  readonly query: string
  readonly near?: string | undefined
}

/**
 * Executes a prepared query: `GET /v1/query/:idOrName/execute?connect=true`. Needs `service:read` on the service, by
 * our token or the token of the query. The endpoint cannot block.
 */
export async function executeQuery(
  agent: AgentClient,
  { query, near, ...scope }: QueryRequest,
  bounds: { readonly signal: AbortSignal; readonly timeoutMs?: number },
): Promise<QueryAnswer> {
  const request = {
    path: path`/v1/query/${query}/execute`,
    // Stale reads are allowed, so that a cluster without a leader answers as well.
    query: { connect: true, stale: true, near, ...scoped(agent, scope) },
    ...bounds,
  }
  return (await agent.request(request, parseQueryAnswer)).value
}

/**
 * Returns whether the definition of a query sorts by distance: `GET /v1/query/:idOrName/explain`. Needs `query:read`.
 */
export async function isSortedQuery(
  agent: AgentClient,
  { query, ...scope }: QueryRequest,
  bounds: { readonly signal: AbortSignal; readonly timeoutMs: number },
): Promise<boolean> {
  const request = {
    path: path`/v1/query/${query}/explain`,
    query: { stale: true, ...scoped(agent, scope) },
    ...bounds,
  }
  return (await agent.request(request, parseIsSorted)).value
}

export function parseQueryAnswer(body: unknown): QueryAnswer {
  const answer = object(body, '')
  const dns = maybe(object)(answer['DNS'], 'DNS')
  const ttl = maybe(string)(dns?.['TTL'], 'DNS.TTL')
  return {
    service: nonEmpty(answer['Service'], 'Service'),
    namespace: maybe(nonEmpty)(answer['Namespace'], 'Namespace'),
    datacenter: maybe(nonEmpty)(answer['Datacenter'], 'Datacenter'),
    instances: parseConnectInstances(answer['Nodes'] ?? null),
    nodes: array(answer['Nodes'] ?? null, 'Nodes').map(parseNode),
    ttlMs: ttl === undefined ? undefined : parseGoDuration(ttl),
  }
}

/** Returns the name of a node, or its address if the agent leaves out the name. */
function parseNode(item: unknown, i: number): string {
  const place = `Nodes[${i}].Node`
  const node = object(object(item, `Nodes[${i}]`)['Node'], place)
  return maybe(string)(node['Node'], `${place}.Node`) ?? nonEmpty(node['Address'], `${place}.Address`)
}

export function parseIsSorted(body: unknown): boolean {
  const query = object(object(body, '')['Query'], 'Query')
  const service = object(query['Service'], 'Query.Service')
  return maybe(string)(service['Near'], 'Query.Service.Near') !== undefined
}
