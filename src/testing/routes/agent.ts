import { createHash } from 'node:crypto'
import { requirePermission } from '../state/acl.js'
import { decode } from '../http/decode.js'
import { readCheck, type Check, type CheckStatus } from '../state/checks.js'
import { empty, HttpError, json, type Answer, type Call, type JsonObject } from '../http/http.js'
import { blockUntil, filtered, seenIndex, waitMs } from '../http/reads.js'
import type { Handler, Routes } from '../http/router.js'
import { agentServiceJson, connectNameOf, readRegistration } from '../state/service.js'
import type { State } from '../state/state.js'

/** Serves the agent itself, its services, and their checks. */
export const agentRoutes: Routes = {
  '/v1/agent/self': { GET: self },
  '/v1/agent/services': { GET: services },
  '/v1/agent/service/': { GET: service },
  '/v1/agent/service/register': { PUT: register },
  '/v1/agent/service/deregister/': { PUT: deregister },
  '/v1/agent/checks': { GET: checks },
  '/v1/agent/check/register': { PUT: registerCheck },
  '/v1/agent/check/deregister/': { PUT: deregisterCheck },
  '/v1/agent/check/pass/': { PUT: heartbeat('passing') },
  '/v1/agent/check/warn/': { PUT: heartbeat('warning') },
  '/v1/agent/check/fail/': { PUT: heartbeat('critical') },
}

function self(call: Call, state: State): Answer {
  requirePermission(state.acl.permissions(call.token).other)
  const { nodeName, nodeId, address } = state.catalog
  return json({
    Config: {
      Datacenter: state.datacenter,
      NodeName: nodeName,
      NodeID: nodeId,
      Revision: '',
      Server: true,
      Version: state.version === '1.8' ? '1.8.7' : '1.15.0',
    },
    DebugConfig: {
      BindAddr: address,
      ConnectEnabled: state.connect !== undefined,
      ACLsEnabled: state.acl.enabled,
      DefaultIntentionPolicy: state.defaultPolicy,
    },
    Member: { Name: nodeName, Addr: address },
    Meta: { 'consul-network-segment': '' },
  })
}

function services(call: Call, state: State): Answer {
  const permissions = state.acl.permissions(call.token)
  const found = state.catalog
    .instances()
    .filter(({ service }) => permissions.service(service.Name, 'read'))
    .map(({ service }) => ({ ...agentServiceJson(service), ID: service.ID }))
  return json(Object.fromEntries(filtered(call, found).map((each) => [each.ID, each])))
}

/** Reads a service. Blocks by a hash of the answer. */
async function service(call: Call, state: State): Promise<Answer> {
  // Consul validates the index, which this endpoint does not use.
  seenIndex(call)
  waitMs(call)
  const read = (): JsonObject => {
    const permissions = state.acl.permissions(call.token)
    const instance = state.catalog.instance(call.rest)
    if (!instance) throw new HttpError(404, `unknown service ID: ${call.rest}`)
    requirePermission(permissions.service(instance.service.Name, 'read'))
    return agentServiceJson(instance.service)
  }
  const hash = (): string => createHash('sha256').update(JSON.stringify(read())).digest('hex').slice(0, 16)
  const seen = call.query.get('hash') ?? ''
  if (seen !== '') await blockUntil(call, state, () => hash() !== seen)
  const ContentHash = hash()
  return json({ ...read(), ContentHash }, { 'X-Consul-ContentHash': ContentHash })
}

function register(call: Call, state: State): Answer {
  const registration = decode(call, readRegistration)
  const { service } = registration
  const old = state.catalog.instance(service.ID)
  for (const name of [service.Name, old?.service.Name, connectNameOf(service)])
    if (name !== undefined) requireServiceWrite(call, state, name)
  state.catalog.register(registration, { replaceChecks: call.query.has('replace-existing-checks') })
  return empty()
}

function deregister(call: Call, state: State): Answer {
  if (call.rest === '') throw new HttpError(500, 'ServiceID missing')
  // Rejects an unknown token.
  state.acl.permissions(call.token)
  const instance = state.catalog.instance(call.rest)
  if (instance) requireServiceWrite(call, state, instance.service.Name)
  // Without ACLs, Consul returns 200 for an unknown service.
  else if (state.acl.enabled) throw new HttpError(500, `Unknown service {${JSON.stringify(call.rest)} {}}`)
  state.catalog.deregister(call.rest)
  return empty()
}

function checks(call: Call, state: State): Answer {
  const permissions = state.acl.permissions(call.token)
  const found = state.catalog.checks().filter(({ ServiceID }) => {
    const instance = state.catalog.instance(ServiceID)
    return instance ? permissions.service(instance.service.Name, 'read') : permissions.nodes
  })
  const unindexed = found.map((check) => ({ ...check, CreateIndex: 0, ModifyIndex: 0 }))
  return json(Object.fromEntries(unindexed.map((check) => [check.CheckID, state.catalog.checkJson(check)])))
}

function registerCheck(call: Call, state: State): Answer {
  const definition = decode(call, readCheck)
  const { ServiceID } = definition.check
  if (ServiceID !== '' && !state.catalog.instance(ServiceID))
    throw new HttpError(500, `ServiceID "${ServiceID}" does not exist`)
  requireCheckWrite(call, state, ServiceID)
  state.catalog.registerCheck(definition)
  return empty()
}

function deregisterCheck(call: Call, state: State): Answer {
  findCheck(call, state)
  state.catalog.deregisterCheck(call.rest)
  return empty()
}

function heartbeat(Status: CheckStatus): Handler {
  return (call, state) => {
    const check = findCheck(call, state)
    if (check?.Type !== 'ttl') throw new HttpError(500, `CheckID "${call.rest}" does not have associated TTL`)
    state.catalog.heartbeat(check, { Status, Output: call.query.get('note') ?? '' })
    return empty()
  }
}

/** Finds the check that the path names, which the token must be allowed to change. */
function findCheck(call: Call, state: State): Check | undefined {
  const check = state.catalog.check(call.rest)
  // Rejects an unknown token.
  state.acl.permissions(call.token)
  if (check) requireCheckWrite(call, state, check.ServiceID)
  else if (state.acl.enabled) throw new HttpError(500, `Unknown check "${call.rest}"`)
  return check
}

function requireCheckWrite(call: Call, state: State, serviceId: string): void {
  const name = state.catalog.instance(serviceId)?.service.Name
  if (name === undefined) requirePermission(state.acl.permissions(call.token).other)
  else requireServiceWrite(call, state, name)
}

function requireServiceWrite(call: Call, state: State, name: string): void {
  const isAllowed = state.acl.permissions(call.token).service(name, 'write')
  requirePermission(isAllowed, `Permission denied: Missing service:write on ${name}`)
}
