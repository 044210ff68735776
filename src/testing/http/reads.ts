import { parseGoDuration } from '../../base/duration.js'
import { parseFilter } from '../state/filter.js'
import { HttpError, json, type Answer, type Call, type Json } from './http.js'
import type { State } from '../state/state.js'

const DEFAULT_WAIT_MS = 300_000
const MAX_WAIT_MS = 600_000

/** Returns the index that the client has seen; 0 if the request does not block. */
export function seenIndex(call: Call): number {
  const index = call.query.get('index') ?? ''
  if (index !== '' && !/^\d+$/.test(index)) throw new HttpError(400, 'Invalid index')
  return Number(index)
}

/** @throws HttpError for an invalid wait time, which Consul rejects even if the request does not block */
export function waitMs(call: Call): number {
  const wait = call.query.get('wait') ?? ''
  if (wait === '') return DEFAULT_WAIT_MS
  const ms = parseGoDuration(wait)
  if (ms === undefined) throw new HttpError(400, 'Invalid wait time')
  return ms <= 0 ? DEFAULT_WAIT_MS : Math.min(ms, MAX_WAIT_MS)
}

/**
 * Waits for a new answer, for the wait time of the request, or for the client to close the connection.
 * @param dueAt - when the answer changes without a change of the state, in milliseconds since the epoch
 */
export async function blockUntil(
  call: Call,
  state: State,
  isNew: () => boolean,
  dueAt: () => number = () => Infinity,
): Promise<void> {
  // Consul adds up to a sixteenth, which spreads the requests of many clients.
  const deadline = Date.now() + waitMs(call) * (1 + Math.random() / 16)
  while (!isNew() && Date.now() < deadline && !call.signal.aborted) {
    const timeoutMs = Math.min(deadline, dueAt()) - Date.now()
    await call.blocked(state.changes.next(call.signal, timeoutMs))
  }
}

/** Rejects a request to another datacenter: the embedded agent has one. */
export function checkDatacenter(call: Call, state: State): void {
  const datacenter = call.query.get('dc') ?? ''
  if (datacenter !== '' && datacenter !== state.datacenter) throw new HttpError(500, 'No path to datacenter')
}

export function indexHeader(index: number): Record<string, string> {
  return { 'X-Consul-Index': String(index) }
}

/**
 * Answers a read that blocks by an index. `read` runs before and after the wait: the first call rejects an invalid token or
 * filter at once.
 */
export async function indexed(
  call: Call,
  state: State,
  index: () => number,
  read: () => Json,
): Promise<Answer> {
  checkDatacenter(call, state)
  read()
  const seen = seenIndex(call)
  waitMs(call)
  if (seen > 0) await blockUntil(call, state, () => index() > seen)
  return json(read(), indexHeader(index()))
}

/** Returns the items that match the `filter` parameter. */
export function filtered<T extends Json>(call: Call, items: T[]): T[] {
  const expression = call.query.get('filter') ?? ''
  return expression === '' ? items : items.filter(parseFilter(expression))
}
