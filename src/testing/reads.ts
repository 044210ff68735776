import { createHash } from 'node:crypto'
import type { Changes } from './changes.js'
import { parseDuration } from './duration.js'
import { parseFilter } from './filter.js'
import { HttpError, json, type Answer, type Call } from './http.js'
import type { Json, JsonObject } from './json.js'
import type { State } from './state.js'

const DEFAULT_WAIT_MS = 300_000
const MAX_WAIT_MS = 600_000

/** Returns the index that the client has seen; 0 asks for an answer at once. */
export function seenIndex(call: Call): number {
  const index = call.query.get('index') ?? ''
  if (index !== '' && !/^\d+$/.test(index)) throw new HttpError(400, 'Invalid index')
  return Number(index)
}

function waitMs(call: Call): number {
  const wait = call.query.get('wait') ?? ''
  if (wait === '') return DEFAULT_WAIT_MS
  const ms = parseDuration(wait)
  if (ms === undefined) throw new HttpError(400, 'Invalid wait time')
  return ms <= 0 ? DEFAULT_WAIT_MS : Math.min(ms, MAX_WAIT_MS)
}

/**
 * Waits for a new answer, for the wait time of the request, or for the client to close the connection.
 *
 * @param dueAt - time of the next answer that comes without a change, in milliseconds since the epoch
 */
export async function blockUntil(
  call: Call,
  changes: Changes,
  isNew: () => boolean,
  dueAt: () => number = () => Infinity,
): Promise<void> {
  // Consul adds up to a sixteenth to spread the requests of many clients.
  const wait = waitMs(call)
  const deadline = Date.now() + wait + Math.random() * (wait / 16)
  while (!isNew() && Date.now() < deadline && !call.signal.aborted) {
    await call.blocked(changes.next(Math.min(deadline, dueAt()) - Date.now(), call.signal))
  }
}

/** Blocks if the client has seen the index; otherwise returns at once. */
export async function blockOnIndex(call: Call, changes: Changes, index: () => number): Promise<void> {
  const seen = seenIndex(call)
  // Consul rejects a malformed wait time without an index too.
  waitMs(call)
  if (seen > 0) await blockUntil(call, changes, () => index() > seen)
}

/**
 * Answers a read of the local agent, which blocks by hash.
 *
 * @param read - makes the answer, without a hash for the answer that is hashed; throws the error to answer with
 */
export async function hashed(
  call: Call,
  state: State,
  read: (contentHash?: string) => JsonObject,
): Promise<Answer> {
  // Consul validates the index although these endpoints ignore it.
  seenIndex(call)
  waitMs(call)
  const seen = call.query.get('hash') ?? ''
  let hash = hashOf(read())
  const isNew = (): boolean => {
    hash = hashOf(read())
    return hash !== seen
  }
  if (seen !== '') await blockUntil(call, state.changes, isNew)
  return json(read(hash), { 'X-Consul-ContentHash': hash })
}

function hashOf(body: JsonObject): string {
  return createHash('sha256').update(JSON.stringify(body)).digest('hex').slice(0, 16)
}

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
