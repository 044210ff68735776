import { AgentError } from '../../base/errors.js'
import { isHost } from '../../base/validate.js'
import { type AgentClient, type AgentResponse, path, right } from '../client.js'
import { type JsonObject, array, boolean, maybe, nonEmpty, object, string, wholeNumber } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

type HealthStatus = 'passing' | 'warning' | 'critical'

/** An instance that can be reached over Connect: a native service, or a proxy that stands before one. */
export interface ConnectInstance {
  readonly id: string
  readonly address: string
  readonly port: number
  /** How it is reached from another datacenter, where that differs. */
  readonly wan: { readonly address: string; readonly port: number }
  /** Why it cannot be dialled whatever its checks say: agents take registrations with any port and address. */
  readonly defect: string | undefined
  /** The service that the instance's certificate must name. */
  readonly service: string
  readonly namespace: string | undefined
  readonly partition: string | undefined
  readonly datacenter: string | undefined
  readonly tags: readonly string[]
  /** The worst of its checks. */
  readonly status: HealthStatus
  /** By status; one that is critical has no weight. */
  readonly weights: { readonly passing: number; readonly warning: number }
}

/** Where a look-up looks. What is left out is the agent's own. */
export interface Scope {
  readonly datacenter?: string | undefined
  readonly namespace?: string | undefined
  readonly partition?: string | undefined
}

/** Which instances of a service are wanted; all that can be reached over Connect unless something is said. */
export interface HealthQuery extends Scope {
  readonly service: string
  /** A node's name, or `_agent`: instances come sorted by the estimated round trip from there. */
  readonly near?: string | undefined
  /** In Consul's filter language. */
  readonly filter?: string | undefined
}

/**
 * `GET /v1/health/connect/:service`, with those that are not passing: needs `service:read` on it and `node:read`.
 * Any server may answer, so that a cluster which is about to elect its leader answers too.
 */
export async function fetchConnectInstances(
  agent: AgentClient,
  wanted: HealthQuery,
  query: BlockingQuery,
): Promise<AgentResponse<readonly ConnectInstance[]>> {
  const { query: parameters, ...bounds } = blocking(query)
  const needs = `${right('service:read', wanted.service)} and node:read`
  const response = await agent.request(
    {
      path: path`/v1/health/connect/${wanted.service}`,
      needs,
      query: {
        stale: true,
        ...parameters,
        ...scoped(agent, wanted),
        near: wanted.near,
        filter: wanted.filter,
      },
      ...bounds,
    },
    parseConnectInstances,
  )
  if (response.isFiltered !== true || response.value.length > 0) return response
  const request = `GET /v1/health/connect/${wanted.service}`
  throw new AgentError(
    'ERR_CONNECT_AGENT_FORBIDDEN',
    `${request}: the agent at ${agent.address} left out every instance; grant ${needs} to the token`,
    { address: agent.address, request, status: 200 },
  )
}

/** How many instances a service has, whether or not they can be reached over Connect. */
export async function countInstances(
  agent: AgentClient,
  service: string,
  scope: Scope,
  signal: AbortSignal,
): Promise<number> {
  const query = { stale: true, ...scoped(agent, scope) }
  const request = { path: path`/v1/health/service/${service}`, query, signal }
  return (await agent.request(request, (body) => array(body, '').length)).value
}

/** The agent's `dc` parameter breaks requests that do not look anything up: it is sent with look-ups only. */
export function scoped(
  { settings }: AgentClient,
  { datacenter, namespace, partition }: Scope,
): { dc: string | undefined; ns: string | undefined; partition: string | undefined } {
  return {
    dc: datacenter ?? settings.datacenter,
    ns: namespace ?? settings.namespace,
    partition: partition ?? settings.partition,
  }
}

export function parseConnectInstances(body: unknown): ConnectInstance[] {
  return array(body, '').flatMap((item, i) => parseEntry(item, `[${i}]`) ?? [])
}

/** One entry of a health answer, or undefined when nobody's identity can be expected there. */
function parseEntry(item: unknown, place: string): ConnectInstance | undefined {
  const entry = object(item, place)
  const node = object(entry['Node'], `${place}.Node`)
  const service = object(entry['Service'], `${place}.Service`)
  const expected = expectedService(service, `${place}.Service`)
  // A gateway stands before many services and proves the name of none; it must not spoil the others.
  if (expected === undefined) return undefined
  // An instance that names no address of its own is on its node's.
  const ownAddress = maybe(string)(service['Address'], `${place}.Service.Address`)
  const nodeAddress = nonEmpty(node['Address'], `${place}.Node.Address`)
  const nodeWan = taggedAddress(node, `${place}.Node`, string)
  const serviceWan = taggedAddress(service, `${place}.Service`, (value, at) => {
    const { Address, Port } = object(value, at)
    return { address: string(Address, `${at}.Address`), port: maybe(wholeNumber)(Port, `${at}.Port`) }
  })
  const address = ownAddress ?? nodeAddress
  const port = wholeNumber(service['Port'], `${place}.Service.Port`)
  const wan = {
    address: serviceWan?.address ?? ownAddress ?? nodeWan ?? nodeAddress,
    // As in the agent's own translation, a port of 0 says nothing.
    port: serviceWan?.port || port,
  }
  const own = { address, port }
  return {
    id: nonEmpty(service['ID'], `${place}.Service.ID`),
    ...own,
    wan: defectOf(wan) === undefined ? wan : own,
    defect: defectOf(own),
    service: expected,
    namespace: maybe(nonEmpty)(service['Namespace'], `${place}.Service.Namespace`),
    partition: maybe(nonEmpty)(service['Partition'], `${place}.Service.Partition`),
    datacenter: maybe(nonEmpty)(node['Datacenter'], `${place}.Node.Datacenter`),
    tags: array(service['Tags'] ?? null, `${place}.Service.Tags`).map((tag, i) =>
      string(tag, `${place}.Service.Tags[${i}]`),
    ),
    status: worstStatus(entry['Checks'], `${place}.Checks`),
    weights: parseWeights(service['Weights'], `${place}.Service.Weights`),
  }
}

function defectOf({ address, port }: { address: string; port: number }): string | undefined {
  if (port === 0) return 'has no port'
  if (port < 1 || port > 65535) return `has the port ${port}`
  return isHost(address) ? undefined : `has the address ${JSON.stringify(address.slice(0, 64))}`
}

/** A native instance proves its own name; a proxy proves the name of the service it stands before. */
function expectedService(service: JsonObject, place: string): string | undefined {
  const connect = maybe(object)(service['Connect'], `${place}.Connect`)
  if (maybe(boolean)(connect?.['Native'], `${place}.Connect.Native`) === true) {
    return nonEmpty(service['Service'], `${place}.Service`)
  }
  const proxy = maybe(object)(service['Proxy'], `${place}.Proxy`)
  const destination = maybe(nonEmpty)(
    proxy?.['DestinationServiceName'],
    `${place}.Proxy.DestinationServiceName`,
  )
  // Agents before 1.3 know only ProxyDestination.
  return destination ?? maybe(nonEmpty)(service['ProxyDestination'], `${place}.ProxyDestination`)
}

function taggedAddress<T>(
  from: JsonObject,
  place: string,
  read: (value: unknown, place: string) => T,
): T | undefined {
  const tagged = maybe(object)(from['TaggedAddresses'], `${place}.TaggedAddresses`)
  return maybe(read)(tagged?.['wan'], `${place}.TaggedAddresses.wan`)
}

function worstStatus(checks: unknown, place: string): HealthStatus {
  const statuses = array(checks ?? null, place).map((check, i) =>
    string(object(check, `${place}[${i}]`)['Status'], `${place}[${i}].Status`),
  )
  // Whatever is not known to be good is bad: "maintenance" is one such.
  if (statuses.some((status) => status !== 'passing' && status !== 'warning')) return 'critical'
  return statuses.includes('warning') ? 'warning' : 'passing'
}

/** Agents before 1.2.3 know no weights. */
function parseWeights(value: unknown, place: string): { passing: number; warning: number } {
  const weights = maybe(object)(value, place)
  if (weights === undefined) return { passing: 1, warning: 1 }
  const weight = (name: 'Passing' | 'Warning'): number =>
    Math.max(0, maybe(wholeNumber)(weights[name], `${place}.${name}`) ?? 1)
  return { passing: weight('Passing'), warning: weight('Warning') }
}
