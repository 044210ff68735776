import type { LocalAddress } from 'consul-connect/proxy'

/** `host:port`, `[ipv6]:port` or a path. */
export function addressOf(address: LocalAddress): string {
  if ('path' in address) return address.path
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`
}
