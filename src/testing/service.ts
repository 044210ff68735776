import { isIP } from 'node:net'
import { readServiceChecks } from './check-definition.js'
import type { CheckDefinition } from './checks.js'
import { HttpError, multiError } from './http.js'
import { FieldReader, type JsonObject } from './json.js'
import {
  agentProxyJson,
  catalogProxyJson,
  proxyProblems,
  readProxy,
  type ProxySettings,
} from './service-proxy.js'

interface TaggedAddress extends JsonObject {
  Address: string
  Port: number
}

export interface Service {
  kind: string
  id: string
  name: string
  tags: string[]
  meta: Record<string, string>
  port: number
  address: string
  taggedAddresses: Record<string, TaggedAddress>
  weights: { Passing: number; Warning: number }
  enableTagOverride: boolean
  native: boolean
  proxy: ProxySettings | undefined
  /** The service that this instance proves to be: its own when native, the destination of a proxy. */
  connectName: string | undefined
}

/** A service as one registers it: the body of `PUT /v1/agent/service/register`, with Consul's own field names. */
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
  /** In place of `Proxy`: the service that a proxy stands for, as Consul 1.2 has it. */
  ProxyDestination?: string
  Check?: JsonObject
  Checks?: JsonObject[]
}

export interface Registration {
  service: Service
  checks: CheckDefinition[]
}

/** Reads the body of a registration and rejects what Consul rejects, with its messages. */
export function readRegistration(fields: FieldReader): Registration {
  const name = fields.string('Name') ?? ''
  const kind = fields.string('Kind') ?? ''
  const native = readNative(fields.child('Connect'))
  const proxy = readProxy(fields)
  const service: Service = {
    kind,
    id: fields.string('ID') || name,
    name,
    tags: fields.strings('Tags'),
    meta: readMeta(fields.stringMap('Meta')),
    port: fields.integer('Port') ?? 0,
    address: fields.string('Address') ?? '',
    taggedAddresses: readTaggedAddresses(fields),
    weights: readWeights(fields),
    enableTagOverride: fields.boolean('EnableTagOverride') ?? false,
    native,
    proxy,
    connectName: kind === 'connect-proxy' ? proxy?.destination : native ? name : undefined,
  }
  const checks = readServiceChecks(fields, service)
  fields.ignore('Token')
  fields.end()

  if (name === '') throw new HttpError(400, 'Missing service name')
  if (service.weights.Passing < 1) throw new HttpError(400, 'Invalid Weights: Passing must be greater than 0')
  if (['0.0.0.0', '::', '[::]'].includes(service.address)) throw new HttpError(400, 'Invalid service address')
  const problems = proxyProblems(service)
  if (problems.length > 0) throw multiError(400, problems)
  addFamilyAddresses(service)
  return { service, checks }
}

/** What Consul accepts as metadata of a service. */
function readMeta(meta: Record<string, string>): Record<string, string> {
  const pairs = Object.entries(meta)
  const refuse = (reason: string): never => {
    throw new HttpError(400, `Invalid Service Meta: ${reason}`)
  }
  if (pairs.length > 64) refuse('Node metadata cannot contain more than 64 key/value pairs')
  for (const [key, value] of pairs) {
    const problem = metaProblem(key, value)
    if (problem !== undefined) refuse(`Couldn't load metadata pair ('${key}', '${value}'): ${problem}`)
  }
  return meta
}

function metaProblem(key: string, value: string): string | undefined {
  if (key === '') return 'Key cannot be blank'
  if (!/^[a-zA-Z0-9_-]+$/.test(key)) return 'Key contains invalid characters'
  if (key.length > 128) return 'Key is too long (limit: 128 characters)'
  if (key.startsWith('consul-')) return "Key prefix 'consul-' is reserved for internal use"
  return value.length > 512 ? 'Value is too long (limit: 512 characters)' : undefined
}

/** As `/v1/agent/services` and `/v1/agent/service/:id` show it. */
export function agentServiceJson(service: Service, contentHash?: string): JsonObject {
  return {
    Kind: service.kind === '' ? undefined : service.kind,
    ID: service.id,
    Service: service.name,
    Tags: service.tags,
    Meta: service.meta,
    Port: service.port,
    Address: service.address,
    TaggedAddresses: emptyToUndefined(service.taggedAddresses),
    Weights: { ...service.weights },
    EnableTagOverride: service.enableTagOverride,
    ContentHash: contentHash,
    Proxy: service.kind === 'connect-proxy' && service.proxy ? agentProxyJson(service.proxy) : undefined,
    Connect: service.native ? { Native: true } : undefined,
  }
}

/** Converts a service to the JSON of a health response. */
export function healthServiceJson(service: Service, createIndex: number, modifyIndex: number): JsonObject {
  return {
    Kind: service.kind === '' ? undefined : service.kind,
    ID: service.id,
    Service: service.name,
    Tags: service.tags,
    Address: service.address,
    TaggedAddresses: emptyToUndefined(service.taggedAddresses),
    // 1.8 shows an empty map as null here, and as {} on its other endpoints.
    Meta: emptyToUndefined(service.meta) ?? null,
    Port: service.port,
    Weights: { ...service.weights },
    EnableTagOverride: service.enableTagOverride,
    Proxy: catalogProxyJson(service.proxy),
    Connect: service.native ? { Native: true } : {},
    CreateIndex: createIndex,
    ModifyIndex: modifyIndex,
  }
}

function readWeights(fields: FieldReader): Service['weights'] {
  const weights = fields.child('Weights')
  if (!weights) return { Passing: 1, Warning: 1 }
  const read = { Passing: weights.integer('Passing') ?? 0, Warning: weights.integer('Warning') ?? 0 }
  weights.end()
  return read
}

function readTaggedAddresses(fields: FieldReader): Service['taggedAddresses'] {
  const tagged = Object.entries(fields.object('TaggedAddresses') ?? {}).map(([tag, address]) => {
    const values = new FieldReader(address ?? null)
    const read = { Address: values.string('Address') ?? '', Port: values.integer('Port') ?? 0 }
    values.end()
    return [tag, read] as const
  })
  return Object.fromEntries(tagged.sort(([a], [b]) => (a < b ? -1 : 1)))
}

function readNative(fields: FieldReader | undefined): boolean {
  if (fields?.json('SidecarService') !== undefined) {
    throw new HttpError(400, 'Invalid SidecarService: the embedded agent registers no sidecar by itself')
  }
  return fields?.boolean('Native') ?? false
}

/** Consul adds an address for its own family besides those that were given. */
function addFamilyAddresses(service: Service): void {
  const family = isIP(service.address)
  if (family === 0) return
  const own = { Address: service.address, Port: service.port }
  const names = family === 4 ? ['lan_ipv4', 'wan_ipv4'] : ['lan_ipv6', 'wan_ipv6']
  for (const name of names) service.taggedAddresses[name] ??= own
}

function emptyToUndefined<T extends object>(map: T): T | undefined {
  return Object.keys(map).length > 0 ? map : undefined
}
