import { blockOnIndex } from '../blocking.js'
import { parseFilter } from '../filter.js'
import { HttpError, json, type Answer, type Call } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import type { State } from '../state.js'

/** There is one datacenter and nothing beyond it. */
export function checkDatacenter(call: Call, state: State, headers: Record<string, string> = {}): void {
  const datacenter = call.query.get('dc') ?? ''
  if (datacenter !== '' && datacenter !== state.datacenter)
    throw new HttpError(500, 'No path to datacenter', headers)
}

export function indexHeaders(index: number, knownLeader = true): Record<string, string> {
  return {
    'X-Consul-Index': String(index),
    'X-Consul-KnownLeader': String(knownLeader),
    'X-Consul-LastContact': '0',
  }
}

/** Consul sends these with an error that came from its servers. */
const errorHeaders = indexHeaders(1, false)

/**
 * A read that Consul's servers answer: waits for news when the client has seen the index, then answers with the
 * index headers. `read` runs for each answer, so that it sees what the wait was for.
 */
export async function indexed(
  call: Call,
  state: State,
  source: { index: () => number; read: () => Json; headers?: Record<string, string> },
): Promise<Answer> {
  try {
    checkDatacenter(call, state)
    // Refuses a bad token or a bad filter before it waits.
    source.read()
    await blockOnIndex(call, state.changes, source.index)
    return json(source.read(), { ...indexHeaders(source.index()), ...source.headers })
  } catch (error) {
    if (error instanceof HttpError && error.status !== 400) {
      throw new HttpError(error.status, error.message, { ...errorHeaders, ...error.headers })
    }
    throw error
  }
}

/** Keeps those that the `filter` parameter asks for. */
export function filtered(call: Call, items: JsonObject[]): JsonObject[] {
  const expression = call.query.get('filter') ?? ''
  return expression === '' ? items : items.filter(parseFilter(expression))
}

/** The consistency a read was asked for, as Consul repeats it in a header. */
export function consistencyHeader(call: Call): Record<string, string> {
  const stale = call.query.has('stale')
  const consistent = call.query.has('consistent')
  if (stale && consistent) {
    throw new HttpError(400, 'Cannot specify ?stale with ?consistent, conflicting semantics.')
  }
  return { 'X-Consul-Effective-Consistency': stale ? 'stale' : consistent ? 'consistent' : 'leader' }
}
