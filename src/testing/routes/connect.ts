import type { ConnectCa, Leaf } from '../connect-ca.js'
import { parseDuration } from '../duration.js'
import { decode, empty, HttpError, json, type Answer, type Call } from '../http.js'
import { decidingIntention, describeIntention } from '../intentions.js'
import type { FieldReader, JsonObject } from '../json.js'
import { blockOnIndex, blockUntil, checkDatacenter, indexHeaders, seenIndex } from '../reads.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'

const hour = 3_600_000

/** Certificates and authorization. */
export function connectRoutes(state: State): Routes {
  return {
    '/v1/connect/ca/roots': { GET: (call) => roots(call, state) },
    '/v1/agent/connect/ca/roots': { GET: agentRoots(state) },
    '/v1/agent/connect/ca/leaf/': { GET: (call) => leaf(call, state) },
    '/v1/agent/connect/authorize': { POST: authorize(state) },
    '/v1/connect/ca/configuration': {
      GET: (call) => configuration(call, state),
      PUT: (call) => configure(call, state),
    },
  }
}

async function roots(call: Call, state: State): Promise<Answer> {
  checkDatacenter(call, state, indexHeaders(1, false))
  const connect = requireConnect(state, indexHeaders(1, false))
  await blockOnIndex(call, state.changes, () => connect.rootsIndex)
  if (call.query.get('pem') === 'true') {
    return {
      status: 200,
      headers: { 'Content-Type': 'application/pem-certificate-chain' },
      body: connect.rootsPem(),
    }
  }
  return json(connect.rootsJson(), indexHeaders(connect.rootsIndex, false))
}

/** Answers through the cache of the agent: HIT with its age, unless the request was a blocking one. */
function agentRoots(state: State): (call: Call) => Promise<Answer> {
  let cached: { index: number; at: number } | undefined
  return async (call) => {
    const seen = seenIndex(call)
    checkDatacenter(call, state)
    const connect = requireConnect(state)
    const waits = seen >= connect.rootsIndex
    await blockOnIndex(call, state.changes, () => connect.rootsIndex)
    const index = connect.rootsIndex
    const hit = !waits && cached?.index === index
    if (cached?.index !== index) cached = { index, at: Date.now() }
    return json(connect.rootsJson(), { ...indexHeaders(index, false), ...cacheHeaders(hit, cached.at) })
  }
}

async function leaf(call: Call, state: State): Promise<Answer> {
  const seen = seenIndex(call)
  checkDatacenter(call, state)
  const permissions = state.acl.permissions(call.token)
  const connect = requireConnect(state)
  const service = call.rest
  permissions.requireService(service, 'write', 'Permission denied')
  if (service === '') throw new HttpError(500, 'URI must be either service or agent')
  if (service.includes('/')) {
    const uri = `spiffe://${connect.trustDomain}/ns/default/dc/${state.datacenter}/svc/${service}`
    throw new HttpError(500, `SPIFFE ID is not in the expected format: ${uri}`)
  }
  const started = Date.now()
  let found: Leaf = seen > 0 ? connect.watchedLeaf(service) : connect.leaf(service)
  const waits = seen > 0 && found.index <= seen
  if (waits) {
    const isNew = (): boolean => {
      found = connect.watchedLeaf(service)
      return found.index > seen
    }
    await blockUntil(call, state.changes, isNew, () => found.renewAt)
  }
  const hit = !waits && found.issuedAt < started
  return json(connect.leafJson(found), {
    'X-Consul-Index': String(found.index),
    ...cacheHeaders(hit, found.issuedAt),
  })
}

/** Whether the owner of a certificate may connect to a service, by the intentions as they are. */
function authorize(state: State): (call: Call) => Answer {
  const cachedAt = new Map<string, number>()
  return (call) => {
    const permissions = state.acl.permissions(call.token)
    const request = decode(call, 400, 'Bad request: Request decode failed', (fields) => {
      const values = {
        target: fields.string('Target') ?? '',
        uri: fields.string('ClientCertURI') ?? '',
        namespace: fields.string('Namespace') ?? 'default',
      }
      fields.ignore('ClientCertSerial')
      fields.end()
      return values
    })
    if (request.target === '') throw new HttpError(400, 'Bad request: Target service must be specified')
    const source = parseServiceUri(request.uri)
    permissions.requireService(request.target, 'write', 'Permission denied')
    // It reads them with the caller's token.
    permissions.requireIntention(request.target, 'read')
    const destination = { namespace: request.namespace, name: request.target }
    const intention = decidingIntention(state.intentions.list(), source, destination)
    const byDefault = state.acl.enabled
      ? 'Default behavior configured by ACLs'
      : 'ACLs disabled, access is allowed by default'
    const at = cachedAt.get(request.target)
    if (at === undefined) cachedAt.set(request.target, Date.now())
    return json(
      {
        Authorized: (intention?.action ?? state.defaultPolicy) === 'allow',
        Reason: intention ? `Matched intention: ${describeIntention(intention)}` : byDefault,
      },
      cacheHeaders(at !== undefined, at ?? 0),
    )
  }
}

function configuration(call: Call, state: State): Answer {
  state.acl.permissions(call.token).requireOther()
  const connect = requireConnect(state)
  return json(connect.configurationJson())
}

/** As `consul connect ca set-config`: another private key is a rotation. */
function configure(call: Call, state: State): Answer {
  state.acl.permissions(call.token).requireOther()
  const connect = requireConnect(state)
  const { provider, config, crossSign } = decode(
    call,
    400,
    'Bad request: Request decode failed',
    readConfiguration,
  )
  if (provider !== 'consul') {
    throw new HttpError(500, `could not initialize provider: unknown CA provider ${JSON.stringify(provider)}`)
  }
  const ttl = config['LeafCertTTL']
  const leafTtlMs = typeof ttl === 'string' ? parseDuration(ttl) : 72 * hour
  if (leafTtlMs === undefined)
    throw new HttpError(500, `error configuring provider: invalid duration ${JSON.stringify(ttl)}`)
  if (leafTtlMs < hour) {
    throw new HttpError(500, 'error configuring provider: leaf cert TTL must be greater or equal than 1h0m0s')
  }
  const privateKeyPem = config['PrivateKey']
  connect.configure(config, leafTtlMs)
  if (
    typeof privateKeyPem === 'string' &&
    privateKeyPem !== '' &&
    privateKeyPem !== connect.ca.privateKeyPem
  ) {
    connect.rotate({ crossSign, privateKeyPem })
  }
  return empty()
}

function readConfiguration(fields: FieldReader): {
  provider: string
  config: JsonObject
  crossSign: boolean
} {
  const values = {
    provider: fields.string('Provider') ?? '',
    config: fields.object('Config') ?? {},
    crossSign: !(fields.boolean('ForceWithoutCrossSigning') ?? false),
  }
  fields.ignore('State', 'ClusterID', 'CreateIndex', 'ModifyIndex')
  fields.end()
  return values
}

function parseServiceUri(uri: string): { namespace: string; name: string } {
  const known = /^spiffe:\/\/[^/]+(?:\/ap\/[^/]+)?\/ns\/([^/]+)\/dc\/[^/]+\/svc\/([^/]+)$/.exec(uri)
  const [, namespace, name] = known ?? []
  if (namespace !== undefined && name !== undefined) {
    return { namespace: decodeURIComponent(namespace), name: decodeURIComponent(name) }
  }
  // A trust domain or an agent is a Connect identity too, but no service.
  const other = /^spiffe:\/\/[^/]+(?:\/agent\/client\/dc\/[^/]+\/id\/[^/]+)?$/.test(uri)
  throw new HttpError(
    400,
    `Bad request: ClientCertURI not a valid ${other ? 'Service' : 'Connect'} identifier`,
  )
}

function requireConnect(state: State, headers: Record<string, string> = {}): ConnectCa {
  if (state.connect) return state.connect
  throw new HttpError(500, 'Connect must be enabled in order to use this endpoint', headers)
}

function cacheHeaders(hit: boolean, since: number): Record<string, string> {
  if (!hit) return { 'X-Cache': 'MISS' }
  return { 'X-Cache': 'HIT', Age: String(Math.floor((Date.now() - since) / 1000)) }
}
