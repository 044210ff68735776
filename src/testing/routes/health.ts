import { entryJson } from '../discovery.js'
import { checkFields, entryFields } from '../filter-fields.js'
import { HttpError, type Answer, type Call } from '../http.js'
import type { Json, JsonObject } from '../json.js'
import { checkJson, isPassing, type Instance } from '../node.js'
import type { Routes } from '../router.js'
import type { State } from '../state.js'
import { serviceReader, tagged } from './instances.js'
import { consistencyHeader, filtered, inDatacenter, indexed, sortedNear } from './indexed.js'

/** The health of services and nodes. */
export function healthRoutes(state: State): Routes {
  return {
    '/v1/health/service/': { GET: inDatacenter(state, (call, there) => entries(call, there, 'service')) },
    '/v1/health/connect/': { GET: inDatacenter(state, (call, there) => entries(call, there, 'connect')) },
    '/v1/health/checks/': { GET: inDatacenter(state, serviceChecks) },
    '/v1/health/node/': { GET: inDatacenter(state, nodeChecks) },
    '/v1/health/state/': { GET: inDatacenter(state, checksInState) },
  }
}

function entries(call: Call, state: State, topic: 'service' | 'connect'): Promise<Answer> {
  const { instances, index } = serviceReader(call, state, topic)
  const read = (): Json => {
    const passing = passingOnly(call)
    // Consul filters by tags what is asked for by name, and not what takes Connect.
    const wanted = topic === 'connect' ? instances() : tagged(call, instances())
    const sorted = sortedNear(call, state, wanted, ({ node }) => node.name)
    const found = passing ? passingOf(sorted) : sorted
    return filtered(
      call,
      found.map((instance) => entryJson(instance, state.datacenter)),
      entryFields,
    )
  }
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

/** As in Consul, the last one takes the place of each that is left out, so that `near` loses its order. */
function passingOf(instances: Instance[]): Instance[] {
  const left = [...instances]
  const kept: Instance[] = []
  let next = left.shift()
  while (next) {
    const passes = isPassing(next)
    if (passes) kept.push(next)
    next = passes ? left.shift() : left.pop()
  }
  return kept
}

function serviceChecks(call: Call, state: State): Promise<Answer> {
  const { instances, index } = serviceReader(call, state, 'service')
  const read = (): Json => {
    const sorted = sortedNear(call, state, instances(), ({ node }) => node.name)
    return filtered(
      call,
      sorted.flatMap(({ node, service }) => node.checksOf(service.id).map((check) => checkJson(check, node))),
      checkFields,
    )
  }
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

function nodeChecks(call: Call, state: State): Promise<Answer> {
  if (call.rest === '') throw new HttpError(400, 'Missing node name')
  return checks(call, state, ({ Node: node }) => node === call.rest)
}

function checksInState(call: Call, state: State): Promise<Answer> {
  if (call.rest === '') throw new HttpError(400, 'Missing check state')
  return checks(call, state, ({ Status: status }) => call.rest === 'any' || status === call.rest)
}

function checks(call: Call, state: State, wanted: (check: JsonObject) => boolean): Promise<Answer> {
  const read = (): Json => {
    const permissions = state.acl.permissions(call.token)
    const found = state.catalog.checks().filter(({ node, check }) => {
      const service = node.instances.get(check.serviceId)?.service
      return service ? permissions.service(service.name, 'read') : permissions.nodes
    })
    const sorted = sortedNear(call, state, found, ({ node }) => node.name)
    const shown = sorted.map(({ node, check }) => checkJson(check, node)).filter(wanted)
    return filtered(call, shown, checkFields)
  }
  const index = (): number => state.changes.modified('checks')
  return indexed(call, state, { index, read, headers: consistencyHeader(call) })
}

/** `?passing`, `?passing=1` and `?passing=true`, but not `?passing=false`. */
function passingOnly(call: Call): boolean {
  const passing = call.query.get('passing')
  if (passing === null) return false
  if (['', '1', 't', 'true', 'T', 'TRUE', 'True'].includes(passing)) return true
  if (['0', 'f', 'false', 'F', 'FALSE', 'False'].includes(passing)) return false
  throw new HttpError(400, 'Invalid value for ?passing')
}
