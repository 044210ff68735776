import { entryJson, hasTags, instancesOf } from './discovery.js'
import { HttpError } from './http.js'
import type { JsonObject } from './json.js'
import type { Instance } from './node.js'
import { listOrNull, type PreparedQuery } from './query.js'
import { shuffled } from './shuffle.js'
import type { State } from './state.js'

export interface Execution {
  query: PreparedQuery
  /** What the caller adds: the node to be near, how many at most, and whether only Connect will do. */
  near: string
  limit: number
  connect: boolean
  token: string | undefined
  /** The agent's own node, for `_agent`. */
  agentNode: string
}

export interface QueryResult {
  instances: Instance[]
  /** Where they are: another datacenter after a failover. */
  datacenter: string
  failovers: number
}

/** Runs the query where it is kept, and without any result there in the datacenters that it fails over to. */
export function executeQuery(state: State, execution: Execution): QueryResult {
  const { query, limit } = execution
  const asked = execution.near === '' ? query.service.near : execution.near
  const near = asked === '_agent' ? execution.agentNode : asked
  const found = select(state, execution)
  const sorted = first(
    near,
    state.coordinates.sort(near, found, ({ node }) => node.name),
  )
  const local = { instances: limited(sorted, limit), datacenter: state.datacenter, failovers: 0 }
  return local.instances.length > 0 ? local : failOver(state, execution, local)
}

/** An instance in the words of a query's answer, where an empty list is null. */
export function queryNodeJson(instance: Instance, datacenter: string): JsonObject {
  const { Checks: checks, Service: service, ...entry } = entryJson(instance, datacenter)
  return {
    ...entry,
    Service: withNull(service as JsonObject, 'Tags'),
    Checks: listOrNull((checks as JsonObject[]).map((check) => withNull(check, 'ServiceTags'))),
  }
}

function failOver(state: State, execution: Execution, local: QueryResult): QueryResult {
  const { nearestN, datacenters } = execution.query.service.failover
  const known = state.federation.datacenters().slice(1)
  const nearest = known.slice(0, nearestN)
  // One that is listed twice is tried twice, as by Consul.
  const listed = datacenters.filter((name) => known.includes(name) && !nearest.includes(name))
  let result = local
  for (const datacenter of [...nearest, ...listed]) {
    const failovers = result.failovers + 1
    try {
      const there = state.federation.find(datacenter)
      const instances = limited(select(there, execution), execution.limit)
      result = { instances, datacenter, failovers }
    } catch (error) {
      if (!(error instanceof HttpError)) throw error
      result = { ...result, failovers }
    }
    if (result.instances.length > 0) break
  }
  return result
}

function select(state: State, { query, connect, token }: Execution): Instance[] {
  const { service, onlyPassing, ignoreCheckIds, tags, nodeMeta, serviceMeta } = query.service
  const permissions = state.acl.permissions(query.token === '' ? token : query.token)
  const banned = tags.filter((tag) => tag.startsWith('!')).map((tag) => tag.slice(1))
  const wanted = tags.filter((tag) => !tag.startsWith('!'))
  const isHealthy = ({ node, service }: Instance): boolean =>
    node
      .checksFor(service.id)
      .filter(({ id }) => !ignoreCheckIds.includes(id))
      .every(({ status }) => status !== 'critical' && (!onlyPassing || status === 'passing'))
  const found = instancesOf(state, service, query.service.connect || connect ? 'connect' : 'service')
    .filter(({ service }) => permissions.service(service.name, 'read'))
    .filter(isHealthy)
    .filter(({ node }) => hasMeta(node.definition.meta ?? {}, nodeMeta))
    .filter(({ service }) => hasMeta(service.meta, serviceMeta))
    .filter(({ service }) => hasTags(service.tags, wanted))
    .filter(({ service }) => !banned.some((tag) => hasTags(service.tags, [tag])))
  return state.shuffle ? shuffled(found) : found
}

/** The node that was asked for changes places with the first, if it is among the first ten. */
function first(near: string, instances: Instance[]): Instance[] {
  const position = instances.slice(0, 10).findIndex(({ node }) => node.name === near)
  const [front] = instances
  const found = instances[position]
  if (!front || !found) return instances
  return instances.with(0, found).with(position, position === 0 ? found : front)
}

function limited(instances: Instance[], limit: number): Instance[] {
  return limit > 0 ? instances.slice(0, limit) : instances
}

function hasMeta(meta: Record<string, string>, wanted: Record<string, string>): boolean {
  return Object.entries(wanted).every(([key, value]) => meta[key] === value)
}

function withNull(json: JsonObject, name: string): JsonObject {
  const list = json[name]
  return { ...json, [name]: Array.isArray(list) && list.length > 0 ? list : null }
}
