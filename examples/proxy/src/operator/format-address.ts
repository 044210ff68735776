import type { LocalAddress } from 'consul-connect/proxy'

/** Formats an address as `host:port`, `[ipv6]:port`, or a Unix socket path. */
export function formatAddress(address: LocalAddress): string {
  if ('path' in address) return address.path
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`
}
