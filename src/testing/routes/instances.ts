import { hasTags, instancesOf } from '../discovery.js'
import { HttpError, type Call } from '../http.js'
import type { Instance } from '../node.js'
import type { State } from '../state.js'

/** The instances of the service that the call names, as far as its token may see them, and their index. */
export function serviceReader(
  call: Call,
  state: State,
  topic: 'service' | 'connect',
): { instances: () => Instance[]; index: () => number } {
  const { acl, catalog } = state
  if (call.rest === '') throw new HttpError(400, 'Missing service name')
  const all = (): Instance[] => instancesOf(state, call.rest, topic)
  return {
    instances: () => (acl.permissions(call.token).service(call.rest, 'read') ? all() : []),
    index: () => catalog.index(`${topic}:${call.rest.toLowerCase()}`, all().length > 0),
  }
}

/** All tags that were asked for, in any case. */
export function tagged(call: Call, instances: Instance[]): Instance[] {
  return instances.filter(({ service }) => hasTags(service.tags, call.query.getAll('tag')))
}
