import { parseDuration } from './duration.js'
import { HttpError } from './http.js'
import { type FieldReader, type JsonObject } from './json.js'
import { validateMeta } from './meta.js'

export interface ServiceQuery {
  service: string
  failover: { nearestN: number; datacenters: string[] }
  onlyPassing: boolean
  ignoreCheckIds: string[]
  near: string
  tags: string[]
  nodeMeta: Record<string, string>
  serviceMeta: Record<string, string>
  connect: boolean
}

export interface PreparedQuery {
  id: string
  name: string
  session: string
  token: string
  template: { type: string; regexp: string; removeEmptyTags: boolean }
  service: ServiceQuery
  dnsTtl: string
}

/** A prepared query as one makes it: the body of `POST /v1/query`, with Consul's own field names. */
export interface QueryDefinition extends JsonObject {
  Name?: string
  Token?: string
  Service: {
    Service: string
    Failover?: { NearestN?: number; Datacenters?: string[] }
    OnlyPassing?: boolean
    IgnoreCheckIDs?: string[]
    /** A node, or `_agent`. */
    Near?: string
    /** All of these; one that begins with `!` must be absent. */
    Tags?: string[]
    NodeMeta?: Record<string, string>
    ServiceMeta?: Record<string, string>
    Connect?: boolean
  }
  DNS?: { TTL?: string }
  Template?: { Type: 'name_prefix_match'; Regexp?: string; RemoveEmptyTags?: boolean }
}

const hidden = '<hidden>'

export function readQuery(fields: FieldReader): PreparedQuery {
  const template = fields.child('Template')
  const service = fields.child('Service')
  const failover = service?.child('Failover')
  const dns = fields.child('DNS')
  const query: PreparedQuery = {
    id: fields.string('ID') ?? '',
    name: fields.string('Name') ?? '',
    session: fields.string('Session') ?? '',
    token: fields.string('Token') ?? '',
    template: {
      type: template?.string('Type') ?? '',
      regexp: template?.string('Regexp') ?? '',
      removeEmptyTags: template?.boolean('RemoveEmptyTags') ?? false,
    },
    service: {
      service: service?.string('Service') ?? '',
      failover: {
        nearestN: failover?.integer('NearestN') ?? 0,
        datacenters: failover?.strings('Datacenters') ?? [],
      },
      onlyPassing: service?.boolean('OnlyPassing') ?? false,
      ignoreCheckIds: service?.strings('IgnoreCheckIDs') ?? [],
      near: service?.string('Near') ?? '',
      tags: service?.strings('Tags') ?? [],
      nodeMeta: service?.stringMap('NodeMeta') ?? {},
      serviceMeta: service?.stringMap('ServiceMeta') ?? {},
      connect: service?.boolean('Connect') ?? false,
    },
    dnsTtl: dns?.string('TTL') ?? '',
  }
  // Consul keeps these to itself: what is sent is overwritten.
  for (const index of ['CreateIndex', 'ModifyIndex']) fields.json(index)
  for (const reader of [template, failover, service, dns, fields]) reader?.end()
  return query
}

/** Throws what Consul says of a query that makes no sense. */
export function validateQuery({ name, template, session, token, service, dnsTtl }: PreparedQuery): void {
  const problem = (message: string): HttpError => new HttpError(500, `Invalid prepared query: ${message}`)
  if (name === '' && template.type === '' && session === '') throw problem('Must be bound to a session')
  if (token === hidden) {
    throw problem(
      `Bad Token '${hidden}', it looks like a query definition with a redacted token was submitted`,
    )
  }
  if (service.service === '') throw problem('Must provide a Service name to query')
  const { nearestN } = service.failover
  if (nearestN < 0) throw problem(`Bad NearestN '${nearestN}', must be >= 0`)
  const metaProblem = validateMeta(service.nodeMeta)
  if (metaProblem !== undefined) throw problem(metaProblem)
  if (dnsTtl === '') return
  const ttl = parseDuration(dnsTtl)
  if (ttl === undefined) {
    throw problem(`Bad DNS TTL '${dnsTtl}': time: invalid duration ${JSON.stringify(dnsTtl)}`)
  }
  if (ttl < 0) throw problem(`DNS TTL '${ttl * 1e6}', must be >=0`)
}

/** `withToken` shows the query's own token, which is for those who may manage queries. */
export function queryJson(
  { id, name, session, token, template, service, dnsTtl }: PreparedQuery,
  indexes: { createIndex: number; modifyIndex: number },
  withToken: boolean,
): JsonObject {
  return {
    ID: id,
    Name: name,
    Session: session,
    Token: token === '' || withToken ? token : hidden,
    Template: { Type: template.type, Regexp: template.regexp, RemoveEmptyTags: template.removeEmptyTags },
    Service: {
      Service: service.service,
      Failover: {
        NearestN: service.failover.nearestN,
        Datacenters: listOrNull(service.failover.datacenters),
      },
      OnlyPassing: service.onlyPassing,
      IgnoreCheckIDs: listOrNull(service.ignoreCheckIds),
      Near: service.near,
      Tags: listOrNull(service.tags),
      NodeMeta: mapOrNull(service.nodeMeta),
      ServiceMeta: mapOrNull(service.serviceMeta),
      Connect: service.connect,
    },
    DNS: { TTL: dnsTtl },
    CreateIndex: indexes.createIndex,
    ModifyIndex: indexes.modifyIndex,
  }
}

export function listOrNull<T>(items: readonly T[]): T[] | null {
  return items.length > 0 ? [...items] : null
}

function mapOrNull(map: Record<string, string>): Record<string, string> | null {
  return Object.keys(map).length > 0 ? map : null
}
