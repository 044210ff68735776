import {
  type JsonObject,
  array,
  boolean,
  count,
  duration,
  maybe,
  noteUnknown,
  object,
  string,
} from '../json.js'

/** The load-balancing policy that the operator chose for a service. */
export interface LoadBalancer {
  /** As the agent wrote it, such as `least_request`. */
  readonly policy: string
  /** How many instances `least_request` compares. */
  readonly choiceCount: number | undefined
  /** The least and the greatest number of entries of `ring_hash`. */
  readonly ringSize: { readonly least: number | undefined; readonly greatest: number | undefined }
  readonly hashPolicies: readonly HashPolicy[]
}

/** A part of a request by which `ring_hash` and `maglev` choose the instance. */
export interface HashPolicy {
  readonly source: 'header' | 'cookie' | 'query_parameter' | 'source_ip'
  /** The name of the header, cookie, or parameter. */
  readonly name: string
  /** Whether later policies are skipped if this one applies. */
  readonly terminal: boolean
  /** How a missing cookie is set; undefined to leave it missing. */
  readonly newCookie: { readonly path: string | undefined; readonly ttlMs: number } | undefined
}

/**
 * Reads a policy.
 * @param ignored - receives the place of each field that this version does not know
 * @returns undefined without a policy, which hash policies need
 */
export function parseLoadBalancer(
  value: unknown,
  place: string,
  ignored: string[],
): LoadBalancer | undefined {
  const balancer = object(value, place)
  noteUnknown(balancer, place, ['Policy', 'LeastRequestConfig', 'RingHashConfig', 'HashPolicies'], ignored)
  const section = (field: string): JsonObject => maybe(object)(balancer[field], `${place}.${field}`) ?? {}
  const size = (parent: string, field: string): number | undefined =>
    maybe(count)(section(parent)[field], `${place}.${parent}.${field}`) || undefined
  const policy = maybe(string)(balancer['Policy'], `${place}.Policy`)
  const hashPolicies = array(balancer['HashPolicies'] ?? null, `${place}.HashPolicies`)
  if (policy === undefined) return undefined
  return {
    policy,
    choiceCount: size('LeastRequestConfig', 'ChoiceCount'),
    ringSize: {
      least: size('RingHashConfig', 'MinimumRingSize'),
      greatest: size('RingHashConfig', 'MaximumRingSize'),
    },
    hashPolicies: hashPolicies.flatMap((item, i) =>
      parseHashPolicy(item, `${place}.HashPolicies[${i}]`, ignored),
    ),
  }
}

/** A policy for a field that this version does not know is left out. */
function parseHashPolicy(item: unknown, place: string, ignored: string[]): HashPolicy[] {
  const policy = object(item, place)
  noteUnknown(policy, place, ['Field', 'FieldValue', 'CookieConfig', 'SourceIP', 'Terminal'], ignored)
  const flag = (field: string): boolean => maybe(boolean)(policy[field], `${place}.${field}`) ?? false
  const field = maybe(string)(policy['Field'], `${place}.Field`)
  const name = maybe(string)(policy['FieldValue'], `${place}.FieldValue`) ?? ''
  const terminal = flag('Terminal')
  if (flag('SourceIP')) return [{ source: 'source_ip', name: '', terminal, newCookie: undefined }]
  if (field !== 'header' && field !== 'cookie' && field !== 'query_parameter') {
    ignored.push(`${place}.Field`)
    return []
  }
  const cookie = maybe(object)(policy['CookieConfig'], `${place}.CookieConfig`)
  const newCookie = field === 'cookie' && cookie !== undefined ? parseCookie(cookie, place) : undefined
  return [{ source: field, name: field === 'header' ? name.toLowerCase() : name, terminal, newCookie }]
}

/** A session cookie has no lifetime. One with neither is not set. */
function parseCookie(cookie: JsonObject, place: string): HashPolicy['newCookie'] {
  const at = `${place}.CookieConfig`
  const isSession = maybe(boolean)(cookie['Session'], `${at}.Session`) ?? false
  const ttlMs = maybe(duration)(cookie['TTL'], `${at}.TTL`) ?? 0
  if (!isSession && ttlMs === 0) return undefined
  return { path: maybe(string)(cookie['Path'], `${at}.Path`), ttlMs: isSession ? 0 : ttlMs }
}
