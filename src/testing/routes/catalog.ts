import {
  deregisterNode,
  readNodeDeregistration,
  readNodeRegistration,
  registerNode,
} from '../catalog-register.js'
import { catalogServiceFields, nodeFields, serviceFields } from '../filter-fields.js'
import { decode, HttpError, json, type Answer, type Call } from '../http.js'
import { byKey, type Json, type JsonObject } from '../json.js'
import type { Node } from '../node.js'
import type { Routes } from '../router.js'
import { catalogServiceJson, healthServiceJson } from '../service.js'
import type { State } from '../state.js'
import { serviceReader, tagged } from './instances.js'
import { atDatacenter, consistencyHeader, filtered, inDatacenter, indexed, sortedNear } from './indexed.js'

/** What there is, without a word about its health. */
export function catalogRoutes(state: State): Routes {
  return {
    '/v1/catalog/register': { PUT: (call) => register(call, state) },
    '/v1/catalog/deregister': { PUT: (call) => deregister(call, state) },
    '/v1/catalog/datacenters': { GET: () => json(state.federation.datacenters()) },
    '/v1/catalog/nodes': { GET: inDatacenter(state, nodes) },
    '/v1/catalog/node/': { GET: inDatacenter(state, node) },
    '/v1/catalog/services': { GET: inDatacenter(state, services) },
    '/v1/catalog/service/': { GET: inDatacenter(state, (call, there) => service(call, there, 'service')) },
    '/v1/catalog/connect/': { GET: inDatacenter(state, (call, there) => service(call, there, 'connect')) },
  }
}

function register(call: Call, state: State): Answer {
  const registration = decode(call, 400, 'Request decode failed', readNodeRegistration)
  const there = atDatacenter(state, registration.datacenter)
  const permissions = there.acl.permissions(call.token)
  // A service may come to a node that stays as it is.
  const known = there.catalog.node(registration.node.name)
  if (registration.node.address !== known?.address) permissions.requireOther()
  if (registration.service)
    permissions.requireService(registration.service.name, 'write', 'Permission denied')
  registerNode(there.catalog, registration)
  return json(true)
}

function deregister(call: Call, state: State): Answer {
  const deregistration = decode(call, 400, 'Request decode failed', readNodeDeregistration)
  const there = atDatacenter(state, deregistration.datacenter)
  there.acl.permissions(call.token).requireOther()
  deregisterNode(there.catalog, deregistration)
  return json(true)
}

function nodes(call: Call, state: State): Promise<Answer> {
  const read = (): Json => {
    if (!state.acl.permissions(call.token).nodes) return []
    const sorted = sortedNear(call, state, state.catalog.nodes(), ({ name }) => name)
    return filtered(
      call,
      sorted.map((node) => node.entryJson(state.datacenter)),
      nodeFields,
    )
  }
  const index = (): number => state.changes.modified('nodes')
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

function node(call: Call, state: State): Promise<Answer> {
  if (call.rest === '') throw new HttpError(400, 'Missing node name')
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    const found = state.catalog.node(call.rest)
    return found && permissions.nodes ? nodeServicesJson(call, found, state) : null
  }
  const index = (): number => (state.catalog.node(call.rest) ? state.changes.modified('catalog') : 1)
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

function nodeServicesJson(call: Call, node: Node, state: State): JsonObject {
  const permissions = state.acl.permissions(call.token)
  const services = [...node.instances.values()]
    .filter(({ service }) => permissions.service(service.name, 'read'))
    .map(({ service, createIndex, modifyIndex }) => healthServiceJson(service, createIndex, modifyIndex))
  return {
    Node: node.entryJson(state.datacenter),
    Services: byKey(filtered(call, services, serviceFields), 'ID'),
  }
}

function services(call: Call, state: State): Promise<Answer> {
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    const tags = new Map<string, Set<string>>()
    // Consul itself is a service of the catalog.
    if (permissions.service('consul', 'read')) tags.set('consul', new Set())
    for (const { service } of state.catalog.instances()) {
      if (!permissions.service(service.name, 'read')) continue
      const all = tags.get(service.name) ?? new Set()
      for (const tag of service.tags) all.add(tag)
      tags.set(service.name, all)
    }
    return Object.fromEntries([...tags].sort().map(([name, all]) => [name, [...all].sort()]))
  }
  const index = (): number => state.changes.modified('services')
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

function service(call: Call, state: State, topic: 'service' | 'connect'): Promise<Answer> {
  const { instances, index } = serviceReader(call, state, topic)
  const read = (): Json => {
    const sorted = sortedNear(call, state, tagged(call, instances()), ({ node }) => node.name)
    return filtered(
      call,
      sorted.map(({ node, service, createIndex, modifyIndex }) => ({
        ...node.json(),
        Datacenter: state.datacenter,
        NodeMeta: node.definition.meta,
        ...catalogServiceJson(service),
        CreateIndex: createIndex,
        ModifyIndex: modifyIndex,
      })),
      catalogServiceFields,
    )
  }
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}
