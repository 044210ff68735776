import { identityRules, tokenJson, type Token } from '../acl.js'
import { decode, HttpError, json, type Answer, type Call } from '../http.js'
import { FieldReader, isObject, type Json } from '../json.js'
import { errorHeaders, indexHeaders } from '../reads.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'

const UUID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i

/** Tokens with service identities or the policy `global-management`. */
export function aclRoutes(state: State): Routes {
  return {
    '/v1/acl/token': { PUT: (call) => create(call, state) },
    '/v1/acl/tokens': { GET: (call) => list(call, state) },
    '/v1/acl/token/self': { GET: (call) => read(state, ({ secretId }) => secretId === call.token) },
    '/v1/acl/token/': {
      GET: (call) => {
        requireManagement(call, state)
        if (!UUID.test(call.rest)) {
          const reason = 'failed acl token lookup: index error: UUID must be 36 characters'
          throw new HttpError(500, reason, errorHeaders)
        }
        return read(state, ({ accessorId }) => accessorId === call.rest)
      },
      DELETE: (call) => remove(call, state),
    },
  }
}

function create(call: Call, state: State): Answer {
  requireManagement(call, state)
  const token = decode(call, 400, 'Bad request: Token decoding failed', readToken)
  return json(tokenJson(state.acl.create(token)))
}

function list(call: Call, state: State): Answer {
  requireManagement(call, state, errorHeaders)
  const tokens = state.acl.tokens().map((token) => tokenJson(token, false))
  return json(tokens, indexHeaders(state.changes.modified('acl')))
}

function read(state: State, isWanted: (token: Token) => boolean): Answer {
  requireEnabled(state)
  const headers = indexHeaders(state.changes.modified('acl'))
  const token = state.acl.tokens().find(isWanted)
  if (!token) throw new HttpError(403, 'ACL not found', headers)
  return json(tokenJson(token), headers)
}

function remove(call: Call, state: State): Answer {
  requireManagement(call, state)
  if (!UUID.test(call.rest)) throw new HttpError(500, 'Accessor ID is missing or an invalid UUID')
  state.acl.delete(call.rest)
  return json(true)
}

function readToken(fields: FieldReader): Partial<Token> {
  const serviceIdentities = fields.list('ServiceIdentities').map(readIdentity)
  const policies = fields.list('Policies').map(policyName)
  const accessorId = fields.string('AccessorID')
  const secretId = fields.string('SecretID')
  const token = {
    description: fields.string('Description') ?? '',
    local: fields.boolean('Local') ?? false,
    serviceIdentities,
    rules: { ...identityRules(serviceIdentities), management: policies.length > 0 },
    ...(accessorId !== undefined && { accessorId }),
    ...(secretId !== undefined && { secretId }),
  }
  fields.end()
  return token
}

function readIdentity(identity: Json): string {
  const fields = new FieldReader(identity)
  const name = fields.string('ServiceName') ?? ''
  fields.ignore('Datacenters')
  fields.end()
  if (name === '')
    throw new HttpError(500, 'Service identity is missing the service name field on this token')
  if (/^[a-z0-9]([a-z0-9\-_]*[a-z0-9])?$/.test(name)) return name
  const rule = "Only alphanumeric characters, '-' and '_' are allowed"
  throw new HttpError(500, `Service identity ${JSON.stringify(name)} has an invalid name. ${rule}`)
}

function policyName(policy: Json): string {
  const { Name: name } = isObject(policy) ? policy : {}
  if (name === 'global-management') return name
  throw new HttpError(500, `No such ACL policy with name ${JSON.stringify(name ?? '')}`)
}

function requireManagement(call: Call, state: State, headers: Record<string, string> = {}): void {
  requireEnabled(state)
  try {
    if (state.acl.permissions(call.token).management) return
  } catch (error) {
    throw error instanceof HttpError ? new HttpError(error.status, error.message, headers) : error
  }
  throw new HttpError(403, 'Permission denied', headers)
}

function requireEnabled(state: State): void {
  if (!state.acl.enabled) throw new HttpError(401, 'ACL support disabled')
}
