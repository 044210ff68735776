import { AgentError } from '../../base/errors.js'
import { isHost } from '../../base/options/validate.js'
import { type AgentClient, type AgentResponse, path } from '../client.js'
import { right } from '../agent-errors.js'
import { type JsonObject, array, boolean, maybe, nonEmpty, object, string, wholeNumber } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'
import { MUX_KEY, MUX_VERSION } from './services.js'

type HealthStatus = 'passing' | 'warning' | 'critical'

/** An instance that accepts mesh connections: a native service, a proxy in front of one, or a gateway. */
export interface ConnectInstance {
  readonly id: string
  readonly address: string
  readonly port: number
  /** The address for other datacenters; the own address without one. */
  readonly wan: { readonly address: string; readonly port: number }
  /** Why the instance cannot be dialed: agents accept registrations with any port and address. */
  readonly defect: string | undefined
  /**
   * The service in the certificate of the instance. Undefined for a gateway: a terminating gateway presents the
   * certificate of whichever linked service the server name selects, and a mesh gateway passes on the bytes.
   */
  readonly service: string | undefined
  readonly namespace: string | undefined
  readonly partition: string | undefined
  readonly datacenter: string | undefined
  readonly tags: readonly string[]
  /** Whether the instance announces that it takes many connections over one. */
  readonly mux: boolean
  /** The worst status of its checks. */
  readonly status: HealthStatus
  /** By status; a critical instance has no weight. */
  readonly weights: { readonly passing: number; readonly warning: number }
}

/** The scope of a lookup. @default the settings of the agent */
export interface Scope {
  readonly datacenter?: string | undefined
  readonly namespace?: string | undefined
  readonly partition?: string | undefined
}

/** Selects instances of a service. */
export interface HealthQuery extends Scope {
  readonly service: string
  /** The name of a node, or `_agent`: sorts the instances by the estimated round trip from there. */
  readonly near?: string | undefined
  /** An expression in Consul's filter language. */
  readonly filter?: string | undefined
}

/**
 * Reads the instances of a service, including unhealthy ones: `GET /v1/health/connect/:service`. Needs `service:read`
 * on the service and `node:read`. Stale reads are allowed, so that a cluster without a leader answers as well.
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
    `${request}: the agent at ${agent.address} filtered out every instance; grant ${needs} to the token`,
    { address: agent.address, request, status: 200 },
  )
}

/** Returns the number of instances of a service, including those that accept no mesh connections. */
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

/** Returns the query parameters of a scope. Only for lookups: `dc` breaks other requests. */
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
  return parseInstances(body, '', 'terminating-gateway')
}

/** Parses a list of mesh gateways. */
export function parseMeshGateways(body: unknown, place = ''): ConnectInstance[] {
  return parseInstances(body, place, 'mesh-gateway').filter(({ service }) => service === undefined)
}

/** @param gateway - the kind of the gateways to include */
function parseInstances(body: unknown, place: string, gateway: string): ConnectInstance[] {
  return array(body, place).flatMap((item, i) => parseEntry(item, `${place}[${i}]`, gateway) ?? [])
}

/** Parses an entry of a health response; undefined for a gateway of another kind. */
function parseEntry(item: unknown, place: string, gateway: string): ConnectInstance | undefined {
  const entry = object(item, place)
  const node = object(entry['Node'], `${place}.Node`)
  const service = object(entry['Service'], `${place}.Service`)
  const expected = expectedService(service, `${place}.Service`)
  if (expected === undefined && service['Kind'] !== gateway) return undefined
  // The default is the address of the node.
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
    // Port 0 means no port, as in the address translation of agents.
    port: serviceWan?.port || port,
  }
  const own = { address, port }
  const socketPath = maybe(string)(service['SocketPath'], `${place}.Service.SocketPath`)
  return {
    id: nonEmpty(service['ID'], `${place}.Service.ID`),
    ...own,
    wan: defectOf(wan) === undefined ? wan : own,
    // Consul 1.10 and later accept a path instead of a port; only programs on the host of the instance could use it.
    defect: socketPath !== undefined && port === 0 ? 'listens on a Unix socket' : defectOf(own),
    service: expected,
    namespace: maybe(nonEmpty)(service['Namespace'], `${place}.Service.Namespace`),
    partition: maybe(nonEmpty)(service['Partition'], `${place}.Service.Partition`),
    datacenter: maybe(nonEmpty)(node['Datacenter'], `${place}.Node.Datacenter`),
    tags: array(service['Tags'] ?? null, `${place}.Service.Tags`).map((tag, i) =>
      string(tag, `${place}.Service.Tags[${i}]`),
    ),
    mux: maybe(object)(service['Meta'], `${place}.Service.Meta`)?.[MUX_KEY] === MUX_VERSION,
    status: worstStatus(entry['Checks'], `${place}.Checks`),
    weights: parseWeights(service['Weights'], `${place}.Service.Weights`),
  }
}

function defectOf({ address, port }: { address: string; port: number }): string | undefined {
  if (port === 0) return 'has no port'
  if (port < 1 || port > 65535) return `has the port ${port}`
  return isHost(address) ? undefined : `has the address ${JSON.stringify(address.slice(0, 64))}`
}

/** Returns the service in the certificate: of a native instance its own, of a proxy its destination. */
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
  // Any other status is critical, such as "maintenance".
  if (statuses.some((status) => status !== 'passing' && status !== 'warning')) return 'critical'
  return statuses.includes('warning') ? 'warning' : 'passing'
}

/** Agents before 1.2.3 have no weights. */
function parseWeights(value: unknown, place: string): { passing: number; warning: number } {
  const weights = maybe(object)(value, place)
  if (weights === undefined) return { passing: 1, warning: 1 }
  const weight = (name: 'Passing' | 'Warning'): number =>
    Math.max(0, maybe(wholeNumber)(weights[name], `${place}.${name}`) ?? 1)
  return { passing: weight('Passing'), warning: weight('Warning') }
}
