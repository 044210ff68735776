import { isIPv6 } from 'node:net'
import type { ServiceDefinition } from '../configuration/definition.js'
import { keysOf } from '../configuration/keys.js'
import type { ManagedBlock } from '../configuration/managed.js'
import type { Json } from '../configuration/parse.js'
import { upstreamRequest } from '../configuration/request.js'

const WILDCARDS: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' }

/** Where a proxy listens: what its configuration says, or else the agent's address. */
export function bindAddressOf({ config }: ManagedBlock, agentsOwn: string): string {
  const own = keysOf('', config)['bind_address']
  return typeof own === 'string' && own !== '' ? own.replace(/^\[(.*)\]$/, '$1') : agentsOwn
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
  const isWildcard = Object.hasOwn(WILDCARDS, bindAddress)
  // Nobody can dial a wildcard: it is the node's address then.
  const reachable = isWildcard ? address : bindAddress
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
      ...fieldsOf(local['local_service_address']),
      Config: { ...managed.config, ...local, bind_address: bindAddress, bind_port: port },
      Upstreams: managed.upstreams.map(upstreamRequest),
    },
    ...(managed.disableTcpCheck !== true && {
      Check: listeningCheck(definition, managed, bindAddress, port),
    }),
  }
}

export function proxyIdOf(serviceId: string): string {
  return `${serviceId}-proxy`
}

function listeningCheck(
  { id }: ServiceDefinition,
  { tcpCheckAddress }: ManagedBlock,
  bindAddress: string,
  port: number,
): Json {
  const host = tcpCheckAddress?.replace(/^\[(.*)\]$/, '$1') ?? bindAddress
  return {
    CheckID: `service:${proxyIdOf(id)}`,
    Name: 'Connect Proxy Listening',
    TCP: hostPort(WILDCARDS[host] ?? host, port),
    Interval: '10s',
  }
}

/** Where the application is, unless the configuration says it already. */
function localService({ port }: ServiceDefinition, { config }: ManagedBlock): Json {
  const own = keysOf('', config)
  const isSaid = ['local_service_address', 'local_service_port', 'local_service_socket_path'].some(
    (key) => own[key] !== undefined,
  )
  if (!isSaid && port !== undefined) return { local_service_address: `127.0.0.1:${port}` }
  const said = own['local_service_address']
  return said === undefined ? {} : { local_service_address: said }
}

/** The fields that later versions have for it. */
function fieldsOf(address: unknown): Json {
  const [, host, port] = typeof address === 'string' ? (/^(.+):(\d+)$/.exec(address) ?? []) : []
  if (host === undefined || port === undefined) return {}
  return { LocalServiceAddress: host, LocalServicePort: Number(port) }
}

function hostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
}
