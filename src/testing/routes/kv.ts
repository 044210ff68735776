import { blockOnIndex } from '../blocking.js'
import { HttpError, json, type Answer, type Call } from '../http.js'
import { entryJson, type Entry } from '../kv.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'
import { indexHeaders } from './indexed.js'

const maxValueBytes = 512 * 1024

export function keyValueRoutes(state: State): Routes {
  return {
    '/v1/kv/': {
      GET: (call) => read(call, state),
      PUT: (call) => write(call, state),
      DELETE: (call) => remove(call, state),
    },
  }
}

async function read(call: Call, state: State): Promise<Answer> {
  const prefix = call.query.has('recurse') || call.query.has('keys')
  requireAccess(call, state, prefix)
  const find = (): Entry[] => {
    const entry = state.kv.get(call.rest)
    return prefix ? state.kv.under(call.rest) : entry ? [entry] : []
  }
  // What is absent has no index of its own, nor has a prefix.
  const index = (): number => (prefix ? undefined : find()[0]?.modifyIndex) ?? state.changes.modified('kv')
  await blockOnIndex(call, state.changes, index)
  const entries = find()
  const headers = indexHeaders(index())
  const [first] = entries
  if (!first) return { status: 404, headers }
  if (call.query.has('raw')) {
    return { status: 200, headers: { ...headers, 'Content-Type': 'text/plain' }, body: first.value }
  }
  return json(call.query.has('keys') ? entries.map(({ key }) => key) : entries.map(entryJson), headers)
}

function write(call: Call, state: State): Answer {
  requireAccess(call, state, false)
  if (call.body.length > maxValueBytes) {
    throw new HttpError(
      413,
      `Request body(${call.body.length} bytes) too large, max size: ${maxValueBytes} bytes. ` +
        'See https://www.consul.io/docs/agent/options.html#kv_max_value_size.',
    )
  }
  if (!isCurrent(call, state)) return json(false)
  state.kv.put(call.rest, call.body, Number(call.query.get('flags') ?? 0))
  return json(true)
}

function remove(call: Call, state: State): Answer {
  requireAccess(call, state, call.query.has('recurse'))
  if (!isCurrent(call, state)) return json(false)
  state.kv.delete(call.query.has('recurse') ? state.kv.under(call.rest).map(({ key }) => key) : [call.rest])
  return json(true)
}

/** `?cas=` lets a write through only if nobody else wrote since; 0 means the key must be new. */
function isCurrent(call: Call, state: State): boolean {
  const cas = call.query.get('cas')
  return cas === null || Number(cas) === (state.kv.get(call.rest)?.modifyIndex ?? 0)
}

function requireAccess(call: Call, state: State, emptyKey: boolean): void {
  if (call.rest === '' && !emptyKey) throw new HttpError(400, 'Missing key name')
  state.acl.permissions(call.token).requireOther()
}
