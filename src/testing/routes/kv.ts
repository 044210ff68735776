import { empty, HttpError, json, type Answer, type Call } from '../http.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'

/** The key-value store, as far as `examples/dynamic-upstreams` uses it: raw values by key, and deletion by prefix. */
export function keyValueRoutes(state: State): Routes {
  return {
    '/v1/kv/': {
      GET: (call) => read(call, state),
      PUT: (call) => {
        requireAccess(call, state)
        state.kv.set(call.rest, call.body)
        return json(true)
      },
      DELETE: (call) => {
        requireAccess(call, state)
        const isPrefix = call.query.has('recurse')
        for (const key of state.kv.keys())
          if (key === call.rest || (isPrefix && key.startsWith(call.rest))) state.kv.delete(key)
        return json(true)
      },
    },
  }
}

function read(call: Call, state: State): Answer {
  requireAccess(call, state)
  const body = state.kv.get(call.rest)
  if (!body) return empty(404)
  if (!call.query.has('raw')) throw new HttpError(400, 'the embedded agent reads keys with ?raw only')
  return { status: 200, headers: { 'Content-Type': 'text/plain' }, body }
}

function requireAccess(call: Call, state: State): void {
  state.acl.permissions(call.token).requireOther()
}
