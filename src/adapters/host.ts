import { HostError, OptionError } from '../errors.js'
import { describe, expectObject, expectString } from '../options.js'
import { type Upstream, settledUpstream } from '../resolve/upstream.js'

const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/i

/** What the hosts of URLs lead to. */
export interface HostSettings {
  /** The domain of Consul's names. */
  readonly domain: string
  /** Further hosts, in lower case. */
  readonly hosts: ReadonlyMap<string, Upstream>
}

/**
 * The upstream that a URL's host names: `<service>.service[.<datacenter>].<domain>`, the same with `.connect`,
 * `<query>.query[.<datacenter>].<domain>`, or one of the further hosts. Any other is an error, so that nothing ever
 * leaves the mesh.
 *
 * The port is Consul's to say. One in the URL would have no effect, and is an error too; 80 and 443 are what HTTP
 * clients fill in themselves.
 * @throws HostError
 */
export function upstreamOfHost(
  host: string,
  port: number | string | null | undefined,
  { domain, hosts }: HostSettings,
): Upstream {
  const name = host.toLowerCase().replace(/\.$/, '')
  const upstream = hosts.get(name) ?? parseName(name, domain)
  if (upstream === undefined) {
    const names = `<name>.service[.<datacenter>].${domain}, or the same with .connect or .query`
    throw new HostError(host, hosts.size > 0 ? `${names}, or one of the option hosts` : names)
  }
  if (port !== undefined && port !== null && !['', '80', '443'].includes(String(port))) {
    throw new HostError(`${host}:${String(port)}`, 'no port: Consul says which one it is')
  }
  return upstream
}

function parseName(name: string, domain: string): Upstream | undefined {
  if (!name.endsWith(`.${domain}`)) return undefined
  const labels = name.slice(0, -domain.length - 1).split('.')
  if (labels.length > 3 || !labels.every((label) => LABEL.test(label))) return undefined
  const [target, kind, datacenter] = labels
  if (target === undefined) return undefined
  const where = datacenter === undefined ? {} : { datacenter }
  if (kind === 'service' || kind === 'connect') return { service: target, ...where }
  return kind === 'query' ? { query: target, ...where } : undefined
}

/** @throws OptionError */
export function expectDomain(option: string, value: unknown): string {
  const domain = expectString(option, value).toLowerCase()
  if (domain.split('.').every((label) => LABEL.test(label))) return domain
  throw new OptionError(option, 'a DNS domain, such as consul', describe(value))
}

/**
 * Further hosts, and what each leads to, as it is now.
 * @throws OptionError
 */
export function expectHosts(option: string, value: unknown): ReadonlyMap<string, Upstream> {
  const entries = Object.entries(expectObject(option, value)).map(([host, upstream]): [string, Upstream] => {
    if (!host.split('.').every((label) => LABEL.test(label))) {
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
