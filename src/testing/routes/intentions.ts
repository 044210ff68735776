import { requirePermission } from '../state/acl.js'
import { decode, mapOf, optional, string, struct } from '../http/decode.js'
import { HttpError, json, type Answer, type Call, type Json } from '../http/http.js'
import { describeIntention, type Intention, type IntentionRule } from '../state/intentions.js'
import { filtered, indexed } from '../http/reads.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

export const intentionRoutes: Routes = {
  '/v1/connect/intentions': { GET: list, POST: create },
  '/v1/connect/intentions/match': { GET: match },
  '/v1/connect/intentions/check': { GET: check },
  '/v1/connect/intentions/': { PUT: update, DELETE: remove },
}

/** Lists the intentions that the token may read, as source or as destination. */
function list(call: Call, state: State): Promise<Answer> {
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    const isReadable = (name: string): boolean => permissions.intention(name, 'read')
    const readable = state.intentions
      .list()
      .filter(({ SourceName, DestinationName }) => isReadable(SourceName) || isReadable(DestinationName))
    return filtered(call, readable)
  }
  return indexed(call, state, () => state.intentions.index, read)
}

async function match(call: Call, state: State): Promise<Answer> {
  if (call.query.get('by') !== 'destination')
    throw new HttpError(500, "by: expected 'destination'; the embedded agent supports no other value")
  const { intentions } = state
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    const found = call.query.getAll('name').map((name): [string, Json] => {
      requirePermission(permissions.intention(name, 'read'))
      const matching = intentions.match(name)
      return [name, matching.length > 0 ? matching : null]
    })
    return Object.fromEntries(found)
  }
  const answer = await indexed(call, state, () => intentions.index, read)
  // Consul 1.8 blocks on an index here, but does not return one.
  return state.version === '1.8' ? { ...answer, headers: {} } : answer
}

/** For `consul intention check`. */
function check({ query, token }: Call, state: State): Answer {
  const destination = query.get('destination') ?? ''
  requirePermission(state.acl.permissions(token).intention(destination, 'read'))
  const intention = state.intentions.deciding(query.get('source') ?? '', destination)
  return json({ Allowed: (intention?.Action ?? state.defaultPolicy) === 'allow' })
}

function create(call: Call, state: State): Answer {
  const rule = readRule(call, state)
  requireUnique(state, rule)
  return json({ ID: state.intentions.put(rule).ID })
}

function update(call: Call, state: State): Answer {
  const rule = readRule(call, state)
  const old = existing(call, state, 'modify')
  requireUnique(state, rule, old.ID)
  return json({ ID: state.intentions.put(rule, old.ID).ID })
}

function remove(call: Call, state: State): Answer {
  state.intentions.delete(existing(call, state, 'delete').ID)
  return json(true)
}

const readFields = struct(
  {
    SourceNS: optional(string),
    SourceName: string,
    SourceType: optional(string),
    DestinationNS: optional(string),
    DestinationName: string,
    Action: string,
    Description: string,
    Meta: mapOf(string),
  },
  // Clients send an intention back as they read it.
  [
    ...['ID', 'DefaultAddr', 'DefaultPort', 'Precedence', 'Hash'],
    ...['CreatedAt', 'UpdatedAt', 'CreateIndex', 'ModifyIndex'],
  ],
)

/** Reads an intention that the token may write. */
function readRule(call: Call, state: State): IntentionRule {
  const fields = decode(call, readFields)
  const { SourceNS, DestinationNS, SourceType = 'consul', ...rule } = fields
  // The command line of Consul sends empty namespaces.
  if ((SourceNS || 'default') !== 'default' || (DestinationNS || 'default') !== 'default')
    throw new HttpError(500, 'namespace: the embedded agent supports default only')
  const { SourceName, DestinationName, Action } = rule
  if (SourceName === '') throw new HttpError(500, 'SourceName must be set')
  if (DestinationName === '') throw new HttpError(500, 'DestinationName must be set')
  if (SourceType !== 'consul') throw new HttpError(500, "SourceType must be set to 'consul'")
  if (Action !== 'allow' && Action !== 'deny')
    throw new HttpError(500, "Action must be set to 'allow' or 'deny'")
  requirePermission(state.acl.permissions(call.token).intention(DestinationName, 'write'))
  return { ...rule, Action }
}

function requireUnique(state: State, rule: IntentionRule, ownId?: string): void {
  const same = state.intentions.exact(rule)
  if (same && same.ID !== ownId)
    throw new HttpError(500, `duplicate intention found: ${describeIntention(same)}`)
}

/** Finds the intention that the path names, which the token must be allowed to write. */
function existing(call: Call, state: State, verb: 'modify' | 'delete'): Intention {
  const intention = state.intentions.get(call.rest)
  if (!intention) throw new HttpError(500, `Cannot ${verb} non-existent intention: '${call.rest}'`)
  requirePermission(state.acl.permissions(call.token).intention(intention.DestinationName, 'write'))
  return intention
}
