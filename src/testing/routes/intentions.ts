import { decode, HttpError, json, multiError, type Answer, type Call } from '../http.js'
import {
  decidingIntention,
  describeIntention,
  intentionJson,
  matchIntentions,
  type Intention,
  type IntentionRule,
  type ServiceName,
} from '../intentions.js'
import type { FieldReader, Json } from '../json.js'
import { blockOnIndex, checkDatacenter, filtered, indexed, indexHeaders } from '../reads.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'

export function intentionRoutes(state: State): Routes {
  return {
    '/v1/connect/intentions': { GET: (call) => list(call, state), POST: (call) => create(call, state) },
    '/v1/connect/intentions/match': { GET: (call) => match(call, state) },
    '/v1/connect/intentions/check': { GET: (call) => check(call, state) },
    '/v1/connect/intentions/': {
      GET: (call) => read(call, state),
      PUT: (call) => update(call, state),
      DELETE: (call) => remove(call, state),
    },
  }
}

function list(call: Call, state: State): Promise<Answer> {
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    const visible = state.intentions
      .list()
      .filter(({ sourceName, destinationName }) =>
        [sourceName, destinationName].some((name) => permissions.intention(name, 'read')),
      )
    return filtered(call, visible.map(intentionJson))
  }
  return indexed(call, state, { index: () => state.changes.modified('intentions'), read })
}

async function match(call: Call, state: State): Promise<Answer> {
  const by = requireParameter(call, 'by')
  if (by !== 'source' && by !== 'destination') {
    throw new HttpError(500, "'by' parameter must be one of 'source' or 'destination'")
  }
  requireParameter(call, 'name')
  const services = call.query.getAll('name').map(parseName)
  const permissions = state.acl.permissions(call.token)
  for (const { name } of services) permissions.requireIntention(name, 'read')
  checkDatacenter(call, state)
  const index = (): number => state.changes.modified('intentions')
  await blockOnIndex(call, state.changes, index)
  const found = services.map((service): [string, Json] => {
    const matching = matchIntentions(state.intentions.list(), by, service).map(intentionJson)
    return [service.name, matching.length > 0 ? matching : null]
  })
  // 1.8 blocks on an index here, but never says one.
  return json(Object.fromEntries(found), state.version === '1.8' ? {} : indexHeaders(index()))
}

function check(call: Call, state: State): Answer {
  const source = parseName(requireParameter(call, 'source'))
  const destination = parseName(requireParameter(call, 'destination'))
  const type = call.query.get('source-type') ?? 'consul'
  if (type !== 'consul') throw new HttpError(500, `unsupported SourceType: ${JSON.stringify(type)}`)
  state.acl.permissions(call.token).requireIntention(destination.name, 'read')
  const intention = decidingIntention(state.intentions.list(), source, destination)
  return json({ Allowed: (intention?.action ?? state.defaultPolicy) === 'allow' })
}

function read(call: Call, state: State): Answer {
  const intention = byId(call, state, 400, 'Bad request')
  const permissions = state.acl.permissions(call.token)
  const names = [intention.sourceName, intention.destinationName]
  if (!names.some((name) => permissions.intention(name, 'read')))
    throw new HttpError(403, 'Permission denied')
  return json(intentionJson(intention))
}

function create(call: Call, state: State): Answer {
  const rule = decode(call, 500, 'Failed to decode request body', readRule)
  state.acl.permissions(call.token).requireIntention(rule.destinationName, 'write')
  requireUnique(state, rule)
  return json({ ID: state.intentions.put(rule).id })
}

function update(call: Call, state: State): Answer {
  const rule = decode(call, 500, 'Failed to decode request body', readRule)
  const permissions = state.acl.permissions(call.token)
  permissions.requireIntention(rule.destinationName, 'write')
  const old = byId(call, state, 500, 'Intention lookup failed', 'modify')
  permissions.requireIntention(old.destinationName, 'write')
  requireUnique(state, rule, old.id)
  return json({ ID: state.intentions.put(rule, old.id).id })
}

function remove(call: Call, state: State): Answer {
  const intention = byId(call, state, 500, 'Intention lookup failed', 'delete')
  state.acl.permissions(call.token).requireIntention(intention.destinationName, 'write')
  state.intentions.delete(intention.id)
  return json(true)
}

function readRule(fields: FieldReader): IntentionRule {
  const action = fields.string('Action') ?? ''
  const sourceType = fields.string('SourceType') ?? 'consul'
  const rule = {
    sourceNs: fields.string('SourceNS') ?? 'default',
    sourceName: fields.string('SourceName') ?? '',
    destinationNs: fields.string('DestinationNS') ?? 'default',
    destinationName: fields.string('DestinationName') ?? '',
    description: fields.string('Description') ?? '',
    meta: fields.stringMap('Meta'),
  }
  fields.ignore('ID', 'DefaultAddr', 'DefaultPort', 'Precedence', 'CreatedAt', 'UpdatedAt', 'Hash')
  fields.ignore('CreateIndex', 'ModifyIndex')
  fields.end()
  const problems: string[] = []
  if (rule.sourceName === '') problems.push('SourceName must be set')
  if (rule.destinationName === '') problems.push('DestinationName must be set')
  for (const [field, value] of [
    ['SourceNS', rule.sourceNs],
    ['SourceName', rule.sourceName],
    ['DestinationNS', rule.destinationNs],
    ['DestinationName', rule.destinationName],
  ] as const) {
    if (value !== '*' && value.includes('*'))
      problems.push(`${field}: wildcard character '*' cannot be used with partial values`)
  }
  const isAction = action === 'allow' || action === 'deny'
  if (!isAction) problems.push("Action must be set to 'allow' or 'deny'")
  if (sourceType !== 'consul') problems.push("SourceType must be set to 'consul'")
  if (!isAction || problems.length > 0) throw multiError(500, problems)
  return { ...rule, action }
}

function requireUnique(state: State, rule: IntentionRule, ownId?: string): void {
  const source = { namespace: rule.sourceNs, name: rule.sourceName }
  const destination = { namespace: rule.destinationNs, name: rule.destinationName }
  const same = state.intentions.exact(source, destination)
  if (same && same.id !== ownId)
    throw new HttpError(500, `duplicate intention found: ${describeIntention(same)}`)
}

function byId(
  call: Call,
  state: State,
  badIdStatus: number,
  prefix: string,
  verb?: 'modify' | 'delete',
): Intention {
  if (call.rest.length !== 36) {
    const reason = 'failed intention lookup: index error: UUID must be 36 characters'
    throw new HttpError(badIdStatus, `${prefix}: ${reason}`)
  }
  const intention = state.intentions.get(call.rest)
  if (intention) return intention
  if (verb === undefined) throw new HttpError(404, 'Intention not found')
  throw new HttpError(500, `Cannot ${verb} non-existent intention: '${call.rest}'`)
}

function requireParameter(call: Call, name: string): string {
  const value = call.query.get(name) ?? ''
  if (value === '') throw new HttpError(500, `required query parameter '${name}' not set`)
  return value
}

/** `name` or `namespace/name`. */
function parseName(value: string): ServiceName {
  const [first = '', second] = value.split('/')
  return second === undefined ? { namespace: 'default', name: first } : { namespace: first, name: second }
}
