import { blockOnIndex } from '../blocking.js'
import { parseFilter } from '../filter.js'
import { HttpError, json, type Answer, type Call } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import type { State } from '../state.js'

/** Throws Consul's error for a request to another datacenter: the embedded agent has one. */
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

/** Headers of an error that comes from Consul's servers. */
export const errorHeaders: Record<string, string> = indexHeaders(1, false)

/**
 * Answers a read that Consul's servers answer: waits for a change if the client has seen the index, then answers with the
 * index headers. `read` runs before and after the wait: the first call rejects a bad token or filter at once.
 */
export async function indexed(
  call: Call,
  state: State,
  source: { index: () => number; read: () => Json; headers?: Record<string, string> },
): Promise<Answer> {
  try {
    checkDatacenter(call, state)
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

/** Returns the items that match the `filter` parameter. */
export function filtered(call: Call, items: JsonObject[]): JsonObject[] {
  const expression = call.query.get('filter') ?? ''
  return expression === '' ? items : items.filter(parseFilter(expression))
}

/** The header in which Consul repeats the consistency that a read asked for. */
export function consistencyHeader(call: Call): Record<string, string> {
  return { 'X-Consul-Effective-Consistency': consistency(call) }
}

export function consistency(call: Call): string {
  const stale = call.query.has('stale')
  const consistent = call.query.has('consistent')
  if (stale && consistent) {
    throw new HttpError(400, 'Cannot specify ?stale with ?consistent, conflicting semantics.')
  }
  return stale ? 'stale' : consistent ? 'consistent' : 'leader'
}
