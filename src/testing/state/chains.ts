import { HttpError } from '../http/http.js'
import { type Reader, boolean, duration, list, mapOf, optional, string, struct } from '../http/decode.js'
import { type JsonObject, omitZero } from '../http/json.js'
import type { Changes } from './changes.js'

/** A config entry that the embedded agent supports, with the field names of Consul. */
type Entry =
  Resolver | { readonly Kind: 'service-defaults'; readonly Name: string; readonly Protocol: string }

interface Resolver {
  readonly Kind: 'service-resolver'
  readonly Name: string
  readonly DefaultSubset: string
  readonly Subsets: Readonly<Record<string, { readonly Filter: string; readonly OnlyPassing: boolean }>>
  readonly Redirect: Place | undefined
  /** By subset; `*` stands for all. */
  readonly Failover: Readonly<
    Record<string, Place & { readonly Datacenters: string[]; readonly Targets: Place[] }>
  >
  /** In milliseconds. */
  readonly ConnectTimeout: number
}

/** What an entry leads to; empty fields stay as they are. */
interface Place {
  readonly Service: string
  readonly ServiceSubset: string
  readonly Datacenter: string
}

type Target = JsonObject & { readonly ID: string }

const place = { Service: string, ServiceSubset: string, Datacenter: string }

const RESOLVER: Reader<Omit<Resolver, 'Kind'>> = struct(
  {
    Name: string,
    DefaultSubset: string,
    Subsets: mapOf(struct({ Filter: string, OnlyPassing: boolean })),
    Redirect: optional(struct(place)),
    Failover: mapOf(struct({ ...place, Datacenters: list(string), Targets: list(struct(place)) })),
    ConnectTimeout: duration,
  },
  ['Kind', 'Meta'],
)
const DEFAULTS: Reader<{ Name: string; Protocol: string }> = struct({ Name: string, Protocol: string }, [
  'Kind',
  'Meta',
])

/**
 * Reads a config entry.
 * @throws HttpError for a kind or field that the embedded agent does not support
 */
export const readEntry: Reader<Entry> = (value, field) => {
  const kind = (value as { readonly Kind?: unknown } | undefined)?.Kind
  if (kind === 'service-resolver') return { Kind: kind, ...RESOLVER(value, field) }
  if (kind === 'service-defaults') return { Kind: kind, ...DEFAULTS(value, field) }
  throw new HttpError(400, 'Kind: the embedded agent supports service-resolver and service-defaults')
}

/** The config entries of the agent, and the discovery chains that they result in. */
export class Chains {
  readonly #changes: Changes
  readonly #entries = new Map<string, { readonly entry: Entry; readonly index: number }>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  index(kind: string): number {
    return this.#changes.modified(`config ${kind}`)
  }

  put(entry: Entry): void {
    const index = this.#changes.touch(`config ${entry.Kind}`)
    this.#entries.set(`${entry.Kind}/${entry.Name}`, { entry, index })
  }

  delete(kind: string, name: string): void {
    if (this.#entries.delete(`${kind}/${name}`)) this.#changes.touch(`config ${kind}`)
  }

  /** Lists the names of the entries of a kind, each with the index of its last change. */
  list(kind: string): { Kind: string; Name: string; ModifyIndex: number }[] {
    return [...this.#entries.values()]
      .filter(({ entry }) => entry.Kind === kind)
      .map(({ entry, index }) => ({ Kind: kind, Name: entry.Name, ModifyIndex: index }))
  }

  /**
   * Compiles the chain of a service, as seen from a datacenter.
   * @throws HttpError for a redirect in a circle or a subset that does not exist
   */
  compile(
    service: string,
    Datacenter: string,
    { trustDomain, protocol }: { trustDomain: string; protocol: string | undefined },
  ): JsonObject {
    const targets = new Map<string, Target>()
    const addTarget = (to: Place): string => {
      const target = this.#targetJson(to, trustDomain)
      targets.set(target.ID, target)
      return target.ID
    }
    const first = this.#follow({ Service: service, ServiceSubset: '', Datacenter })
    const resolver = this.#resolver(first.Service)
    const id = addTarget(first)
    const failover = resolver?.Failover[first.ServiceSubset] ?? resolver?.Failover['*']
    const next =
      failover === undefined ? [] : spares(failover, first).map((to) => addTarget(this.#follow(to)))
    const defaults = this.#entries.get(`service-defaults/${service}`)?.entry
    const node = {
      ConnectTimeout: `${(resolver?.ConnectTimeout ?? 0) || 5_000}ms`,
      Default: resolver === undefined,
      Target: id,
      Failover: omitZero({ Targets: next.filter((other) => other !== id) }),
    }
    return {
      ServiceName: service,
      Namespace: 'default',
      Partition: 'default',
      Datacenter,
      Protocol: protocol ?? (defaults?.Kind === 'service-defaults' ? defaults.Protocol || 'tcp' : 'tcp'),
      StartNode: `resolver:${id}`,
      Nodes: { [`resolver:${id}`]: { Type: 'resolver', Name: id, Resolver: omitZero(node) } },
      Targets: Object.fromEntries(targets),
    }
  }

  #resolver(service: string): Resolver | undefined {
    const entry = this.#entries.get(`service-resolver/${service}`)?.entry
    return entry?.Kind === 'service-resolver' ? entry : undefined
  }

  /** Follows redirects, and completes the default subset. */
  #follow(from: Place): Place {
    const seen = new Set<string>()
    let at = from
    for (;;) {
      const resolver = this.#resolver(at.Service)
      if (resolver?.Redirect === undefined) {
        return { ...at, ServiceSubset: at.ServiceSubset || (resolver?.DefaultSubset ?? '') }
      }
      if (seen.has(at.Service))
        throw failed(`detected circular resolver redirect: ${[...seen, at.Service].join(' -> ')}`)
      seen.add(at.Service)
      at = moved(at, resolver.Redirect)
    }
  }

  #targetJson({ Service, ServiceSubset, Datacenter }: Place, trustDomain: string): Target {
    const subset = this.#resolver(Service)?.Subsets[ServiceSubset]
    if (ServiceSubset !== '' && subset === undefined)
      throw failed(
        `service ${JSON.stringify(Service)} does not have a subset named ${JSON.stringify(ServiceSubset)}`,
      )
    const prefix = ServiceSubset === '' ? '' : `${ServiceSubset}.`
    const SNI = `${prefix}${Service}.default.${Datacenter}.internal.${trustDomain}`
    return {
      ID: `${prefix}${Service}.default.default.${Datacenter}`,
      Service,
      ServiceSubset,
      Namespace: 'default',
      Partition: 'default',
      Datacenter,
      MeshGateway: {},
      Subset: omitZero({ ...subset }),
      SNI,
      Name: SNI,
    }
  }
}

/** Returns the places that a failover leads to, in order. */
function spares({ Datacenters, Targets, ...to }: Resolver['Failover'][string], from: Place): Place[] {
  if (Targets.length > 0) return Targets.map((target) => moved(from, target))
  if (Datacenters.length > 0) return Datacenters.map((Datacenter) => moved(from, { ...to, Datacenter }))
  return [moved(from, to)]
}

/** A subset belongs to its service, so that another service starts without one. */
function moved(from: Place, to: Place): Place {
  const Service = to.Service || from.Service
  const ServiceSubset = to.ServiceSubset || (Service === from.Service ? from.ServiceSubset : '')
  return { Service, ServiceSubset, Datacenter: to.Datacenter || from.Datacenter }
}

function failed(problem: string): HttpError {
  return new HttpError(500, `failed to compile discovery chain: ${problem}`)
}
