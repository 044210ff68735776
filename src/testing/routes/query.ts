import { blockOnIndex } from '../blocking.js'
import { decode, empty, HttpError, json, text, type Answer, type Call, type Handler } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import type { StoredQuery } from '../queries.js'
import { queryJson, readQuery, type PreparedQuery } from '../query.js'
import { executeQuery, queryNodeJson } from '../query-execute.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'
import {
  consistency,
  consistencyHeader,
  errorHeaders,
  inDatacenter,
  indexed,
  indexHeaders,
  type RemoteHandler,
} from './indexed.js'

const action = /\/(execute|explain)$/

/** Prepared queries: kept by ID, asked by ID or name. */
export function queryRoutes(state: State): Routes {
  const execute: RemoteHandler = (call, there) => executed(call, there, state.catalog.own.name)
  return {
    '/v1/query': { GET: inDatacenter(state, list), POST: inDatacenter(state, create, {}) },
    '/v1/query/': {
      GET: (call) => {
        const handlers: Record<string, RemoteHandler> = { execute, explain }
        const verb = action.exec(call.path)?.[1] ?? ''
        // Before it goes to Consul's servers, whose errors have headers.
        if (verb !== '') readLimit(call)
        return inDatacenter(
          state,
          withErrorHeaders(handlers[verb] ?? read),
        )({
          ...call,
          // In /v1/query/execute the word is the name of the query too.
          rest: call.rest.replace(action, ''),
        })
      },
      PUT: specific(state, update),
      DELETE: specific(state, remove),
    },
  }
}

/** An error from Consul's servers has their headers, but not that a query is unknown. */
function withErrorHeaders(handler: RemoteHandler): RemoteHandler {
  return async (call, there) => {
    try {
      return await handler(call, there)
    } catch (error) {
      if (!(error instanceof HttpError) || error.status === 400 || error.status === 404) throw error
      throw new HttpError(error.status, error.message, { ...errorHeaders, ...error.headers })
    }
  }
}

/** Only the query itself can be changed, not its execution. */
function specific(state: State, handler: RemoteHandler): Handler {
  return (call) =>
    action.test(call.path)
      ? text(405, `method ${call.method} not allowed`, { Allow: 'GET' })
      : inDatacenter(state, handler, {})(call)
}

function create(call: Call, state: State): Answer {
  const query = decode(call, 400, 'Request decode failed', readQuery)
  requireWrite(call, state, query)
  return json({ ID: state.queries.create(query) })
}

function list(call: Call, state: State): Promise<Answer> {
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    return state.queries
      .list()
      .filter(({ query }) => permissions.query(query.name, 'read'))
      .map((stored) => storedJson(call, state, stored))
  }
  return indexed(call, state, { index: () => state.queries.index, read, headers: consistencyHeader(call) })
}

async function read(call: Call, state: State): Promise<Answer> {
  const find = (): StoredQuery => {
    const stored = state.queries.get(call.rest)
    return stored ?? notFound()
  }
  find()
  await blockOnIndex(call, state.changes, () => state.queries.index)
  const stored = find()
  if (isNamed(stored.query) && !state.acl.permissions(call.token).query(stored.query.name, 'read')) denied()
  return json([storedJson(call, state, stored)], {
    ...indexHeaders(state.queries.index),
    ...consistencyHeader(call),
  })
}

function update(call: Call, state: State): Answer {
  const query = decode(call, 400, 'Request decode failed', readQuery)
  requireWrite(call, state, query)
  requireWrite(call, state, state.queries.require(call.rest).query)
  state.queries.update(call.rest, query)
  return empty()
}

function remove(call: Call, state: State): Answer {
  // An unknown token is refused whatever it asks for.
  state.acl.permissions(call.token)
  requireWrite(call, state, state.queries.require(call.rest).query)
  state.queries.delete(call.rest)
  return empty()
}

function explain(call: Call, state: State): Answer {
  const stored = state.queries.resolve(call.rest) ?? notFound()
  const permissions = state.acl.permissions(call.token)
  if (isNamed(stored.query) && !permissions.query(stored.query.name, 'read')) denied()
  return json({ Query: storedJson(call, state, stored), ...metaJson(call) }, answerHeaders(call))
}

function executed(call: Call, state: State, agentNode: string): Answer {
  const limit = readLimit(call)
  const { query } = state.queries.resolve(call.rest) ?? notFound()
  const near = call.query.get('near') ?? ''
  const connect = call.query.get('connect') === 'true'
  const result = executeQuery(state, { query, near, limit, connect, token: call.token, agentNode })
  return json(
    {
      Service: query.service.service,
      Nodes: result.instances.map((instance) => queryNodeJson(instance, result.datacenter)),
      DNS: { TTL: query.dnsTtl },
      Datacenter: result.datacenter,
      Failovers: result.failovers,
      ...metaJson(call),
    },
    answerHeaders(call),
  )
}

/** 1.8 has these in the body by an oversight. */
function metaJson(call: Call): JsonObject {
  return { Index: 0, LastContact: 0, KnownLeader: true, ConsistencyLevel: consistency(call) }
}

function answerHeaders(call: Call): Record<string, string> {
  return { ...indexHeaders(1), ...consistencyHeader(call) }
}

function storedJson(call: Call, state: State, { query, ...indexes }: StoredQuery): JsonObject {
  return queryJson(query, indexes, state.acl.permissions(call.token).management)
}

function readLimit(call: Call): number {
  const limit = call.query.get('limit') ?? ''
  if (/^[+-]?\d*$/.test(limit)) return Number(limit)
  throw new HttpError(500, `Bad limit: strconv.Atoi: parsing ${JSON.stringify(limit)}: invalid syntax`)
}

function requireWrite(call: Call, state: State, query: PreparedQuery): void {
  if (isNamed(query) && !state.acl.permissions(call.token).query(query.name, 'write')) denied()
}

/** Rules go by names: without one, who knows the ID may do everything. */
function isNamed({ name, template }: PreparedQuery): boolean {
  return name !== '' || template.type !== ''
}

function notFound(): never {
  throw new HttpError(404, 'Query not found')
}

function denied(): never {
  throw new HttpError(403, 'Permission denied')
}
