import { isIPv6 } from 'node:net'
import type { ServiceDefinition } from '../configuration/definition.js'
import { unbracketed } from '../configuration/keys.js'
import { type ManagedBlock, saysApplication } from '../configuration/managed.js'
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

/** The registration of a managed proxy, as Consul 1.2 to 1.5 made it, in the form that later ones take. */
export function proxyRegistration(
  definition: ServiceDefinition,
  managed: ManagedBlock,
  port: number,
  agentsOwn: string,
): Json {
  const { id, name, address } = definition
  const bindAddress = bindAddressOf(managed, agentsOwn)
  // Nobody can dial a wildcard: it is the node's address then.
  const reachable = loopbackFor(bindAddress) === undefined ? bindAddress : address
  const local = localService(definition, managed)
  return {
    Kind: 'connect-proxy',
    ID: proxyIdOf(id),
    Name: `${name}-proxy`,
    Port: port,
    ...(reachable !== undefined && { Address: reachable }),
    Proxy: {
      DestinationServiceName: name,
      DestinationServiceID: id,
      ...fieldsOf(managed, local),
      Config: { ...managed.config, ...local, bind_address: bindAddress, bind_port: port },
      Upstreams: managed.upstreams.map((upstream) => upstreamRequest(name, upstream)),
    },
    ...(managed.disableTcpCheck !== true && {
      Check: listeningCheck(definition, managed, bindAddress, port),
    }),
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
