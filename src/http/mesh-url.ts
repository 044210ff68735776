import { isIP } from 'node:net'
import { HostError, OptionError } from '../base/errors.js'
import { describe, expectObject, expectString } from '../base/options/validate.js'
import { dnsNameKind } from '../resolve/dns-name-kind.js'
import { type Upstream, settledUpstream } from '../resolve/upstream.js'

/** Bounded repetitions, so that matching takes linear time. */
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/i

/** 253 characters and a trailing dot (RFC 1035, section 3.1). */
const MAX_HOST_LENGTH = 254

/** Maps hosts of URLs to upstreams. */
export interface HostSettings {
  /** The DNS domain of Consul. */
  readonly domain: string
  /** Additional hosts, in lower case. */
  readonly hosts: ReadonlyMap<string, Upstream>
}

/**
 * Returns the upstream of a host: `<service>.service[.<datacenter>].<domain>`, the same with `.connect`,
 * `<query>.query[.<datacenter>].<domain>`, or an entry of the option `hosts`. Any other host is an error, so that no
 * request leaves the mesh.
 *
 * A port is an error as well, since Consul supplies the port. 80 and 443 are allowed: HTTP clients add them.
 * @throws HostError
 */
export function upstreamOfHost(
  host: string,
  port: number | string | null | undefined,
  settings: HostSettings,
): Upstream {
  const upstream = findUpstream(host, settings)
  if (upstream === undefined) {
    const further = settings.hosts.size > 0 ? ', or a name of the option hosts' : ''
    const expected = `<name>.service[.<datacenter>].${settings.domain}, or the same with .connect or .query${further}`
    throw new HostError(host, problemOf(host, settings.domain), expected)
  }
  if (port !== undefined && port !== null && !['', '80', '443'].includes(String(port))) {
    throw new HostError(
      `${host}:${String(port)}`,
      'has a port',
      `${host} without one: Consul supplies the port`,
    )
  }
  return upstream
}

/** Returns the upstream of a host; undefined for any other host. */
export function findUpstream(host: string, { domain, hosts }: HostSettings): Upstream | undefined {
  if (host.length > MAX_HOST_LENGTH) return undefined
  const name = host.toLowerCase().replace(/\.$/, '')
  return hosts.get(name) ?? parseName(name, domain)
}

function parseName(name: string, domain: string): Upstream | undefined {
  if (!name.endsWith(`.${domain}`)) return undefined
  const labels = name.slice(0, -domain.length - 1).split('.')
  if (labels.length > 3 || !labels.every((label) => LABEL.test(label))) return undefined
  const [target, kind, datacenter] = labels
  const key = dnsNameKind(kind)
  if (target === undefined || key === undefined) return undefined
  const where = datacenter === undefined ? {} : { datacenter }
  return key === 'service' ? { service: target, ...where } : { query: target, ...where }
}

/** Returns why a host is not an upstream. */
function problemOf(host: string, domain: string): string {
  if (host.length > MAX_HOST_LENGTH)
    return `has ${host.length} characters; a host name has at most ${MAX_HOST_LENGTH - 1}`
  if (isIP(host.replace(/^\[|\]$/g, '')) !== 0)
    return 'is an IP address, and a connection in the mesh needs a service name'
  const labels = host.toLowerCase().replace(/\.$/, '').split('.')
  const name = labels.join('.')
  if (!isHostName(name)) return 'is not a host name'
  if (name === 'localhost') return 'is this machine, and a connection in the mesh needs a service name'
  if (labels.length === 1) return `is not a full name; write ${name}.service.${domain}`
  if (!name.endsWith(`.${domain}`)) return `is not in the domain ${domain}`
  const [, kind, kindAfterTag] = labels.map(dnsNameKind)
  const isTagged = labels.length > 3 && kind === undefined && kindAfterTag !== undefined
  if (isTagged) return `begins with a tag; use the option hosts to name instances by tag`
  return 'does not name a service or a prepared query'
}

/** @throws OptionError */
export function expectDomain(option: string, value: unknown): string {
  const domain = expectString(option, value).toLowerCase()
  if (isHostName(domain)) return domain
  throw new OptionError(option, 'a DNS domain, such as consul', describe(value))
}

function isHostName(text: string): boolean {
  return text.length <= MAX_HOST_LENGTH && text.split('.').every((label) => LABEL.test(label))
}

/**
 * Validates and copies the option `hosts`.
 * @throws OptionError
 */
export function expectHosts(option: string, value: unknown): ReadonlyMap<string, Upstream> {
  const entries = Object.entries(expectObject(option, value)).map(([host, upstream]): [string, Upstream] => {
    if (!isHostName(host)) {
      throw new OptionError(option, 'host names without a port', describe(host))
    }
    try {
      return [host.toLowerCase(), settledUpstream(upstream)]
    } catch (cause) {
      const { expected, actual } = cause as OptionError
      throw new OptionError(`${option}['${host}']`, `an upstream: ${expected}`, actual, { cause })
    }
  })
  const hosts = new Map(entries)
  if (hosts.size === entries.length) return hosts
  throw new OptionError(option, 'each host once, whatever its case', 'one twice')
}
