import { identityRules, requirePermission, tokenJson, type Token } from '../state/acl.js'
import { boolean, decode, list, optional, string, struct, type Reader } from '../http/decode.js'
import { HttpError, json, type Answer, type Call } from '../http/http.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

/** Serves tokens with service identities, or with the policy `global-management`. */
export const aclRoutes: Routes = {
  '/v1/acl/token': { PUT: createToken },
  '/v1/acl/tokens': { GET: listTokens },
  '/v1/acl/token/self': { GET: readOwnToken },
  '/v1/acl/token/': { DELETE: deleteToken },
}

function createToken(call: Call, state: State): Answer {
  requireManagement(call, state)
  return json(tokenJson(state.acl.create(decode(call, readToken))))
}

function listTokens(call: Call, state: State): Answer {
  requireManagement(call, state)
  return json(state.acl.tokens().map((token) => ({ ...tokenJson(token), SecretID: undefined })))
}

function readOwnToken(call: Call, state: State): Answer {
  requireEnabled(state)
  const token = state.acl.tokens().find(({ SecretID }) => SecretID === call.token)
  if (!token) throw new HttpError(403, 'ACL not found')
  return json(tokenJson(token))
}

function deleteToken(call: Call, state: State): Answer {
  requireManagement(call, state)
  state.acl.delete(call.rest)
  return json(true)
}

const readFields = struct({
  AccessorID: optional(string),
  SecretID: optional(string),
  Description: string,
  Local: boolean,
  ServiceIdentities: list(struct({ ServiceName: string }, ['Datacenters'])),
  Policies: list(struct({ Name: string }, ['ID'])),
})

const readToken: Reader<Partial<Token>> = (value, field) => {
  const { ServiceIdentities, Policies, AccessorID, SecretID, ...token } = readFields(value, field)
  const identities = ServiceIdentities.map(({ ServiceName }) => ServiceName)
  const unknown = Policies.find(({ Name }) => Name !== 'global-management')
  if (unknown) throw new HttpError(500, `No such ACL policy with name ${JSON.stringify(unknown.Name)}`)
  return {
    ...token,
    ...(AccessorID !== undefined && { AccessorID }),
    ...(SecretID !== undefined && { SecretID }),
    identities,
    rules: { ...identityRules(identities), management: Policies.length > 0 },
  }
}

function requireManagement(call: Call, state: State): void {
  requireEnabled(state)
  requirePermission(state.acl.permissions(call.token).management)
}

function requireEnabled(state: State): void {
  if (!state.acl.enabled) throw new HttpError(401, 'ACL support disabled')
}
