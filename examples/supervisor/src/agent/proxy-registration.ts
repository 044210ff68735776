import { isIPv6 } from 'node:net'
import type { ServiceDefinition } from '../configuration/definition.js'
import { unbracketed, valueOf } from '../configuration/keys.js'
import { type ManagedBlock, proxyConfigOf, setsLocalService } from '../configuration/managed.js'
import type { Json } from '../configuration/parse.js'
import { upstreamRequest } from '../configuration/request.js'

/** Loopback address to use in the place of a wildcard address. */
const LOOPBACKS: ReadonlyMap<string, string> = new Map([
  ['0.0.0.0', '127.0.0.1'],
  ['::', '::1'],
])

/** Returns the bind address of a proxy: `bind_address` of its configuration, or the default. */
export function bindAddressOf({ config }: ManagedBlock, defaultAddress: string): string {
  const own = config['bind_address']
  return typeof own === 'string' && own !== '' ? own : defaultAddress
}

/**
 * Builds the registration of a managed proxy: the fields of Consul 1.2 to 1.5 in the format of later versions. As
 * with a `sidecar_service`, the proxy inherits the tags and metadata of its service and is critical while the service
 * is. It also inherits the weights.
 */
export function proxyRegistration(
  definition: ServiceDefinition,
  managed: ManagedBlock,
  port: number,
  defaultAddress: string,
): Json {
  const { id, name, address } = definition
  const bindAddress = bindAddressOf(managed, defaultAddress)
  // Clients cannot connect to a wildcard address. Register the address of the service, or by default the node's.
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

/** The TCP check of a proxy: its definition, and the address it connects to. */
export interface PortCheck {
  readonly body: Json
  readonly host: string
  readonly port: number
}

/** Builds the TCP check; undefined if the configuration disables it. */
export function portCheck(
  definition: ServiceDefinition,
  managed: ManagedBlock,
  port: number,
  defaultAddress: string,
): PortCheck | undefined {
  if (managed.disableTcpCheck === true) return undefined
  const bindAddress = bindAddressOf(managed, defaultAddress)
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
      const value = valueOf(service, key)
      return value === undefined || value === null ? [] : [[key, value]]
    }),
  )
}

/**
 * Splits upstreams into those to register and those to pass in `Config`. Agents reject two upstreams with the same
 * destination, and some versions reject some keys, such as a Unix socket before 1.10. In that case all upstreams go
 * into `Config`, as in Consul 1.2, which agents do not validate.
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

/** Returns the loopback address for a wildcard address in any spelling; undefined for other addresses. */
function loopbackFor(host: string): string | undefined {
  const canonical = isIPv6(host) ? new URL(`http://[${host}]`).hostname.slice(1, -1) : host
  return LOOPBACKS.get(canonical)
}

/** Address of the application, unless the configuration sets it. */
function localService({ port }: ServiceDefinition, managed: ManagedBlock): Json {
  return setsLocalService(managed) || port === undefined ? {} : { local_service_address: `127.0.0.1:${port}` }
}

/** The fields for the application's address in later versions, if host and port are known. */
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
