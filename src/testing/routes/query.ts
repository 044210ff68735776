import { requirePermission } from '../state/acl.js'
import { decode } from '../http/decode.js'
import { empty, HttpError, json, type Answer, type Call, type JsonObject } from '../http/http.js'
import { executeQuery, readQuery, type PreparedQuery } from '../state/queries.js'
import { checkDatacenter, indexHeader } from '../http/reads.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

/** Serves prepared queries: created and deleted through the API, executed and explained by ID or name. */
export const queryRoutes: Routes = {
  '/v1/query': { POST: create },
  '/v1/query/': { GET: read, DELETE: remove },
}

function create(call: Call, state: State): Answer {
  const query = decode(call, readQuery)
  requirePermission(state.acl.permissions(call.token).query(query.Name, 'write'))
  return json({ ID: state.queries.create(query) })
}

function remove(call: Call, state: State): Answer {
  const query = find(state, call.rest)
  requirePermission(state.acl.permissions(call.token).query(query.Name, 'write'))
  state.queries.delete(query.ID)
  return empty()
}

function read(call: Call, state: State): Answer {
  const [, name = '', verb] = /^(.+)\/(execute|explain)$/.exec(call.rest) ?? []
  checkDatacenter(call, state)
  const query = find(state, name)
  const body = verb === 'execute' ? execute(call, state, query) : explain(call, state, query)
  return json(body, indexHeader(1))
}

function explain(call: Call, state: State, query: PreparedQuery): JsonObject {
  const permissions = state.acl.permissions(call.token)
  requirePermission(permissions.query(query.Name, 'read'))
  // Only management tokens may see the tokens of queries.
  const isHidden = query.Token !== '' && !permissions.management
  return { Query: { ...query, Token: isHidden ? '<hidden>' : query.Token } }
}

function execute({ token, query: parameters }: Call, state: State, query: PreparedQuery): JsonObject {
  const connect = parameters.get('connect') === 'true'
  const instances = executeQuery(state, query, { token, connect })
  return {
    Service: query.Service.Service,
    Nodes: instances.map((instance) => state.catalog.entryJson(instance)),
    DNS: query.DNS,
    Datacenter: state.datacenter,
    Failovers: 0,
  }
}

function find(state: State, idOrName: string): PreparedQuery {
  const query = state.queries.resolve(idOrName)
  if (!query) throw new HttpError(404, 'Query not found')
  return query
}
