import { SpiffeId } from '../../identity/spiffe.js'
import { requirePermission } from '../state/acl.js'
import type { ConnectCa } from '../pki/connect-ca.js'
import { boolean, decode, object, string, struct } from '../http/decode.js'
import { parseGoDuration } from '../../base/duration.js'
import { empty, HttpError, json, type Answer, type Call } from '../http/http.js'
import { describeIntention } from '../state/intentions.js'
import { blockUntil, checkDatacenter, indexed, indexHeader, seenIndex } from '../http/reads.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

const HOUR_MS = 3_600_000

/** Serves certificates, the configuration of the CA, and authorization. */
export const connectRoutes: Routes = {
  '/v1/connect/ca/roots': { GET: roots },
  '/v1/connect/ca/configuration': { GET: configuration, PUT: configure },
  '/v1/agent/connect/ca/roots': { GET: roots },
  '/v1/agent/connect/ca/leaf/': { GET: leaf },
  '/v1/agent/connect/authorize': { POST: authorize },
}

function roots(call: Call, state: State): Promise<Answer> {
  const connect = requireConnect(state)
  return indexed(
    call,
    state,
    () => connect.rootsIndex,
    () => connect.rootsJson(),
  )
}

async function leaf(call: Call, state: State): Promise<Answer> {
  const seen = seenIndex(call)
  checkDatacenter(call, state)
  const permissions = state.acl.permissions(call.token)
  const connect = requireConnect(state)
  const service = call.rest
  requirePermission(permissions.service(service, 'write'))
  if (service === '' || service.includes('/'))
    throw new HttpError(500, `invalid service name: ${JSON.stringify(service)}`)
  if (seen > 0) {
    const isNew = (): boolean => connect.watchedLeaf(service).index > seen
    await blockUntil(call, state, isNew, () => connect.leaf(service).renewAt)
  }
  const found = seen > 0 ? connect.watchedLeaf(service) : connect.leaf(service)
  return json(connect.leafJson(found), indexHeader(found.index))
}

const readAuthorization = struct({ Target: string, ClientCertURI: string }, ['ClientCertSerial', 'Namespace'])

/** Decides by the intentions whether the owner of a certificate may connect to a service. */
function authorize(call: Call, state: State): Answer {
  const permissions = state.acl.permissions(call.token)
  const { Target: name, ClientCertURI: uri } = decode(call, readAuthorization)
  if (name === '') throw new HttpError(400, 'Bad request: Target service must be specified')
  const { namespace, service } = parseServiceUri(uri)
  requirePermission(permissions.service(name, 'write'))
  // The agent reads the intentions with the token of the caller.
  requirePermission(permissions.intention(name, 'read'))
  // There are intentions for the default namespace only.
  const intention = namespace === 'default' ? state.intentions.deciding(service, name) : undefined
  const defaultReason = state.acl.enabled
    ? 'Default behavior configured by ACLs'
    : 'ACLs disabled, access is allowed by default'
  return json({
    Authorized: (intention?.Action ?? state.defaultPolicy) === 'allow',
    Reason: intention ? `Matched intention: ${describeIntention(intention)}` : defaultReason,
  })
}

function configuration(call: Call, state: State): Answer {
  requirePermission(state.acl.permissions(call.token).other)
  return json(requireConnect(state).configurationJson())
}

const readConfiguration = struct({ Provider: string, Config: object, ForceWithoutCrossSigning: boolean }, [
  'State',
  'ClusterID',
  'CreateIndex',
  'ModifyIndex',
])

/** Sets the configuration, as `consul connect ca set-config` does. A new private key rotates the root. */
function configure(call: Call, state: State): Answer {
  requirePermission(state.acl.permissions(call.token).other)
  const connect = requireConnect(state)
  const { Provider, Config, ForceWithoutCrossSigning } = decode(call, readConfiguration)
  if (Provider !== 'consul')
    throw new HttpError(500, `could not initialize provider: unknown CA provider ${JSON.stringify(Provider)}`)
  const { LeafCertTTL: ttl, PrivateKey: privateKeyPem } = Config
  connect.configure(Config, typeof ttl === 'string' ? parseLeafTtl(ttl) : 72 * HOUR_MS)
  const isNewKey = privateKeyPem !== '' && privateKeyPem !== connect.ca.privateKeyPem
  if (typeof privateKeyPem === 'string' && isNewKey)
    connect.rotate({ crossSign: !ForceWithoutCrossSigning, privateKeyPem })
  return empty()
}

function parseLeafTtl(ttl: string): number {
  const ms = parseGoDuration(ttl) ?? 0
  if (ms >= HOUR_MS) return ms
  throw new HttpError(500, 'error configuring provider: leaf cert TTL must be greater or equal than 1h0m0s')
}

function parseServiceUri(uri: string): { namespace: string; service: string } {
  let kind = 'Connect'
  try {
    const { parts } = SpiffeId.parse(uri)
    if (parts.kind === 'service') return parts
    kind = 'Service'
  } catch {
    // Not an identity of Connect.
  }
  throw new HttpError(400, `Bad request: ClientCertURI not a valid ${kind} identifier`)
}

function requireConnect(state: State): ConnectCa {
  if (state.connect) return state.connect
  throw new HttpError(500, 'Connect must be enabled in order to use this endpoint')
}
