import { type AgentClient, path, right } from './client.js'

/** A service registration, in the agent's own spelling. */
export interface ServiceDefinition {
  readonly ID: string
  readonly Name: string
  readonly Port: number
  readonly Address?: string
  readonly Tags?: readonly string[]
  readonly Meta?: Readonly<Record<string, string>>
  /** An instance that speaks the mesh's protocol itself. */
  readonly Connect?: { readonly Native: true }
  /** A proxy that stands for another service. */
  readonly Kind?: 'connect-proxy'
  readonly Proxy?: { readonly DestinationServiceName: string; readonly DestinationServiceID?: string }
  readonly Weights?: { readonly Passing: number; readonly Warning: number }
  readonly Check: CheckDefinition
  /** Checks beside `Check`. */
  readonly Checks?: readonly AliasCheckDefinition[]
}

/** A check that has the state of another service of the same agent. */
interface AliasCheckDefinition {
  readonly CheckID: string
  readonly Name: string
  readonly AliasService: string
}

export interface CheckDefinition {
  readonly CheckID: string
  readonly Name: string
  readonly TTL?: string
  readonly TCP?: string
  readonly Interval?: string
  readonly Timeout?: string
  readonly Status?: 'passing' | 'critical'
  readonly DeregisterCriticalServiceAfter?: string
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
  readonly timeoutMs?: number | undefined
}

/** `PUT /v1/agent/service/register`: needs `service:write`. */
export async function registerService(
  agent: AgentClient,
  body: ServiceDefinition,
  options: CallOptions,
): Promise<void> {
  // Without this flag a registration would keep the checks of an older one under the same id.
  const query = { 'replace-existing-checks': true }
  const needs = right('service:write', body.Name)
  const request = { method: 'PUT', path: '/v1/agent/service/register', query, body, needs } as const
  await agent.request({ ...request, ...options }, nothing)
}

/** `PUT /v1/agent/service/deregister/:id` */
export async function deregisterService(agent: AgentClient, id: string, options: CallOptions): Promise<void> {
  await agent.request({ method: 'PUT', path: path`/v1/agent/service/deregister/${id}`, ...options }, nothing)
}

/** `PUT /v1/agent/check/pass/:id`: fails when the agent has no such TTL check. */
export async function passCheck(agent: AgentClient, id: string, options: CallOptions): Promise<void> {
  await agent.request({ method: 'PUT', path: path`/v1/agent/check/pass/${id}`, ...options }, nothing)
}

/** `GET /v1/agent/service/:id`: fails with ERR_CONNECT_AGENT_NOT_FOUND when the agent has no such service. */
export async function findService(agent: AgentClient, id: string, options: CallOptions): Promise<void> {
  await agent.request({ path: path`/v1/agent/service/${id}`, ...options }, nothing)
}

/** These answers have no body that matters. */
function nothing(): undefined {
  return undefined
}
