import { isIPv6 } from 'node:net'
import type { ServiceDefinition } from '../configuration/definition.js'
import { foldKey, unbracketed } from '../configuration/keys.js'
import { type ManagedBlock, proxyConfigOf, saysApplication } from '../configuration/managed.js'
import type { Json } from '../configuration/parse.js'
import { upstreamRequest } from '../configuration/request.js'

/** What reaches a program that listens on every address. */
const LOOPBACKS: ReadonlyMap<string, string> = new Map([
  ['0.0.0.0', '127.0.0.1'],
  ['::', '::1'],
])

/** Where a proxy listens: what its configuration says, or else the agent's address. */
export function bindAddressOf({ config }: ManagedBlock, agentsOwn: string): string {
  const own = config['bind_address']
  return typeof own === 'string' && own !== '' ? own : agentsOwn
}

/**
 * The registration of a managed proxy, as Consul 1.2 to 1.5 made it, in the form of later versions. Like a
 * `sidecar_service`, the proxy has the tags and the metadata of its service and is critical when its service is; it has
 * the weights of its service, too.
 */
export function proxyRegistration(
  definition: ServiceDefinition,
  managed: ManagedBlock,
  port: number,
  agentsOwn: string,
): Json {
  const { id, name, address } = definition
  const bindAddress = bindAddressOf(managed, agentsOwn)
  // A wildcard cannot be dialed: the proxy has the address of its service, or the node's.
  const reachable = loopbackFor(bindAddress) === undefined ? bindAddress : address
  const local = localService(definition, managed)
  const { listed, inConfig } = upstreamsOf(name, managed)
  return {
    Kind: 'connect-proxy',
    ID: proxyIdOf(id),
    Name: `${name}-proxy`,
    Port: port,
    ...(reachable !== undefined && { Address: reachable }),
    ...inherited(definition.body),
    Proxy: {
      DestinationServiceName: name,
      DestinationServiceID: id,
      ...fieldsOf(managed, local),
      Config: {
        ...proxyConfigOf(managed),
        ...local,
        ...inConfig,
        bind_address: bindAddress,
        bind_port: port,
      },
      Upstreams: listed,
    },
    Checks: [
      ...(managed.disableTcpCheck === true ? [] : [listeningCheck(definition, managed, bindAddress, port)]),
      { CheckID: `service:${proxyIdOf(id)}:alias`, Name: `Connect Proxy Aliasing ${id}`, AliasService: id },
    ],
  }
}

/** The check of a proxy's port: its definition, and where it connects to. */
export interface PortCheck {
  readonly body: Json
  readonly host: string
  readonly port: number
}

/** The check of a registration; undefined when the configuration turns it off. */
export function portCheck(
  definition: ServiceDefinition,
  managed: ManagedBlock,
  port: number,
  agentsOwn: string,
): PortCheck | undefined {
  if (managed.disableTcpCheck === true) return undefined
  const bindAddress = bindAddressOf(managed, agentsOwn)
  const body = listeningCheck(definition, managed, bindAddress, port)
  return { body, host: checkedHost(managed, bindAddress), port }
}

export function proxyIdOf(serviceId: string): string {
  return `${serviceId}-proxy`
}

const INHERITED = ['Tags', 'Meta', 'Weights']

function inherited(service: Json): Json {
  return Object.fromEntries(
    INHERITED.flatMap((key) => {
      const value = Object.entries(service).find(([each]) => foldKey(each) === foldKey(key))?.[1]
      return value === undefined || value === null ? [] : [[key, value]]
    }),
  )
}

/**
 * The upstreams as the agent takes them. Agents reject two upstreams of one destination, and some versions reject some
 * keys, such as a unix socket before 1.10. In that case all upstreams go into the configuration, as in Consul 1.2, which
 * the agent passes on unread.
 */
function upstreamsOf(
  service: string,
  { upstreams }: ManagedBlock,
): { readonly listed: readonly Json[]; readonly inConfig: Json } {
  const requests = upstreams.map((upstream) => upstreamRequest(service, upstream))
  const destinations = requests.map(({ DestinationType: type, DestinationName, Datacenter, ...rest }) =>
    JSON.stringify([
      type || 'service',
      DestinationName,
      Datacenter ?? '',
      rest['DestinationNamespace'] ?? '',
    ]),
  )
  const isDistinct = new Set(destinations).size === destinations.length
  return isDistinct && requests.every(isUpstreamOfAllVersions)
    ? { listed: requests, inConfig: {} }
    : { listed: [], inConfig: { upstreams } }
}

const UPSTREAM_KEYS = [
  'DestinationType',
  'DestinationNamespace',
  'DestinationName',
  'Datacenter',
  'LocalBindAddress',
  'LocalBindPort',
  'Config',
  'MeshGateway',
]

/** Whether every supported version accepts an upstream. Consul 1.8.7 rejects unknown keys. */
function isUpstreamOfAllVersions(upstream: Json): boolean {
  const { DestinationType: type = '', DestinationName: name, LocalBindPort: port } = upstream
  return (
    Object.keys(upstream).every((key) => UPSTREAM_KEYS.includes(key)) &&
    ['', 'service', 'prepared_query'].includes(type as string) &&
    typeof name === 'string' &&
    name !== '' &&
    typeof port === 'number' &&
    port > 0
  )
}

function listeningCheck(
  { id }: ServiceDefinition,
  managed: ManagedBlock,
  bindAddress: string,
  port: number,
): Json {
  return {
    CheckID: `service:${proxyIdOf(id)}`,
    Name: 'Connect Proxy Listening',
    TCP: hostPort(checkedHost(managed, bindAddress), port),
    Interval: '10s',
  }
}

function checkedHost({ tcpCheckAddress }: ManagedBlock, bindAddress: string): string {
  const host = tcpCheckAddress === undefined ? bindAddress : unbracketed(tcpCheckAddress)
  return loopbackFor(host) ?? host
}

/** Undefined for one that is no wildcard, in whatever spelling. */
function loopbackFor(host: string): string | undefined {
  const canonical = isIPv6(host) ? new URL(`http://[${host}]`).hostname.slice(1, -1) : host
  return LOOPBACKS.get(canonical)
}

/** Where the application is, unless the configuration says it already. */
function localService({ port }: ServiceDefinition, managed: ManagedBlock): Json {
  return saysApplication(managed) || port === undefined ? {} : { local_service_address: `127.0.0.1:${port}` }
}

/** The fields that later versions have for it, where host and port are both said. */
function fieldsOf({ config }: ManagedBlock, local: Json): Json {
  const address = config['local_service_address'] ?? local['local_service_address']
  const [, bracketed, plain, digits] =
    typeof address === 'string' ? (/^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(address) ?? []) : []
  const host = bracketed ?? plain
  if (host === undefined) return {}
  return { LocalServiceAddress: host, LocalServicePort: Number(digits) }
}

function hostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
}
