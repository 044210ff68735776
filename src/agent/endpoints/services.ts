import { type AgentClient, path } from '../client.js'
import { right } from '../agent-errors.js'
import { array, maybe, object, string, wholeNumber } from '../json.js'

/** A service registration, as the agent expects it. */
export interface ServiceDefinition {
  readonly ID: string
  readonly Name: string
  readonly Port: number
  readonly Address?: string
  readonly Tags?: readonly string[]
  readonly Meta: Readonly<Record<string, string>>
  /** A native instance. */
  readonly Connect?: { readonly Native: true }
  /** A proxy of another service. */
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

/** A check with the status of another service of the same agent. */
interface AliasCheck {
  readonly CheckID: string
  readonly Name: string
  readonly AliasService: string
}

/**
 * The key of `Meta` with which an instance announces that it takes many connections over one, and the value. Consul reserves
 * keys that begin with `consul-`.
 */
export const MUX_KEY = 'connect-mux'
export const MUX_VERSION = '1'

/** The key of `Meta` that identifies the process that made a registration. */
export const OWNER_KEY = 'connect-owner'

/** A registered service. */
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

/** Registers a service: `PUT /v1/agent/service/register`. Needs `service:write`. */
export async function registerService(
  agent: AgentClient,
  body: ServiceDefinition,
  options: CallOptions,
): Promise<void> {
  // Without this flag, the agent keeps the checks of an earlier registration with the same ID.
  const query = { 'replace-existing-checks': true }
  const needs = right('service:write', body.Name)
  const request = { method: 'PUT', path: '/v1/agent/service/register', query, body, needs } as const
  await agent.request({ ...request, ...options }, ignoreBody)
}

/** Deregisters a service: `PUT /v1/agent/service/deregister/:id`. */
export async function deregisterService(agent: AgentClient, id: string, options: CallOptions): Promise<void> {
  await agent.request(
    { method: 'PUT', path: path`/v1/agent/service/deregister/${id}`, ...options },
    ignoreBody,
  )
}

const ENDPOINTS = { passing: 'pass', warning: 'warn', critical: 'fail' } as const

/** Updates a TTL check: `PUT /v1/agent/check/{pass,warn,fail}/:id`. Fails if the agent has no such check. */
export async function updateCheck(
  agent: AgentClient,
  id: string,
  { status, note }: { readonly status: CheckStatus; readonly note: string | undefined },
  options: CallOptions,
): Promise<void> {
  const query = { note }
  const endpoint = path`/v1/agent/check/${ENDPOINTS[status]}/${id}`
  await agent.request({ method: 'PUT', path: endpoint, query, ...options }, ignoreBody)
}

/**
 * Sets the maintenance mode: `PUT /v1/agent/service/maintenance/:id`. @param reason - undefined ends the maintenance
 */
export async function setMaintenance(
  agent: AgentClient,
  id: string,
  reason: string | undefined,
  options: CallOptions,
): Promise<void> {
  const query = { enable: reason !== undefined, reason }
  const endpoint = path`/v1/agent/service/maintenance/${id}`
  await agent.request({ method: 'PUT', path: endpoint, query, ...options }, ignoreBody)
}

/** Reads a service: `GET /v1/agent/service/:id`. @throws AgentError with ERR_CONNECT_AGENT_NOT_FOUND */
export async function findService(
  agent: AgentClient,
  id: string,
  options: CallOptions,
): Promise<RegisteredService> {
  const { value } = await agent.request({ path: path`/v1/agent/service/${id}`, ...options }, parseService)
  return value
}

/**
 * Completes the definition of a proxy with the tags, metadata, and weights of its destination service, as the agent
 * does for a `sidecar_service`. Dials and queries select instances by those of the proxy.
 */
export function withDestinationDefaults(
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

/** Whether the servers list a registration: `GET /v1/health/service/:name`. */
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

/** Ignores the body of a response. */
function ignoreBody(): undefined {
  return undefined
}
