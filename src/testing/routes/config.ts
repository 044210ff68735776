import { requirePermission } from '../state/acl.js'
import { readEntry } from '../state/chains.js'
import { decode, optional, string, struct } from '../http/decode.js'
import { json, type Answer, type Call } from '../http/http.js'
import { filtered, indexed, indexHeader } from '../http/reads.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

/** Serves config entries, and the discovery chains that Consul compiles from them. */
export const configRoutes: Routes = {
  '/v1/config': { PUT: put },
  '/v1/config/': { GET: list, DELETE: remove },
  '/v1/discovery-chain/': { GET: chain, POST: chain },
}

function put(call: Call, state: State): Answer {
  const entry = decode(call, readEntry)
  requirePermission(state.acl.permissions(call.token).service(entry.Name, 'write'))
  state.chains.put(entry)
  return json(true)
}

function list(call: Call, state: State): Promise<Answer> {
  const { chains, acl } = state
  return indexed(
    call,
    state,
    () => chains.index(call.rest),
    () =>
      filtered(
        call,
        chains.list(call.rest).filter(({ Name }) => acl.permissions(call.token).service(Name, 'read')),
      ),
  )
}

function remove(call: Call, state: State): Answer {
  const [kind = '', name = ''] = call.rest.split('/')
  requirePermission(state.acl.permissions(call.token).service(name, 'write'))
  state.chains.delete(kind, name)
  return json(true)
}

const readOverrides = struct({ OverrideProtocol: optional(string) }, [
  'OverrideMeshGateway',
  'OverrideConnectTimeout',
])

function chain(call: Call, state: State): Answer {
  requirePermission(state.acl.permissions(call.token).service(call.rest, 'read'))
  const { OverrideProtocol: protocol } = call.method === 'POST' ? decode(call, readOverrides) : {}
  const datacenter = call.query.get('compile-dc') ?? state.datacenter
  const trustDomain = state.connect?.trustDomain ?? ''
  return json(
    { Chain: state.chains.compile(call.rest, datacenter, { trustDomain, protocol }) },
    indexHeader(1),
  )
}
