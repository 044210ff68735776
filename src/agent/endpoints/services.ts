import { type AgentClient, path, right } from '../client.js'
import { array, maybe, object, string, wholeNumber } from '../json.js'

/** A service registration, in the agent's own spelling. */
export interface ServiceDefinition {
  readonly ID: string
  readonly Name: string
  readonly Port: number
  readonly Address?: string
  readonly Tags?: readonly string[]
  readonly Meta: Readonly<Record<string, string>>
  /** An instance that speaks the mesh's protocol itself. */
  readonly Connect?: { readonly Native: true }
  /** A proxy that stands for another service. */
  readonly Kind?: 'connect-proxy'
  readonly Proxy?: { readonly DestinationServiceName: string; readonly DestinationServiceID?: string }
  readonly Weights?: Weights
  readonly Check: CheckDefinition
  readonly Checks?: readonly AliasCheck[]
}

interface Weights {
  readonly Passing: number
  readonly Warning: number
}

export type CheckStatus = 'passing' | 'warning' | 'critical'

export interface CheckDefinition {
  readonly CheckID: string
  readonly Name: string
  readonly TTL?: string
  readonly TCP?: string
  readonly HTTP?: string
  readonly Interval?: string
  readonly Timeout?: string
  readonly Status?: CheckStatus
  readonly DeregisterCriticalServiceAfter?: string
}

/** A check that follows the health of another service of the same agent. */
interface AliasCheck {
  readonly CheckID: string
  readonly Name: string
  readonly AliasService: string
}

/** The key of `Meta` that tells which process made a registration. */
export const OWNER_KEY = 'connect-owner'

/** A service as the agent has it registered. */
export interface RegisteredService {
  /** Undefined for a registration that this library did not make. */
  readonly owner: string | undefined
  readonly tags: readonly string[]
  readonly meta: Readonly<Record<string, string>>
  readonly weights: Weights | undefined
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
  readonly timeoutMs?: number | undefined
  /** Whether the call keeps a registration alive. @default false */
  readonly isHeartbeat?: boolean
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

const ENDPOINTS = { passing: 'pass', warning: 'warn', critical: 'fail' } as const

/** `PUT /v1/agent/check/{pass,warn,fail}/:id`: fails when the agent has no such TTL check. */
export async function updateCheck(
  agent: AgentClient,
  id: string,
  { status, note }: { readonly status: CheckStatus; readonly note: string | undefined },
  options: CallOptions,
): Promise<void> {
  const query = { note }
  const endpoint = path`/v1/agent/check/${ENDPOINTS[status]}/${id}`
  await agent.request({ method: 'PUT', path: endpoint, query, ...options }, nothing)
}

/** `PUT /v1/agent/service/maintenance/:id`. @param reason - undefined ends the maintenance */
export async function setMaintenance(
  agent: AgentClient,
  id: string,
  reason: string | undefined,
  options: CallOptions,
): Promise<void> {
  const query = { enable: reason !== undefined, reason }
  const endpoint = path`/v1/agent/service/maintenance/${id}`
  await agent.request({ method: 'PUT', path: endpoint, query, ...options }, nothing)
}

/** `GET /v1/agent/service/:id`: fails with ERR_CONNECT_AGENT_NOT_FOUND when the agent has no such service. */
export async function findService(
  agent: AgentClient,
  id: string,
  options: CallOptions,
): Promise<RegisteredService> {
  const { value } = await agent.request({ path: path`/v1/agent/service/${id}`, ...options }, parseService)
  return value
}

/**
 * A proxy's definition with the tags, metadata, and weights of the service that it stands for, where the definition has
 * none of its own: what the agent does for a `sidecar_service`. Instances are selected by those of the proxy.
 */
export function inheriting(
  proxy: ServiceDefinition,
  { tags, meta, weights }: RegisteredService,
): ServiceDefinition {
  const hasMeta = Object.keys(proxy.Meta).some((key) => key !== OWNER_KEY)
  return {
    Tags: tags,
    ...(weights !== undefined && { Weights: weights }),
    ...proxy,
    Meta: hasMeta ? proxy.Meta : { ...meta, ...proxy.Meta },
  }
}

/** `GET /v1/health/service/:name`: whether the servers list the registration. */
export async function isInCatalog(
  agent: AgentClient,
  { Name, Meta }: ServiceDefinition,
  options: CallOptions,
): Promise<boolean> {
  const query = { filter: `Service.Meta[${JSON.stringify(OWNER_KEY)}] == ${JSON.stringify(Meta[OWNER_KEY])}` }
  const request = { path: path`/v1/health/service/${Name}`, query, ...options }
  const { value } = await agent.request(request, (body) => array(body, ''))
  return value.length > 0
}

function parseService(body: unknown): RegisteredService {
  const { Tags, Meta, Weights } = object(body, '')
  const { [OWNER_KEY]: owner, ...meta } = maybe(parseMeta)(Meta, 'Meta') ?? {}
  const tags = (maybe(array)(Tags, 'Tags') ?? []).map((tag, i) => string(tag, `Tags[${i}]`))
  return { owner, tags, meta, weights: maybe(parseWeights)(Weights, 'Weights') }
}

function parseMeta(value: unknown, place: string): Record<string, string> {
  const entries = Object.entries(object(value, place))
  return Object.fromEntries(entries.map(([key, text]) => [key, string(text, `${place}.${key}`)]))
}

function parseWeights(value: unknown, place: string): Weights {
  const { Passing, Warning } = object(value, place)
  return {
    Passing: wholeNumber(Passing, `${place}.Passing`),
    Warning: wholeNumber(Warning, `${place}.Warning`),
  }
}

/** These answers have no body that matters. */
function nothing(): undefined {
  return undefined
}
