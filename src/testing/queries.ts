import { randomUUID } from 'node:crypto'
import type { Acl } from './acl.js'
import { hasTags, type Catalog, type Instance } from './catalog.js'
import type { Changes } from './changes.js'
import { parseDuration } from './duration.js'
import { HttpError } from './http.js'
import type { FieldReader, JsonObject } from './json.js'

/** A prepared query: the body of `POST /v1/query`, with Consul's field names. */
export interface QueryDefinition extends JsonObject {
  Name: string
  Token?: string
  Service: {
    Service: string
    OnlyPassing?: boolean
    /** A node or `_agent`. Accepted without effect: the agent has one node. */
    Near?: string
    /** All of these tags are required; a tag that starts with `!` must be absent. */
    Tags?: string[]
    Connect?: boolean
    /** Accepted without effect: the agent has one datacenter. */
    Failover?: { NearestN?: number; Datacenters?: string[] }
  }
  DNS?: { TTL?: string }
}

export interface PreparedQuery {
  id: string
  name: string
  token: string
  service: string
  onlyPassing: boolean
  near: string
  tags: string[]
  connect: boolean
  failover: { NearestN: number; Datacenters: string[] | null }
  dnsTtl: string
  createIndex: number
  modifyIndex: number
}

const HIDDEN = '<hidden>'

export class PreparedQueries {
  readonly #changes: Changes
  readonly #byId = new Map<string, PreparedQuery>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  get index(): number {
    return this.#changes.modified('queries')
  }

  /** All queries by ID. */
  list(): PreparedQuery[] {
    return [...this.#byId.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  get(id: string): PreparedQuery | undefined {
    return this.#byId.get(id)
  }

  /** Finds a query by ID or by name, in any case. */
  resolve(idOrName: string): PreparedQuery | undefined {
    const name = idOrName.toLowerCase()
    return this.#byId.get(name) ?? this.list().find((query) => query.name.toLowerCase() === name)
  }

  /** Creates a query, or replaces the query of that ID, and returns the ID. */
  put(query: PreparedQuery, id: string = randomUUID()): string {
    const named = this.resolve(query.name)
    if (named && named.id !== id)
      throw new HttpError(500, `name '${query.name}' aliases an existing query name`)
    const modifyIndex = this.#changes.touch('queries')
    const createIndex = this.#byId.get(id)?.createIndex ?? modifyIndex
    this.#byId.set(id, { ...query, id, createIndex, modifyIndex })
    return id
  }

  delete(id: string): void {
    this.#byId.delete(id)
    this.#changes.touch('queries')
  }
}

export function readQuery(fields: FieldReader): PreparedQuery {
  const service = fields.child('Service')
  const failover = service?.child('Failover')
  const dns = fields.child('DNS')
  const datacenters = failover?.strings('Datacenters') ?? []
  const query: PreparedQuery = {
    id: '',
    name: fields.string('Name') ?? '',
    token: fields.string('Token') ?? '',
    service: service?.string('Service') ?? '',
    onlyPassing: service?.boolean('OnlyPassing') ?? false,
    near: service?.string('Near') ?? '',
    tags: service?.strings('Tags') ?? [],
    connect: service?.boolean('Connect') ?? false,
    failover: {
      NearestN: failover?.integer('NearestN') ?? 0,
      Datacenters: datacenters.length > 0 ? datacenters : null,
    },
    dnsTtl: dns?.string('TTL') ?? '',
    createIndex: 0,
    modifyIndex: 0,
  }
  fields.ignore('ID', 'CreateIndex', 'ModifyIndex')
  for (const reader of [failover, service, dns, fields]) reader?.end()
  const problem = problemOf(query)
  if (problem !== undefined) throw new HttpError(500, `Invalid prepared query: ${problem}`)
  return query
}

function problemOf({ name, service, dnsTtl }: PreparedQuery): string | undefined {
  if (name === '') return 'Must be bound to a session'
  if (service === '') return 'Must provide a Service name to query'
  const ttl = dnsTtl === '' ? 0 : parseDuration(dnsTtl)
  if (ttl === undefined) return `Bad DNS TTL '${dnsTtl}': time: invalid duration ${JSON.stringify(dnsTtl)}`
  return ttl < 0 ? `DNS TTL '${ttl * 1e6}', must be >=0` : undefined
}

/** @param withToken show the token of the query, which only management tokens may see */
export function queryJson(query: PreparedQuery, withToken: boolean): JsonObject {
  return {
    ID: query.id,
    Name: query.name,
    Session: '',
    Token: query.token === '' || withToken ? query.token : HIDDEN,
    Template: { Type: '', Regexp: '', RemoveEmptyTags: false },
    Service: {
      Service: query.service,
      Failover: query.failover,
      OnlyPassing: query.onlyPassing,
      IgnoreCheckIDs: null,
      Near: query.near,
      Tags: query.tags.length > 0 ? query.tags : null,
      NodeMeta: null,
      ServiceMeta: null,
      Connect: query.connect,
    },
    DNS: { TTL: query.dnsTtl },
    CreateIndex: query.createIndex,
    ModifyIndex: query.modifyIndex,
  }
}

/** Returns the healthy instances that a query selects, in random order unless the agent was started without it. */
export function executeQuery(
  { acl, catalog, shuffle }: { acl: Acl; catalog: Catalog; shuffle: boolean },
  query: PreparedQuery,
  caller: { token?: string | undefined; connect?: boolean; limit?: number } = {},
): Instance[] {
  const permissions = acl.permissions(query.token === '' ? caller.token : query.token)
  const banned = query.tags.filter((tag) => tag.startsWith('!')).map((tag) => tag.slice(1))
  const wanted = query.tags.filter((tag) => !tag.startsWith('!'))
  const found = catalog
    .instancesOf(query.service, query.connect || caller.connect ? 'connect' : 'service')
    .filter(({ service }) => permissions.service(service.name, 'read'))
    .filter((instance) => (query.onlyPassing ? catalog.isPassing(instance) : !catalog.isCritical(instance)))
    .filter(({ service }) => hasTags(service.tags, wanted))
    .filter(({ service }) => !banned.some((tag) => hasTags(service.tags, [tag])))
  const ordered = shuffle ? shuffled(found) : found
  return caller.limit ? ordered.slice(0, caller.limit) : ordered
}

/** Shuffles by Fisher and Yates. */
export function shuffled<T>(items: readonly T[]): T[] {
  const result = [...items]
  for (let end = result.length - 1; end > 0; end--) {
    const other = Math.floor(Math.random() * (end + 1))
    const [a, b] = [result[end] as T, result[other] as T]
    result[end] = b
    result[other] = a
  }
  return result
}
