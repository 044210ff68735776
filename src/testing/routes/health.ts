import { hasTags, type Instance } from '../catalog.js'
import { HttpError, type Answer, type Call } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import { consistencyHeader, filtered, indexed } from '../reads.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'

/** Instances of services, with and without their health. */
export function healthRoutes(state: State): Routes {
  const { catalog } = state
  return {
    '/v1/health/service/': { GET: (call) => entries(call, state, 'service') },
    '/v1/health/connect/': { GET: (call) => entries(call, state, 'connect') },
    '/v1/health/checks/': {
      GET: (call) =>
        instances(call, state, 'service', (found) =>
          found.flatMap(({ service }) =>
            catalog.checksOf(service.id).map((check) => catalog.checkJson(check)),
          ),
        ),
    },
    '/v1/catalog/services': { GET: (call) => services(call, state) },
  }
}

function entries(call: Call, state: State, topic: 'service' | 'connect'): Promise<Answer> {
  return instances(call, state, topic, (all) => {
    // Consul ignores `tag` here when the name is that of a Connect service.
    const wanted = topic === 'connect' ? all : tagged(call, all)
    const found = isPassingOnly(call) ? wanted.filter((each) => state.catalog.isPassing(each)) : wanted
    return found.map((instance) => state.catalog.entryJson(instance))
  })
}

/** Answers with the instances of the service that the path names, as far as the token may read them. */
function instances(
  call: Call,
  state: State,
  topic: 'service' | 'connect',
  show: (instances: Instance[]) => JsonObject[],
): Promise<Answer> {
  const { acl, catalog } = state
  if (call.rest === '') throw new HttpError(400, 'Missing service name')
  const read = (): Json => {
    const isReadable = acl.permissions(call.token).service(call.rest, 'read')
    return filtered(call, show(isReadable ? catalog.instancesOf(call.rest, topic) : []))
  }
  const index = (): number => catalog.index(call.rest, topic)
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

function services(call: Call, state: State): Promise<Answer> {
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    const tags = new Map<string, Set<string>>()
    // The catalog lists Consul itself.
    if (permissions.service('consul', 'read')) tags.set('consul', new Set())
    for (const { service } of state.catalog.instances()) {
      if (!permissions.service(service.name, 'read')) continue
      tags.set(service.name, new Set([...(tags.get(service.name) ?? []), ...service.tags]))
    }
    return Object.fromEntries([...tags].sort().map(([name, all]) => [name, [...all].sort()]))
  }
  const index = (): number => state.changes.modified('services')
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

/** Returns the instances with all tags of the query string, in any case. */
function tagged(call: Call, found: Instance[]): Instance[] {
  return found.filter(({ service }) => hasTags(service.tags, call.query.getAll('tag')))
}

/** Parses `passing`, which Consul reads with Go's ParseBool; the parameter without a value means true. */
function isPassingOnly(call: Call): boolean {
  const passing = call.query.get('passing')
  if (passing === null) return false
  if (['', '1', 't', 'true', 'T', 'TRUE', 'True'].includes(passing)) return true
  if (['0', 'f', 'false', 'F', 'FALSE', 'False'].includes(passing)) return false
  throw new HttpError(400, 'Invalid value for ?passing')
}
