import { isIPv4, isIPv6 } from 'node:net'
import { dnsNameKind } from './dns-name-kind.js'

/**
 * Suggests what to write instead of a service name that looks like another kind of upstream: a name of Consul DNS, or a
 * network address.
 * @param name - a valid service name, at most 255 characters
 * @returns a clause for the end of a message; undefined for a plain name
 */
export function nameHint(name: string): string | undefined {
  return dnsHint(name) ?? addressHint(name)
}

function dnsHint(name: string): string | undefined {
  // Consul DNS ignores case.
  const labels = name.toLowerCase().replace(/\.$/, '').split('.')
  const kindAt = [1, 2].find((index) => dnsNameKind(labels[index]) !== undefined)
  if (kindAt === undefined) return undefined
  const target = labels.slice(0, kindAt)
  const domain = labels.slice(kindAt + 1)
  if (domain.length === 0 || target.some((label) => label === '')) return undefined
  // The domain may have several labels, so that a datacenter is only recognized before the default one.
  const datacenter = domain.length === 2 && domain[1] === 'consul' ? domain[0] : undefined
  if (dnsNameKind(labels[kindAt]) === 'service') {
    const { service, tags } = serviceOf(target)
    const upstream = tags === undefined && datacenter === undefined ? service : { service, tags, datacenter }
    return `to dial the service of this DNS name, write ${literal(upstream)}`
  }
  return `to dial the prepared query of this DNS name, write ${literal({ query: target.join('.'), datacenter })}`
}

/** Parses `<service>`, `<tag>.<service>`, and `_<service>._<tag>`, where `tcp` is no tag (RFC 2782). */
function serviceOf([first = '', second]: readonly string[]): { service: string; tags?: readonly string[] } {
  if (second === undefined) return { service: first }
  if (!first.startsWith('_') || !second.startsWith('_')) return { service: second, tags: [first] }
  const [service, tag] = [first.slice(1), second.slice(1)]
  return tag === 'tcp' ? { service } : { service, tags: [tag] }
}

function addressHint(name: string): string | undefined {
  const address = addressOf(name)
  if (address === undefined) return undefined
  return `to dial an address, write { address: ${JSON.stringify(address)}, service: <name> }`
}

/** Returns the option `address` for a text that looks like an address, with `<port>` for a missing port. */
function addressOf(name: string): string | undefined {
  if (isIPv6(name)) return `[${name}]:<port>`
  if (name.startsWith('[') && name.endsWith(']') && isIPv6(name.slice(1, -1))) return `${name}:<port>`
  if (isIPv4(name)) return `${name}:<port>`
  const colon = name.lastIndexOf(':')
  const port = Number(name.slice(colon + 1))
  if (colon < 1 || !Number.isInteger(port) || port < 1 || port > 65535) return undefined
  return name
}

/** Formats an upstream as JavaScript. */
function literal(upstream: string | Readonly<Record<string, unknown>>): string {
  if (typeof upstream === 'string') return JSON.stringify(upstream)
  const entries = Object.entries(upstream).filter(([, value]) => value !== undefined)
  return `{ ${entries.map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(', ')} }`
}
