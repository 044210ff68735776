import { readOwnCheck } from '../check-definition.js'
import { isCheckStatus, type Check, type CheckStatus } from '../checks.js'
import { decode, empty, HttpError, json, type Answer, type Call, type Handler } from '../http.js'
import { byKey } from '../json.js'
import { filtered, hashed } from '../reads.js'
import type { Routes } from '../router.js'
import { agentServiceJson, readRegistration } from '../service.js'
import type { State } from '../state.js'

const fullVersions = { '1.8': '1.8.7', '1.15': '1.15.0' }

export function agentRoutes(state: State): Routes {
  return {
    '/v1/agent/self': { GET: (call) => self(call, state) },
    '/v1/agent/services': { GET: (call) => services(call, state) },
    '/v1/agent/service/': { GET: (call) => service(call, state) },
    '/v1/agent/service/register': { PUT: (call) => register(call, state) },
    '/v1/agent/service/deregister/': { PUT: (call) => deregister(call, state) },
    '/v1/agent/checks': { GET: (call) => checks(call, state) },
    '/v1/agent/check/register': { PUT: (call) => registerCheck(call, state) },
    '/v1/agent/check/deregister/': { PUT: (call) => deregisterCheck(call, state) },
    '/v1/agent/check/pass/': { PUT: heartbeat(state, 'passing') },
    '/v1/agent/check/warn/': { PUT: heartbeat(state, 'warning') },
    '/v1/agent/check/fail/': { PUT: heartbeat(state, 'critical') },
    '/v1/agent/check/update/': { PUT: (call) => updateCheck(call, state) },
    '/v1/status/leader': { GET: () => json(`${state.catalog.address}:8300`) },
    '/v1/status/peers': { GET: () => json([`${state.catalog.address}:8300`]) },
  }
}

function self(call: Call, state: State): Answer {
  state.acl.permissions(call.token).requireOther()
  const { nodeName: name, nodeId: id, address } = state.catalog
  const version = fullVersions[state.version]
  return json({
    Config: {
      Datacenter: state.datacenter,
      NodeName: name,
      NodeID: id,
      Revision: '',
      Server: true,
      Version: version,
    },
    DebugConfig: { BindAddr: address, ConnectEnabled: state.connect !== undefined },
    Member: { Name: name, Addr: address },
    Meta: { 'consul-network-segment': '' },
  })
}

function services(call: Call, state: State): Answer {
  const permissions = state.acl.permissions(call.token)
  const found = state.catalog
    .instances()
    .filter((instance) => permissions.service(instance.service.name, 'read'))
    .map((instance) => agentServiceJson(instance.service))
  return json(byKey(filtered(call, found), 'ID'))
}

function service(call: Call, state: State): Promise<Answer> {
  return hashed(call, state, (contentHash) => {
    const permissions = state.acl.permissions(call.token)
    const instance = state.catalog.instance(call.rest)
    if (!instance) throw new HttpError(404, `unknown service ID: ${call.rest}`)
    permissions.requireService(instance.service.name, 'read', 'Permission denied')
    return agentServiceJson(instance.service, contentHash)
  })
}

function register(call: Call, state: State): Answer {
  const permissions = state.acl.permissions(call.token)
  const registration = decode(call, 400, 'Request decode failed', readRegistration)
  const { name, id, kind, connectName } = registration.service
  const old = state.catalog.instance(id)
  permissions.requireService(name, 'write')
  if (old) permissions.requireService(old.service.name, 'write')
  if (kind === 'connect-proxy' && connectName !== undefined) permissions.requireService(connectName, 'write')
  state.catalog.register(registration, { replaceChecks: call.query.has('replace-existing-checks') })
  return empty()
}

function deregister(call: Call, state: State): Answer {
  if (call.rest === '') throw new HttpError(500, 'ServiceID missing')
  const permissions = state.acl.permissions(call.token)
  const instance = state.catalog.instance(call.rest)
  if (instance) permissions.requireService(instance.service.name, 'write')
  // With ACLs off, Consul answers 200 for a service it never had.
  else if (state.acl.enabled) throw new HttpError(500, `Unknown service {${JSON.stringify(call.rest)} {}}`)
  state.catalog.deregister(call.rest)
  return empty()
}

function checks(call: Call, state: State): Answer {
  const permissions = state.acl.permissions(call.token)
  const found = state.catalog
    .checks()
    .filter(({ serviceId }) => {
      const instance = state.catalog.instance(serviceId)
      return instance ? permissions.service(instance.service.name, 'read') : permissions.nodes
    })
    .map((check) => ({
      ...state.catalog.checkJson(check),
      CreateIndex: 0,
      ModifyIndex: 0,
    }))
  return json(byKey(filtered(call, found), 'CheckID'))
}

function registerCheck(call: Call, state: State): Answer {
  const permissions = state.acl.permissions(call.token)
  const check = decode(call, 400, 'Request decode failed', readOwnCheck)
  const instance = state.catalog.instance(check.serviceId)
  if (check.serviceId !== '' && !instance)
    throw new HttpError(500, `ServiceID "${check.serviceId}" does not exist`)
  requireWrite(permissions, state, check.serviceId)
  state.catalog.registerCheck(check)
  return empty()
}

function deregisterCheck(call: Call, state: State): Answer {
  requireCheckAccess(call, state)
  state.catalog.deregisterCheck(call.rest)
  return empty()
}

function heartbeat(state: State, status: CheckStatus): Handler {
  return (call) => {
    state.catalog.heartbeat(ttlCheck(call, state), { status, output: call.query.get('note') ?? '' })
    return empty()
  }
}

function updateCheck(call: Call, state: State): Answer {
  const update = decode(call, 400, 'Request decode failed', (fields) => {
    const values = { status: fields.string('Status') ?? '', output: fields.string('Output') ?? '' }
    fields.end()
    return values
  })
  const { status, output } = update
  if (!isCheckStatus(status)) throw new HttpError(400, `Invalid check status: '${status}'`)
  state.catalog.heartbeat(ttlCheck(call, state), { status, output })
  return empty()
}

function ttlCheck(call: Call, state: State): Check {
  requireCheckAccess(call, state)
  const check = state.catalog.check(call.rest)
  if (check?.kind !== 'ttl') throw new HttpError(500, `CheckID "${call.rest}" does not have associated TTL`)
  return check
}

function requireCheckAccess(call: Call, state: State): void {
  const permissions = state.acl.permissions(call.token)
  const check = state.catalog.check(call.rest)
  if (check) requireWrite(permissions, state, check.serviceId)
  else if (state.acl.enabled) throw new HttpError(500, `Unknown check "${call.rest}"`)
}

function requireWrite(
  permissions: ReturnType<State['acl']['permissions']>,
  state: State,
  serviceId: string,
): void {
  const instance = state.catalog.instance(serviceId)
  if (instance) permissions.requireService(instance.service.name, 'write')
  else permissions.requireOther(`Permission denied: Missing node:write on ${state.catalog.nodeName}`)
}
