import { HttpError, isObject, isZero, omitZero, type JsonObject } from '../http/http.js'
import { boolean, duration, list, mapOf, optional, string, struct, type Reader } from '../http/decode.js'
import type { Changes } from './changes.js'

/** A config entry, with the field names of Consul. Fields of another kind are empty. */
export interface Entry {
  readonly Kind: string
  readonly Name: string
  readonly Protocol: string
  readonly DefaultSubset: string
  readonly Subsets: Record<string, { Filter: string; OnlyPassing: boolean }>
  readonly Redirect: Place | undefined
  /** By subset; `*` stands for all. */
  readonly Failover: Record<string, Failover>
  /** In milliseconds. */
  readonly ConnectTimeout: number
  /** The entry as the client sent it. */
  readonly sent: JsonObject
}

/** Where an entry leads. An empty field keeps what led to the entry. */
interface Place extends JsonObject {
  Service: string
  ServiceSubset: string
  Datacenter: string
}

interface Failover extends Place {
  Datacenters: string[]
  Targets: Place[]
}

const EMPTY = {
  Protocol: '',
  DefaultSubset: '',
  Subsets: {},
  Redirect: undefined,
  Failover: {},
  ConnectTimeout: 0,
  sent: {},
}
const place = { Service: string, ServiceSubset: string, Datacenter: string }

const READERS: Record<string, Reader<Partial<Entry> & { Name: string }>> = {
  mesh: struct({ Name: (value) => string(value ?? 'mesh', 'Name') }, ['Kind', 'Meta', 'HTTP']),
  'service-defaults': struct({ Name: string, Protocol: string }, ['Kind', 'Meta']),
  'service-resolver': struct(
    {
      Name: string,
      DefaultSubset: string,
      Subsets: mapOf(struct({ Filter: string, OnlyPassing: boolean })),
      Redirect: optional(struct(place)),
      Failover: mapOf(struct({ ...place, Datacenters: list(string), Targets: list(struct(place)) })),
      ConnectTimeout: duration,
    },
    ['Kind', 'Meta'],
  ),
}

/**
 * Reads a config entry.
 * @throws HttpError for a kind or a field that the embedded agent does not support
 */
export const readEntry: Reader<Entry> = (value, field) => {
  const sent = isObject(value) ? value : {}
  const Kind = string(sent['Kind'] ?? sent['kind'], 'Kind')
  const read = READERS[Kind]
  if (!read) throw new HttpError(400, `Kind: expected one of ${Object.keys(READERS).join(', ')}, got ${Kind}`)
  const entry = { ...EMPTY, ...read(value, field), Kind, sent }
  if (entry.Name === '') throw new HttpError(500, 'Name is required')
  return entry
}

/** The config entries of the agent, and the discovery chains that they result in. */
export class Chains {
  readonly #changes: Changes
  readonly #datacenter: string
  readonly #trustDomain: string
  /** By kind and name. */
  #entries = new Map<string, Entry>()

  constructor(changes: Changes, options: { datacenter: string; trustDomain: string }) {
    this.#changes = changes
    this.#datacenter = options.datacenter
    this.#trustDomain = options.trustDomain
  }

  /** Returns the index of the last change of a kind or an entry, `kind/name`; by default, of all entries. */
  index(of = ''): number {
    return this.#changes.modified(`config:${of}`)
  }

  /** @throws HttpError if a chain would be invalid, as in Consul */
  put(entry: Entry): void {
    const key = keyOf(entry.Kind, entry.Name)
    this.#replace(entry.Kind, key, new Map(this.#entries).set(key, entry))
  }

  /** @throws HttpError if a chain would be invalid, as in Consul */
  delete(kind: string, name: string): void {
    const key = keyOf(kind, name)
    const rest = new Map(this.#entries)
    if (rest.delete(key)) this.#replace(kind, key, rest)
  }

  /** Returns the entries of a kind as the clients sent them, ordered by name. */
  list(kind: string): (JsonObject & { Name: string })[] {
    return [...this.#entries.values()]
      .filter(({ Kind }) => Kind === kind)
      .map(({ Name, sent }) => ({ ...sent, Kind: kind, Name, ModifyIndex: this.index(keyOf(kind, Name)) }))
      .sort((a, b) => (a.Name < b.Name ? -1 : 1))
  }

  /**
   * Compiles the chain of a service, in the form of Consul 1.14.
   * @param options.datacenter - where the chain starts. Default the datacenter of the agent.
   * @param options.protocol - replaces the protocol of the service
   * @throws HttpError for a redirect in a circle, or for a subset that does not exist
   */
  compile(service: string, options: { datacenter?: string; protocol?: string | undefined } = {}): JsonObject {
    const { datacenter: Datacenter = this.#datacenter } = options
    const Targets: Record<string, JsonObject> = {}
    const add = (target: Place): string => {
      const id = idOf(target)
      Targets[id] = this.#targetJson(target)
      return id
    }
    const first = this.#follow({ Service: service, ServiceSubset: '', Datacenter })
    const id = add(first)
    const resolver = this.#entry('service-resolver', first.Service)
    const { DefaultSubset, Subsets, Redirect, Failover, ConnectTimeout } = resolver
    const failover = Failover[first.ServiceSubset] ?? Failover['*']
    const others = (failover ? placesOf(failover, first) : [])
      .map((other) => this.#follow(other))
      .filter((other) => idOf(other) !== id)
    const Resolver = omitZero({
      Default: [DefaultSubset, Subsets, Redirect, Failover, ConnectTimeout].every(isZero),
      ConnectTimeout: `${(ConnectTimeout || 5_000) / 1_000}s`,
      Target: id,
      Failover: omitZero({ Targets: others.map(add) }),
    })
    const { Protocol } = this.#entry('service-defaults', service)
    return {
      ServiceName: service,
      Namespace: 'default',
      Partition: 'default',
      Datacenter,
      Protocol: (options.protocol ?? Protocol).toLowerCase() || 'tcp',
      StartNode: `resolver:${id}`,
      Nodes: { [`resolver:${id}`]: { Type: 'resolver', Name: id, Resolver } },
      Targets,
    }
  }

  #entry(kind: string, name: string): Entry {
    return this.#entries.get(keyOf(kind, name)) ?? { ...EMPTY, Kind: kind, Name: name }
  }

  #replace(kind: string, key: string, entries: Map<string, Entry>): void {
    const old = this.#entries
    this.#entries = entries
    try {
      for (const { Name } of entries.values()) this.compile(Name)
    } catch (error) {
      this.#entries = old
      throw error
    }
    this.#changes.touch('config:', `config:${kind}`, `config:${key}`)
  }

  /** Follows redirects and default subsets. */
  #follow(start: Place): Place {
    const seen: string[] = []
    for (let at = start; ;) {
      const id = idOf(at)
      const { Redirect, DefaultSubset } = this.#entry('service-resolver', at.Service)
      if (seen.includes(id))
        throw new HttpError(500, `detected circular resolver redirect: [${[...seen, id].join(' -> ')}]`)
      seen.push(id)
      const redirected = Redirect ? moved(at, Redirect) : at
      const ServiceSubset = redirected.ServiceSubset || (redirected === at ? DefaultSubset : '')
      const next = { ...redirected, ServiceSubset }
      // A redirect to itself has no effect.
      if (idOf(next) === id) return at
      at = next
    }
  }

  #targetJson(target: Place): JsonObject {
    const { Service, ServiceSubset, Datacenter } = target
    const subset = this.#entry('service-resolver', Service).Subsets[ServiceSubset]
    if (ServiceSubset !== '' && !subset)
      throw new HttpError(500, `service "${Service}" does not have a subset named "${ServiceSubset}"`)
    const prefix = ServiceSubset === '' ? '' : `${ServiceSubset}.`
    const SNI = `${prefix}${Service}.default.${Datacenter}.internal.${this.#trustDomain}`
    return {
      ...omitZero(target),
      ID: idOf(target),
      Namespace: 'default',
      Partition: 'default',
      MeshGateway: {},
      Subset: omitZero({ ...subset }),
      SNI,
      Name: SNI,
    }
  }
}

/** Consul ignores the case of names. */
function keyOf(kind: string, name: string): string {
  return `${kind}/${name.toLowerCase()}`
}

function idOf({ Service, ServiceSubset, Datacenter }: Place): string {
  return `${ServiceSubset === '' ? '' : `${ServiceSubset}.`}${Service}.default.default.${Datacenter}`
}

/** Returns the places that a failover leads to, in order. */
function placesOf({ Datacenters, Targets, ...to }: Failover, from: Place): Place[] {
  if (Targets.length > 0) return Targets.map((target) => moved(from, target))
  if (Datacenters.length > 0) return Datacenters.map((Datacenter) => moved(from, { ...to, Datacenter }))
  return [moved(from, to)]
}

/** Moves to another place. A subset belongs to its service: another service starts without one. */
function moved(from: Place, to: Place): Place {
  const Service = to.Service || from.Service
  const ServiceSubset = to.ServiceSubset || (Service === from.Service ? from.ServiceSubset : '')
  return { Service, ServiceSubset, Datacenter: to.Datacenter || from.Datacenter }
}
