import { requirePermission } from '../state/acl.js'
import { empty, HttpError, json, type Answer, type Call } from '../http/http.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

/** Serves the key-value store: raw values by key, and deletion by key or prefix. */
export const keyValueRoutes: Routes = { '/v1/kv/': { GET: read, PUT: write, DELETE: remove } }

function read(call: Call, state: State): Answer {
  requirePermission(state.acl.permissions(call.token).other)
  const body = state.kv.get(call.rest)
  if (!body) return empty(404)
  if (!call.query.has('raw'))
    throw new HttpError(400, 'kv: the embedded agent returns raw values only; add ?raw to the request')
  return { status: 200, headers: { 'Content-Type': 'text/plain' }, body }
}

function write(call: Call, state: State): Answer {
  requirePermission(state.acl.permissions(call.token).other)
  state.kv.set(call.rest, call.body)
  return json(true)
}

function remove(call: Call, state: State): Answer {
  requirePermission(state.acl.permissions(call.token).other)
  const isPrefix = call.query.has('recurse')
  for (const key of state.kv.keys())
    if (key === call.rest || (isPrefix && key.startsWith(call.rest))) state.kv.delete(key)
  return json(true)
}
