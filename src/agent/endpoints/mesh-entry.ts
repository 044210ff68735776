import type { AgentClient, AgentResponse } from '../client.js'
import { type JsonObject, array, boolean, maybe, object, string } from '../json.js'
import { type BlockingQuery, blocking } from '../watch.js'

/** How the paths of requests are made comparable before a rule applies to them. */
export interface PathRules {
  /** Whether dot segments, backslashes, and unnecessary escapes are removed. */
  readonly normalize: boolean
  /** Whether several slashes become one. */
  readonly mergeSlashes: boolean
  /** What happens to `%2F` and `%5C`. */
  readonly escapedSlashes: 'keep' | 'reject' | 'redirect' | 'unescape'
}

/** How requests are made comparable before a rule applies to them. */
export interface RequestNormalization extends PathRules {
  /** What happens to headers with an underscore in their name. */
  readonly underscores: 'allow' | 'reject' | 'drop'
}

/** The settings without a mesh config entry: those of Consul 1.20.1 and later. */
export const DEFAULT_NORMALIZATION: RequestNormalization = {
  normalize: true,
  mergeSlashes: false,
  escapedSlashes: 'keep',
  underscores: 'allow',
}

/**
 * Reads how the mesh normalizes requests, from the config entry `mesh`: `GET /v1/config/mesh`, which needs no
 * permission. Consul before 1.10 has no such entry, and answers with an error.
 */
export function fetchNormalization(
  agent: AgentClient,
  query: BlockingQuery,
): Promise<AgentResponse<RequestNormalization>> {
  return agent.request({ path: '/v1/config/mesh', ...blocking(query) }, parseNormalization)
}

export function parseNormalization(body: unknown): RequestNormalization {
  const entries = array(body, '').map((item, i) => object(item, `[${i}]`))
  const i = entries.findIndex(({ Name }) => Name === 'mesh')
  const part = (value: unknown, place: string): JsonObject => maybe(object)(value, place) ?? {}
  const http = part(entries[i]?.['HTTP'], `[${i}].HTTP`)
  const incoming = part(http['Incoming'], `[${i}].HTTP.Incoming`)
  const place = `[${i}].HTTP.Incoming.RequestNormalization`
  const given = part(incoming['RequestNormalization'], place)
  const flag = (field: string): boolean => maybe(boolean)(given[field], `${place}.${field}`) ?? false
  const action = (field: string): string => maybe(string)(given[field], `${place}.${field}`) ?? ''
  return {
    normalize: !flag('InsecureDisablePathNormalization'),
    mergeSlashes: flag('MergeSlashes'),
    // A value of a later version rejects.
    escapedSlashes: ESCAPED_SLASHES.get(action('PathWithEscapedSlashesAction')) ?? 'reject',
    underscores: UNDERSCORES.get(action('HeadersWithUnderscoresAction')) ?? 'reject',
  }
}

const ESCAPED_SLASHES: ReadonlyMap<string, PathRules['escapedSlashes']> = new Map([
  ['', 'keep'],
  ['IMPLEMENTATION_SPECIFIC_DEFAULT', 'keep'],
  ['KEEP_UNCHANGED', 'keep'],
  ['REJECT_REQUEST', 'reject'],
  ['UNESCAPE_AND_REDIRECT', 'redirect'],
  ['UNESCAPE_AND_FORWARD', 'unescape'],
])

const UNDERSCORES: ReadonlyMap<string, RequestNormalization['underscores']> = new Map([
  ['', 'allow'],
  ['ALLOW', 'allow'],
  ['REJECT_REQUEST', 'reject'],
  ['DROP_HEADER', 'drop'],
])
