import type { Instance } from '../catalog.js'
import { HttpError, type Answer, type Call } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import type { Routes } from '../router.js'
import { catalogServiceJson, healthServiceJson } from '../service.js'
import type { State } from '../state.js'
import { consistencyHeader, filtered, indexed } from './indexed.js'

/** What discovery reads: the catalog and the health of services. */
export function healthRoutes(state: State): Routes {
  const { acl, catalog } = state

  const named = (call: Call, topic: string, of: (instance: Instance) => boolean) => ({
    instances: () =>
      acl.permissions(call.token).service(call.rest, 'read') ? catalog.instances().filter(of) : [],
    index: () => catalog.index(`${topic}:${call.rest}`, catalog.instances().some(of)),
  })

  const health =
    (topic: 'service' | 'connect') =>
    (call: Call): Promise<Answer> => {
      requireName(call)
      const { instances, index } = named(call, topic, ({ service }) =>
        topic === 'service' ? service.name === call.rest : service.connectName === call.rest,
      )
      const healthy = ({ service }: Instance): boolean => !passingOnly(call) || catalog.isPassing(service.id)
      const read = (): Json => filtered(call, tagged(call, instances()).filter(healthy).map(entryJson))
      return indexed(call, state, { index, read, headers: consistencyHeader(call) })
    }

  const entryJson = ({ service, createIndex, modifyIndex }: Instance): JsonObject => ({
    Node: catalog.nodeEntryJson(state.datacenter),
    Service: healthServiceJson(service, createIndex, modifyIndex),
    Checks: catalog.instanceChecksJson(service.id),
  })

  const serviceChecks = (call: Call): Promise<Answer> => {
    requireName(call)
    const { instances, index } = named(call, 'service', ({ service }) => service.name === call.rest)
    const read = (): Json =>
      filtered(
        call,
        instances().flatMap(({ service }) =>
          catalog.checksOf(service.id).map((check) => catalog.checkJson(check)),
        ),
      )
    return indexed(call, state, { index, read, headers: consistencyHeader(call) })
  }

  const services = (call: Call): Promise<Answer> => {
    const read = (): Json => {
      const permissions = acl.permissions(call.token)
      const tags = new Map<string, Set<string>>()
      // Consul itself is a service of the catalog.
      if (permissions.service('consul', 'read')) tags.set('consul', new Set())
      for (const { service } of catalog.instances()) {
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

  const service = (call: Call): Promise<Answer> => {
    requireName(call)
    const { instances, index } = named(call, 'service', (instance) => instance.service.name === call.rest)
    const read = (): Json =>
      filtered(
        call,
        tagged(call, instances()).map((instance) => ({
          ...catalog.nodeJson(),
          Datacenter: state.datacenter,
          NodeMeta: { 'consul-network-segment': '' },
          ...catalogServiceJson(instance.service),
          CreateIndex: instance.createIndex,
          ModifyIndex: instance.modifyIndex,
        })),
      )
    return indexed(call, state, { index, read, headers: consistencyHeader(call) })
  }

  return {
    '/v1/catalog/services': { GET: services },
    '/v1/catalog/service/': { GET: service },
    '/v1/health/service/': { GET: health('service') },
    '/v1/health/connect/': { GET: health('connect') },
    '/v1/health/checks/': { GET: serviceChecks },
  }
}

function requireName(call: Call): void {
  if (call.rest === '') throw new HttpError(400, 'Missing service name')
}

/** All tags that were asked for, in any case. */
function tagged(call: Call, instances: Instance[]): Instance[] {
  const wanted = call.query.getAll('tag').map((tag) => tag.toLowerCase())
  return instances.filter(({ service }) => {
    const tags = service.tags.map((tag) => tag.toLowerCase())
    return wanted.every((tag) => tags.includes(tag))
  })
}

/** `?passing`, `?passing=1` and `?passing=true`, but not `?passing=false`. */
function passingOnly(call: Call): boolean {
  const passing = call.query.get('passing')
  if (passing === null) return false
  if (['', '1', 't', 'true', 'T', 'TRUE', 'True'].includes(passing)) return true
  if (['0', 'f', 'false', 'F', 'FALSE', 'False'].includes(passing)) return false
  throw new HttpError(400, 'Invalid value for ?passing')
}
