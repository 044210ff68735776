import { type AgentClient, type AgentResponse, path } from '../client.js'
import { type JsonObject, array, maybe, nonEmpty, object, string, wholeNumber } from '../json.js'
import type { CallOptions } from './services.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** The registration of a service that may be a proxy, independent of the version of the agent. */
export interface RegisteredProxy {
  readonly id: string
  /** `connect-proxy` for a proxy; empty for an ordinary service. */
  readonly kind: string
  /** The destination service. */
  readonly service: string | undefined
  readonly serviceId: string | undefined
  readonly namespace: string | undefined
  readonly partition: string | undefined
  readonly address: string | undefined
  readonly port: number | undefined
  readonly localAddress: string | undefined
  readonly localPort: number | undefined
  readonly localSocketPath: string | undefined
  /** The proxy mode, such as `transparent`; undefined for the default. */
  readonly mode: string | undefined
  readonly config: JsonObject
  readonly upstreams: readonly unknown[]
}

/** Reads a proxy: `GET /v1/agent/service/:id`, Consul 1.3 and later. Blocks by hash. Needs `service:read`. */
export function fetchProxy(
  agent: AgentClient,
  id: string,
  query: BlockingQuery,
): Promise<AgentResponse<RegisteredProxy>> {
  return agent.request({ path: path`/v1/agent/service/${id}`, ...blocking(query) }, parseProxy)
}

/**
 * Reads a managed proxy: `GET /v1/agent/connect/proxy/:id`, before Consul 1.6. Blocks by hash. Needs the token of the
 * proxy.
 */
export function fetchManagedProxy(
  agent: AgentClient,
  id: string,
  query: BlockingQuery,
): Promise<AgentResponse<RegisteredProxy>> {
  return agent.request({ path: path`/v1/agent/connect/proxy/${id}`, ...blocking(query) }, parseManagedProxy)
}

/** Returns the IDs of the proxies of an instance at this agent: `GET /v1/agent/services`. */
export async function findProxiesFor(
  agent: AgentClient,
  serviceId: string,
  options: CallOptions,
): Promise<readonly string[]> {
  const parse = (body: unknown): RegisteredProxy[] =>
    Object.entries(object(body, '')).map(([key, value]) => parseProxyAt(value, key))
  const { value } = await agent.request({ path: '/v1/agent/services', ...options }, parse)
  return value
    .filter((one) => one.kind === 'connect-proxy' && one.serviceId === serviceId)
    .map(({ id }) => id)
}

export function parseProxy(body: unknown): RegisteredProxy {
  return parseProxyAt(body, '')
}

function parseProxyAt(body: unknown, place: string): RegisteredProxy {
  const at = (field: string): string => (place === '' ? field : `${place}.${field}`)
  const service = object(body, place)
  const proxy = maybe(object)(service['Proxy'], at('Proxy')) ?? {}
  const text = (from: JsonObject, field: string, where = field): string | undefined =>
    maybe(string)(from[field], at(where))
  const ofProxy = (field: string): string | undefined => text(proxy, field, `Proxy.${field}`)
  return {
    id: nonEmpty(service['ID'], at('ID')),
    kind: text(service, 'Kind') ?? '',
    // Before 1.4 the destination was a field of the service.
    service: ofProxy('DestinationServiceName') ?? text(service, 'ProxyDestination'),
    serviceId: ofProxy('DestinationServiceID'),
    namespace: text(service, 'Namespace'),
    partition: text(service, 'Partition'),
    address: text(service, 'Address'),
    port: portOf(service['Port'], at('Port')),
    localAddress: ofProxy('LocalServiceAddress'),
    localPort: portOf(proxy['LocalServicePort'], at('Proxy.LocalServicePort')),
    localSocketPath: ofProxy('LocalServiceSocketPath'),
    mode: ofProxy('Mode'),
    config: maybe(object)(proxy['Config'], at('Proxy.Config')) ?? {},
    upstreams: maybe(array)(proxy['Upstreams'], at('Proxy.Upstreams')) ?? [],
  }
}

export function parseManagedProxy(body: unknown): RegisteredProxy {
  const proxy = object(body, '')
  return {
    id: nonEmpty(proxy['ProxyServiceID'], 'ProxyServiceID'),
    kind: 'connect-proxy',
    service: nonEmpty(proxy['TargetServiceName'], 'TargetServiceName'),
    serviceId: maybe(string)(proxy['TargetServiceID'], 'TargetServiceID'),
    namespace: undefined,
    partition: undefined,
    // The agent puts these into the configuration.
    address: undefined,
    port: undefined,
    localAddress: undefined,
    localPort: undefined,
    localSocketPath: undefined,
    mode: undefined,
    config: maybe(object)(proxy['Config'], 'Config') ?? {},
    upstreams: maybe(array)(proxy['Upstreams'], 'Upstreams') ?? [],
  }
}

/** Reads a port; Consul writes 0 for no port. */
function portOf(value: unknown, place: string): number | undefined {
  const port = maybe(wholeNumber)(value, place)
  return port === 0 ? undefined : port
}
