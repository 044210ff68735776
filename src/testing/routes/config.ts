import { requirePermission } from '../state/acl.js'
import { readEntry } from '../state/chains.js'
import { decode, optional, string, struct } from '../http/decode.js'
import { HttpError, json, type Answer, type Call } from '../http/http.js'
import { filtered, indexed } from '../http/reads.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

/** Serves config entries, and the discovery chains that Consul compiles from them. */
export const configRoutes: Routes = {
  '/v1/config': { PUT: put },
  '/v1/config/': { GET: read, DELETE: remove },
  '/v1/discovery-chain/': { GET: chain, POST: chain },
}

function put(call: Call, state: State): Answer {
  const entry = decode(call, readEntry)
  requirePermission(state.acl.permissions(call.token).service(entry.Name, 'write'))
  state.chains.put(entry)
  return json(true)
}

/** Reads an entry, or all entries of a kind that the token may read. */
function read(call: Call, state: State): Promise<Answer> {
  const [kind = '', name] = call.rest.split('/')
  const find = () => {
    const permissions = state.acl.permissions(call.token)
    const entries = state.chains.list(kind)
    if (name === undefined)
      return filtered(
        call,
        // Everybody may read the entry of the mesh.
        entries.filter(({ Name }) => kind === 'mesh' || permissions.service(Name, 'read')),
      )
    requirePermission(permissions.service(name, 'read'))
    const entry = entries.find(({ Name }) => Name === name)
    if (!entry) throw new HttpError(404, `Config entry not found for "${kind}" / "${name}"`)
    return entry
  }
  return indexed(call, state, () => state.chains.index(kind), find)
}

function remove(call: Call, state: State): Answer {
  const [kind = '', name = ''] = call.rest.split('/')
  requirePermission(state.acl.permissions(call.token).service(name, 'write'))
  state.chains.delete(kind, name)
  return json({})
}

const readOverrides = struct({ OverrideProtocol: optional(string) }, [
  'OverrideMeshGateway',
  'OverrideConnectTimeout',
])

function chain(call: Call, state: State): Promise<Answer> {
  const { rest: service, query } = call
  if (service === '') throw new HttpError(400, 'Bad request: Missing chain name')
  const { OverrideProtocol: protocol } = call.method === 'POST' ? decode(call, readOverrides) : {}
  const datacenter = query.get('compile-dc') ?? state.datacenter
  const compile = () => {
    requirePermission(state.acl.permissions(call.token).service(service, 'read'))
    return { Chain: state.chains.compile(service, { datacenter, protocol }) }
  }
  return indexed(call, state, () => state.chains.index(), compile)
}
