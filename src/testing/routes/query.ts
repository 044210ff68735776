import { decode, empty, HttpError, json, type Answer, type Call } from '../http.js'
import { isObject, type Json, type JsonObject } from '../json.js'
import { executeQuery, queryJson, readQuery, type PreparedQuery } from '../queries.js'
import {
  blockOnIndex,
  checkDatacenter,
  consistency,
  consistencyHeader,
  errorHeaders,
  indexed,
  indexHeaders,
} from '../reads.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'

/** Prepared queries: changed by ID, executed and explained by ID or name. */
export function queryRoutes(state: State): Routes {
  return {
    '/v1/query': { GET: (call) => list(call, state), POST: (call) => create(call, state) },
    '/v1/query/': {
      GET: (call) => get(call, state),
      PUT: (call) => update(call, state),
      DELETE: (call) => remove(call, state),
    },
  }
}

async function get(call: Call, state: State): Promise<Answer> {
  const [, name = call.rest, verb] = /^(.+)\/(execute|explain)$/.exec(call.rest) ?? []
  const handler = verb === 'execute' ? execute : verb === 'explain' ? explain : read
  try {
    checkDatacenter(call, state)
    return await handler({ ...call, rest: name }, state)
  } catch (error) {
    // Other errors of Consul's servers have their headers.
    if (!(error instanceof HttpError) || error.status === 400 || error.status === 404) throw error
    throw new HttpError(error.status, error.message, errorHeaders)
  }
}

function create(call: Call, state: State): Answer {
  const query = decode(call, 400, 'Request decode failed', readQuery)
  requireWrite(call, state, query)
  return json({ ID: state.queries.put(query) })
}

function list(call: Call, state: State): Promise<Answer> {
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    return state.queries
      .list()
      .filter(({ name }) => permissions.query(name, 'read'))
      .map((query) => queryJson(query, permissions.management))
  }
  return indexed(call, state, { index: () => state.queries.index, read, headers: consistencyHeader(call) })
}

async function read(call: Call, state: State): Promise<Answer> {
  findById(call, state)
  await blockOnIndex(call, state.changes, () => state.queries.index)
  const query = findById(call, state)
  const permissions = state.acl.permissions(call.token)
  if (!permissions.query(query.name, 'read')) throw new HttpError(403, 'Permission denied')
  const headers = { ...indexHeaders(state.queries.index), ...consistencyHeader(call) }
  return json([queryJson(query, permissions.management)], headers)
}

function update(call: Call, state: State): Answer {
  const query = decode(call, 400, 'Request decode failed', readQuery)
  requireWrite(call, state, query)
  requireWrite(call, state, findById(call, state))
  state.queries.put(query, call.rest)
  return empty()
}

function remove(call: Call, state: State): Answer {
  requireWrite(call, state, findById(call, state))
  state.queries.delete(call.rest)
  return empty()
}

function explain(call: Call, state: State): Answer {
  const query = state.queries.resolve(call.rest) ?? notFound()
  const permissions = state.acl.permissions(call.token)
  if (!permissions.query(query.name, 'read')) throw new HttpError(403, 'Permission denied')
  return json({ Query: queryJson(query, permissions.management), ...metaJson(call) }, answerHeaders(call))
}

function execute(call: Call, state: State): Answer {
  const query = state.queries.resolve(call.rest) ?? notFound()
  const connect = call.query.get('connect') === 'true'
  const limit = Number(call.query.get('limit') ?? 0)
  const instances = executeQuery(state, query, { token: call.token, connect, limit })
  return json(
    {
      Service: query.service,
      Nodes: instances.map((instance) => withNullTags(state.catalog.entryJson(instance))),
      DNS: { TTL: query.dnsTtl },
      Datacenter: state.datacenter,
      Failovers: 0,
      ...metaJson(call),
    },
    answerHeaders(call),
  )
}

/** Query results show empty tags as null, unlike Consul's other endpoints. */
function withNullTags(json: Json): Json {
  if (Array.isArray(json)) return json.map(withNullTags)
  if (!isObject(json)) return json
  const entries = Object.entries(json).map(([key, value]): [string, Json | undefined] => {
    const isEmpty = /^(Service)?Tags$/.test(key) && Array.isArray(value) && value.length === 0
    return [key, isEmpty ? null : value && withNullTags(value)]
  })
  return Object.fromEntries(entries)
}

/** Consul 1.8 repeats the headers in the body. */
function metaJson(call: Call): JsonObject {
  return { Index: 0, LastContact: 0, KnownLeader: true, ConsistencyLevel: consistency(call) }
}

function answerHeaders(call: Call): Record<string, string> {
  return { ...indexHeaders(1), ...consistencyHeader(call) }
}

function requireWrite(call: Call, state: State, { name }: PreparedQuery): void {
  if (!state.acl.permissions(call.token).query(name, 'write')) throw new HttpError(403, 'Permission denied')
}

function findById(call: Call, state: State): PreparedQuery {
  return state.queries.get(call.rest) ?? notFound()
}

function notFound(): never {
  throw new HttpError(404, 'Query not found')
}
