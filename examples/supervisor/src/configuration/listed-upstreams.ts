import { ConfigurationError } from './error.js'
import { valueOf } from './keys.js'
import type { Json } from './parse.js'

type Warn = (message: string) => void

/**
 * Validates the upstreams of an unmanaged proxy or a `sidecar_service`. Agents accept invalid upstreams of a
 * `sidecar_service` with status 200. Their servers then reject the registration, which delays the agent's other
 * registrations until the next sync (seen in 1.8.7).
 * @param body - the registration, as the agent's API takes it
 * @throws ConfigurationError
 */
export function expectListedUpstreams(place: string, body: Json, warn: Warn): void {
  if (valueOf(body, 'kind') === 'connect-proxy')
    expectUpstreams(`${place}: proxy`, valueOf(body, 'proxy'), warn)
  const sidecar = valueOf(valueOf(body, 'connect'), 'sidecar_service')
  expectUpstreams(`${place}: connect.sidecar_service.proxy`, valueOf(sidecar, 'proxy'), warn)
}

function expectUpstreams(place: string, proxy: unknown, warn: Warn): void {
  const upstreams = valueOf(proxy, 'upstreams')
  if (!Array.isArray(upstreams)) return
  const destinations = new Map<string, number>()
  const addresses = new Map<string, number>()
  for (const [i, upstream] of upstreams.entries()) {
    const where = `${place}: upstreams[${i}]`
    expectDestination(where, upstream)
    expectOwn(`${where}.destination_name`, 'destination', destinations, i, destinationOf(upstream))
    const address = addressOf(where, upstream)
    expectOwn(`${where}.${address.key}`, 'address', addresses, i, address.text)
    if (address.key === 'local_bind_port') continue
    warn(`${where}.${address.key}: agents before 1.10 reject it; a managed proxy (connect.proxy) accepts it`)
  }
}

/** Returns the local address of an upstream in a canonical spelling; undefined for an invalid upstream. */
export function localAddressOf(upstream: unknown): string | undefined {
  try {
    return addressOf('', upstream).text
  } catch {
    return undefined
  }
}

function expectDestination(where: string, upstream: unknown): void {
  const name = valueOf(upstream, 'destination_name')
  if (typeof name !== 'string' || name === '') {
    throw new ConfigurationError(
      `${where}.destination_name: expected the name of a service or a prepared query`,
    )
  }
  const type = valueOf(upstream, 'destination_type') ?? ''
  if (!['', 'service', 'prepared_query'].includes(type as string)) {
    throw new ConfigurationError(`${where}.destination_type: expected service or prepared_query`)
  }
}

const SCOPE_KEYS = ['destination_namespace', 'destination_partition', 'destination_peer', 'datacenter']

function destinationOf(upstream: unknown): string {
  const type = valueOf(upstream, 'destination_type') || 'service'
  const scope = SCOPE_KEYS.map((key) => valueOf(upstream, key) ?? '')
  return JSON.stringify([type, valueOf(upstream, 'destination_name'), ...scope])
}

function addressOf(where: string, upstream: unknown): { readonly key: string; readonly text: string } {
  const path = valueOf(upstream, 'local_bind_socket_path')
  if (typeof path === 'string' && path !== '') return { key: 'local_bind_socket_path', text: path }
  const port = valueOf(upstream, 'local_bind_port')
  if (typeof port !== 'number' || port < 1) {
    throw new ConfigurationError(`${where}.local_bind_port: expected a port from 1 to 65535`)
  }
  const host = valueOf(upstream, 'local_bind_address') || '127.0.0.1'
  return { key: 'local_bind_port', text: JSON.stringify([host, port]) }
}

function expectOwn(where: string, noun: string, seen: Map<string, number>, i: number, value: string): void {
  const other = seen.get(value)
  seen.set(value, i)
  if (other === undefined) return
  throw new ConfigurationError(`${where}: duplicate ${noun}, same as in upstreams[${other}]; remove one`)
}
