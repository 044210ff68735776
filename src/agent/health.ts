import { type AgentClient, type AgentResponse, path } from './client.js'
import { type JsonObject, array, boolean, maybe, nonEmpty, object, port } from './shape.js'
import { type BlockingQuery, blocking } from './watch.js'

/** An instance that can be reached over Connect: a native service, or a proxy that stands before one. */
export interface ConnectInstance {
  readonly id: string
  readonly address: string
  readonly port: number
  /** The service that the instance's certificate must name. */
  readonly service: string
  readonly namespace: string | undefined
  readonly partition: string | undefined
  readonly datacenter: string | undefined
}

export interface HealthQuery extends BlockingQuery {
  readonly datacenter?: string | undefined
  readonly namespace?: string | undefined
  readonly partition?: string | undefined
}

/** `GET /v1/health/connect/:service?passing`: needs `service:read` on it and `node:read`. */
export function fetchConnectInstances(
  agent: AgentClient,
  service: string,
  query: HealthQuery,
): Promise<AgentResponse<ConnectInstance[]>> {
  const { query: parameters, ...bounds } = blocking(query)
  const { settings } = agent
  return agent.request(
    {
      path: path`/v1/health/connect/${service}`,
      query: {
        passing: true,
        ...parameters,
        dc: query.datacenter ?? settings.datacenter,
        ns: query.namespace ?? settings.namespace,
        partition: query.partition ?? settings.partition,
      },
      ...bounds,
    },
    parseConnectInstances,
  )
}

export function parseConnectInstances(body: unknown): ConnectInstance[] {
  return array(body, '').flatMap((item, i) => {
    const entry = object(item, `[${i}]`)
    const node = object(entry['Node'], `[${i}].Node`)
    const service = object(entry['Service'], `[${i}].Service`)
    const expected = expectedService(service, `[${i}].Service`)
    // A gateway stands before many services and proves the name of none; it must not spoil the others.
    if (expected === undefined) return []
    // An instance that names no address of its own is on its node's.
    const address =
      maybe(nonEmpty)(service['Address'], `[${i}].Service.Address`) ??
      nonEmpty(node['Address'], `[${i}].Node.Address`)
    const instance: ConnectInstance = {
      id: nonEmpty(service['ID'], `[${i}].Service.ID`),
      address,
      port: port(service['Port'], `[${i}].Service.Port`),
      service: expected,
      namespace: maybe(nonEmpty)(service['Namespace'], `[${i}].Service.Namespace`),
      partition: maybe(nonEmpty)(service['Partition'], `[${i}].Service.Partition`),
      datacenter: maybe(nonEmpty)(node['Datacenter'], `[${i}].Node.Datacenter`),
    }
    return [instance]
  })
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
