import { createHash } from 'node:crypto'
import { blockUntil, seenIndex, waitMs } from '../blocking.js'
import { json, type Answer, type Call } from '../http.js'
import type { JsonObject } from '../json.js'
import type { State } from '../state.js'

/**
 * A read of what this agent alone knows. It blocks by hash: an index says nothing about a single service. `read` runs
 * for each answer, without a hash for the one that the hash is made of, and throws what to answer in its place.
 */
export async function hashed(
  call: Call,
  state: State,
  read: (contentHash?: string) => JsonObject,
): Promise<Answer> {
  // A malformed one is refused, though an index has no meaning here.
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
