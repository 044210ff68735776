import { readServiceCheck, type CheckDefinition } from './checks.js'
import {
  boolean,
  integer,
  list,
  mapOf,
  object,
  optional,
  string,
  struct,
  type Reader,
} from '../http/decode.js'
import { HttpError, omitZero, type JsonObject } from '../http/http.js'

/** The proxy part of a registration. */
interface Proxy extends JsonObject {
  DestinationServiceName: string
  MeshGateway: JsonObject
  Expose: JsonObject
}

/** A service as the agent keeps it, with the field names of Consul. */
export interface Service {
  readonly Kind: string
  readonly ID: string
  readonly Name: string
  readonly Tags: string[]
  readonly Meta: Record<string, string>
  readonly Port: number
  readonly Address: string
  readonly TaggedAddresses: Record<string, { Address: string; Port: number }>
  readonly Weights: { Passing: number; Warning: number }
  readonly EnableTagOverride: boolean
  readonly isNative: boolean
  readonly Proxy: Proxy | undefined
}

/** The registration of a service: the body of `PUT /v1/agent/service/register`, with the field names of Consul. */
export interface ServiceRegistration extends JsonObject {
  Name: string
  /** @default Name */
  ID?: string
  Kind?: 'connect-proxy'
  Port?: number
  Address?: string
  Tags?: string[]
  Meta?: Record<string, string>
  TaggedAddresses?: Record<string, { Address: string; Port?: number }>
  Weights?: { Passing?: number; Warning?: number }
  Connect?: { Native?: boolean }
  Proxy?: JsonObject
  Check?: JsonObject
  Checks?: JsonObject[]
}

export interface Registration {
  readonly service: Service
  readonly checks: CheckDefinition[]
}

const readUpstream = struct({
  DestinationType: string,
  DestinationNamespace: string,
  DestinationName: string,
  Datacenter: string,
  LocalBindAddress: string,
  LocalBindPort: integer,
  Config: object,
  MeshGateway: object,
})

const readSettings = struct({
  DestinationServiceName: string,
  DestinationServiceID: string,
  LocalServiceAddress: string,
  LocalServicePort: integer,
  Mode: string,
  Config: object,
  Upstreams: list(readUpstream),
  MeshGateway: object,
  Expose: object,
})

const readProxy: Reader<Proxy> = (value, field) => {
  const settings = readSettings(value, field)
  const Upstreams = settings.Upstreams.map((upstream) => ({
    ...omitZero(upstream),
    DestinationType: upstream.DestinationType || 'service',
    DestinationName: upstream.DestinationName,
    LocalBindPort: upstream.LocalBindPort,
    MeshGateway: upstream.MeshGateway,
  }))
  return { ...settings, Upstreams }
}

const readFields = struct(
  {
    Kind: string,
    ID: string,
    Name: string,
    Tags: list(string),
    Meta: mapOf(string),
    Port: integer,
    Address: string,
    TaggedAddresses: mapOf(struct({ Address: string, Port: integer })),
    Weights: optional(struct({ Passing: integer, Warning: integer })),
    EnableTagOverride: boolean,
    Connect: struct({ Native: boolean }),
    Proxy: optional(readProxy),
    Check: optional(readServiceCheck),
    Checks: list(readServiceCheck),
  },
  ['Token'],
)

/**
 * Reads the body of a registration.
 * @throws HttpError if Consul rejects the registration
 */
export const readRegistration: Reader<Registration> = (value, field) => {
  const { Check, Checks, Connect, ...fields } = readFields(value, field)
  const service: Service = {
    ...fields,
    ID: fields.ID || fields.Name,
    Weights: fields.Weights ?? { Passing: 1, Warning: 1 },
    isNative: Connect.Native,
  }
  const problem = problemOf(service)
  if (problem !== undefined) throw new HttpError(400, problem)
  const definitions = [Check, ...Checks].filter((check) => check !== undefined)
  const checks = definitions.map((define, index) => {
    const id = `service:${service.ID}${definitions.length === 1 ? '' : `:${index + 1}`}`
    return define({ CheckID: id, Name: `Service '${service.Name}' check`, ServiceID: service.ID })
  })
  return { service, checks }
}

/** Returns the service that an instance proves to be: its own if it is native, the destination of a proxy. */
export function connectNameOf({ Kind, Name, Proxy, isNative }: Service): string | undefined {
  if (Kind === 'connect-proxy') return Proxy?.DestinationServiceName
  return isNative ? Name : undefined
}

/** Converts a service to the JSON of the agent's endpoints. */
export function agentServiceJson(service: Service): JsonObject {
  const { Kind, Name, Proxy, isNative, TaggedAddresses, ...fields } = service
  return {
    ...fields,
    Kind: Kind === '' ? undefined : Kind,
    Service: Name,
    TaggedAddresses: nonEmpty(TaggedAddresses),
    Proxy: Kind === 'connect-proxy' && Proxy ? proxyJson(Proxy) : undefined,
    Connect: isNative ? { Native: true } : undefined,
  }
}

/** Converts a service to the JSON of the health endpoints. */
export function healthServiceJson(service: Service): JsonObject {
  return {
    ...agentServiceJson(service),
    // 1.8 shows empty metadata as null here, and as {} on the agent's endpoints.
    Meta: nonEmpty(service.Meta) ?? null,
    Proxy: service.Proxy ? proxyJson(service.Proxy) : { MeshGateway: {}, Expose: {} },
    Connect: service.isNative ? { Native: true } : {},
  }
}

/** Converts a proxy to the JSON of the endpoints. */
function proxyJson(proxy: Proxy): JsonObject {
  return { ...omitZero(proxy), MeshGateway: proxy.MeshGateway, Expose: proxy.Expose }
}

function problemOf({
  Kind,
  Name,
  Address,
  Port,
  Proxy,
  Weights,
  Meta,
  isNative,
}: Service): string | undefined {
  if (Name === '') return 'Missing service name'
  if (Weights.Passing < 1) return 'Invalid Weights: Passing must be greater than 0'
  if (['0.0.0.0', '::', '[::]'].includes(Address)) return 'Invalid service address'
  const metaProblem = problemOfMeta(Object.entries(Meta))
  if (metaProblem !== undefined) return `Invalid Service Meta: ${metaProblem}`
  if (Kind !== 'connect-proxy') return undefined
  if (!Proxy?.DestinationServiceName)
    return 'Proxy.DestinationServiceName must be non-empty for Connect proxy services'
  if (Port === 0) return 'Port must be set for a Connect proxy'
  return isNative ? 'A Proxy cannot also be Connect Native, only typical services' : undefined
}

const MAX_META_PAIRS = 64
const MAX_META_KEY = 128
const MAX_META_VALUE = 512

function problemOfMeta(pairs: readonly (readonly [key: string, value: string])[]): string | undefined {
  if (pairs.length > MAX_META_PAIRS)
    return `Node metadata cannot contain more than ${MAX_META_PAIRS} key/value pairs`
  for (const [key, value] of pairs) {
    const problem = problemOfPair(key, value)
    if (problem !== undefined) return `Couldn't load metadata pair ('${key}', '${value}'): ${problem}`
  }
  return undefined
}

function problemOfPair(key: string, value: string): string | undefined {
  if (key === '') return 'Key cannot be blank'
  if (!/^[\w-]+$/.test(key)) return 'Key contains invalid characters'
  if (key.length > MAX_META_KEY) return `Key is too long (limit: ${MAX_META_KEY} characters)`
  if (key.startsWith('consul-')) return "Key prefix 'consul-' is reserved for internal use"
  if (value.length > MAX_META_VALUE) return `Value is too long (limit: ${MAX_META_VALUE} characters)`
  return undefined
}

function nonEmpty<T extends object>(map: T): T | undefined {
  return Object.keys(map).length > 0 ? map : undefined
}
