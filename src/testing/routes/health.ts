import { hasTags, type NameKind } from '../state/catalog.js'
import { HttpError, type Answer, type Call, type Json } from '../http/http.js'
import { filtered, indexed } from '../http/reads.js'
import type { Routes } from '../http/router.js'
import type { State } from '../state/state.js'

/** Serves the instances of services with their health. */
export const healthRoutes: Routes = {
  '/v1/health/service/': { GET: (call, state) => instances(call, state, 'service') },
  '/v1/health/connect/': { GET: (call, state) => instances(call, state, 'connect') },
}

function instances(call: Call, state: State, kind: NameKind): Promise<Answer> {
  const { acl, catalog } = state
  const name = call.rest
  if (name === '') throw new HttpError(400, 'Missing service name')
  // Consul ignores `tag` for Connect.
  const tags = kind === 'connect' ? [] : call.query.getAll('tag')
  const read = (): Json => {
    const isReadable = acl.permissions(call.token).service(name, 'read')
    const found = isReadable ? catalog.instancesOf(name, kind) : []
    const wanted = found
      .filter((instance) => hasTags(instance, tags))
      .filter((instance) => !isPassingOnly(call) || catalog.isPassing(instance))
    return filtered(
      call,
      wanted.map((instance) => catalog.entryJson(instance)),
    )
  }
  return indexed(call, state, () => catalog.index(name, kind), read)
}

/** Whether the parameter `passing` is set, which Consul reads with Go's ParseBool. Without a value, it means true. */
function isPassingOnly({ query }: Call): boolean {
  return query.has('passing') && !/^(0|f|false)$/i.test(query.get('passing') ?? '')
}
