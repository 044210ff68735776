import { blockOnIndex } from '../blocking.js'
import { parseFilter } from '../filter.js'
import type { Fields } from '../filter-fields.js'
import { HttpError, json, type Answer, type Call, type Handler } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import type { State } from '../state.js'

/** What takes a call and the state of the datacenter that it names. */
export type RemoteHandler = (call: Call, state: State) => Answer | Promise<Answer>

/** For endpoints that are not carried out in another datacenter, though it be known. */
export function checkDatacenter(call: Call, state: State, headers: Record<string, string> = {}): void {
  const datacenter = call.query.get('dc') ?? ''
  if (datacenter !== '' && !state.federation.datacenters().includes(datacenter))
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
export const errorHeaders: Record<string, string> = indexHeaders(1, false)

/** Carries a call out in the datacenter that it asks for. */
export function inDatacenter(
  state: State,
  handler: RemoteHandler,
  headers: Record<string, string> = errorHeaders,
): Handler {
  return async (call) => {
    const there = atDatacenter(state, call.query.get('dc') ?? '', headers)
    try {
      return await handler(withOwnNode(call, state), there)
    } catch (error) {
      if (there === state || !(error instanceof HttpError) || error.status === 400) throw error
      throw new HttpError(error.status, `rpc error making call: ${error.message}`, error.headers)
    }
  }
}

/** `near=_agent` means the agent that was asked, wherever the call is carried out. */
function withOwnNode(call: Call, state: State): Call {
  if (call.query.get('near') !== '_agent') return call
  const query = new URLSearchParams(call.query)
  query.set('near', state.catalog.own.name)
  return { ...call, query }
}

export function atDatacenter(state: State, datacenter: string, headers: Record<string, string> = {}): State {
  try {
    return state.federation.find(datacenter)
  } catch (error) {
    throw error instanceof HttpError ? new HttpError(error.status, error.message, headers) : error
  }
}

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
export function filtered(call: Call, items: JsonObject[], fields: Fields): JsonObject[] {
  const expression = call.query.get('filter') ?? ''
  return expression === '' ? items : items.filter(parseFilter(expression, fields))
}

/** Sorts by distance from the node that `near` names. */
export function sortedNear<T>(call: Call, state: State, items: T[], nodeOf: (item: T) => string): T[] {
  return state.coordinates.sort(call.query.get('near') ?? '', items, nodeOf)
}

/** The consistency a read was asked for, as Consul repeats it in a header. */
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
