import { randomUUID } from 'node:crypto'
import type { Acl } from './acl.js'
import { hasTags, type Catalog, type Instance } from './catalog.js'
import type { Changes } from './changes.js'
import { boolean, integer, list, string, struct, type Reader } from '../http/decode.js'
import { HttpError, type JsonObject } from '../http/http.js'

/** A prepared query: the body of `POST /v1/query`, with the field names of Consul. */
export interface QueryDefinition extends JsonObject {
  Name: string
  /** The token that reads the service. @default the token of the caller */
  Token?: string
  Service: {
    Service: string
    /** Leaves out instances with warnings. @default false */
    OnlyPassing?: boolean
    /** The name of a node, or `_agent`. Has no effect: the agent has one node. */
    Near?: string
    /** All of these tags are required. A tag that starts with `!` must be absent. */
    Tags?: string[]
    /** Selects Connect-native instances and proxies. @default false */
    Connect?: boolean
    /** Has no effect: the agent has one datacenter. */
    Failover?: { NearestN?: number; Datacenters?: string[] }
  }
  /** `TTL` is a Go duration, for example `10s`. The agent returns it with the result. */
  DNS?: { TTL?: string }
}

export interface PreparedQuery {
  readonly ID: string
  readonly Name: string
  readonly Token: string
  readonly Service: Required<QueryDefinition['Service']>
  readonly DNS: { TTL: string }
}

const readFields: Reader<Omit<PreparedQuery, 'ID'>> = struct({
  Name: string,
  Token: string,
  Service: struct({
    Service: string,
    OnlyPassing: boolean,
    Near: string,
    Tags: list(string),
    Connect: boolean,
    Failover: struct({ NearestN: integer, Datacenters: list(string) }),
  }),
  DNS: struct({ TTL: string }),
})

/** The prepared queries of the agent. */
export class PreparedQueries {
  readonly #changes: Changes
  readonly #byId = new Map<string, PreparedQuery>()

  constructor(changes: Changes) {
    this.#changes = changes
  }

  /** Finds a query by ID, or by name in any case. */
  resolve(idOrName: string): PreparedQuery | undefined {
    const wanted = idOrName.toLowerCase()
    return (
      this.#byId.get(wanted) ?? [...this.#byId.values()].find(({ Name }) => Name.toLowerCase() === wanted)
    )
  }

  /** Creates a query and returns its ID. */
  create(definition: Omit<PreparedQuery, 'ID'>): string {
    if (this.resolve(definition.Name))
      throw new HttpError(500, `name '${definition.Name}' aliases an existing query name`)
    const ID = randomUUID()
    this.#byId.set(ID, { ...definition, ID })
    this.#changes.touch('queries')
    return ID
  }

  delete(id: string): void {
    this.#byId.delete(id)
    this.#changes.touch('queries')
  }
}

/**
 * Reads the definition of a query.
 * @throws HttpError for an invalid definition
 */
export const readQuery: Reader<Omit<PreparedQuery, 'ID'>> = (value, field) => {
  const definition = readFields(value, field)
  if (definition.Name === '') throw invalid('Must be bound to a session')
  if (definition.Service.Service === '') throw invalid('Must provide a Service name to query')
  return definition
}

/** Returns the healthy instances that a query selects, in random order unless the agent has `shuffle: false`. */
export function executeQuery(
  { acl, catalog, shuffle }: { acl: Acl; catalog: Catalog; shuffle: boolean },
  { Token, Service }: PreparedQuery,
  caller: { token: string | undefined; connect: boolean },
): Instance[] {
  const permissions = acl.permissions(Token === '' ? caller.token : Token)
  const banned = Service.Tags.filter((tag) => tag.startsWith('!')).map((tag) => tag.slice(1))
  const required = Service.Tags.filter((tag) => !tag.startsWith('!'))
  const found = catalog
    .instancesOf(Service.Service, Service.Connect || caller.connect ? 'connect' : 'service')
    .filter(({ service }) => permissions.service(service.Name, 'read'))
    .filter((instance) => (Service.OnlyPassing ? catalog.isPassing(instance) : !catalog.isCritical(instance)))
    .filter((instance) => hasTags(instance, required))
    .filter((instance) => !banned.some((tag) => hasTags(instance, [tag])))
  return shuffle ? shuffled(found) : found
}

/** Returns the items in random order: inserts each item at a random position. */
export function shuffled<T>(items: readonly T[]): T[] {
  const result: T[] = []
  for (const item of items) result.splice(Math.floor(Math.random() * (result.length + 1)), 0, item)
  return result
}

function invalid(problem: string): HttpError {
  return new HttpError(500, `Invalid prepared query: ${problem}`)
}
