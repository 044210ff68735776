import type { PathRule } from '../../agent/endpoints/http-rules.js'
import { byteString } from '../../matching/byte-string.js'

/**
 * Replaces what the rule of a route matched of a path, as Envoy does: a prefix by plain replacement, so that the rewrite
 * of `/admin` to `/` turns `/admin/x` into `//x`, and the whole path for an exact path or an expression. The query stays.
 * The result can be anything that the operator wrote: a URL must not be resolved from it.
 * @param path - with the query; one that the rule matches
 * @param rule - undefined for a route without a path, which stands for the prefix `/`
 */
export function rewritePath(path: string, rule: PathRule | undefined, rewrite: string): string {
  const query = path.indexOf('?')
  const end = query < 0 ? path.length : query
  const matched = rule === undefined ? 1 : rule.kind === 'prefix' ? byteString(rule.value).length : end
  return byteString(rewrite) + path.slice(Math.min(matched, end))
}
