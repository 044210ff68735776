import { BlockList, isIP } from 'node:net'
import { formatAddress } from './address.js'
import type { AgentSettings } from './settings.js'

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8)
loopback.addAddress('::1', 'ipv6')

const warned = new Set<string>()

/**
 * Warns, once for each agent, when its responses can be read or forged: over plain HTTP to another host, or over TLS
 * without verification. The responses contain the private key of the service and the CA roots.
 */
export function warnOfInsecureAgent({ address, tls }: Pick<AgentSettings, 'address' | 'tls'>): void {
  const shown = formatAddress(address)
  const problem = insecurity(address, tls)
  if (problem === undefined || warned.has(shown)) return
  warned.add(shown)
  process.emitWarning(`Consul agent at ${shown}: ${problem}`, {
    type: 'SecurityWarning',
    code: 'CONSUL_CONNECT_INSECURE_AGENT',
  })
}

function insecurity(
  { scheme, host, socketPath }: AgentSettings['address'],
  { verify }: AgentSettings['tls'],
): string | undefined {
  if (scheme === 'https') {
    return verify === false
      ? 'its certificate is not verified, so that its responses can be forged; set tls.ca instead of verify: false'
      : undefined
  }
  if (socketPath !== undefined || isLoopback(host)) return undefined
  return 'private keys and tokens cross the network in plain text; use https, a Unix socket, or an agent on this host'
}

function isLoopback(hostAndPort: string): boolean {
  const host = hostAndPort.slice(0, hostAndPort.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1')
  const family = isIP(host)
  if (family === 0) return host === 'localhost' || host.endsWith('.localhost')
  return loopback.check(host, family === 6 ? 'ipv6' : 'ipv4')
}
