import type { PathRules } from '../agent/endpoints/mesh-entry.js'

/** A path, or the answer to a request whose path has none. */
export type NormalizedPath =
  | { readonly path: string }
  | { readonly status: 400; readonly problem: string }
  | { readonly status: 307; readonly location: string }

/**
 * Makes the path of a request comparable, as Envoy 1.40 does with the same settings; the query stays as it is. All of it
 * was found by asking Envoy.
 * @param target - the path and the query, which start with a slash, with a character for each byte
 */
export function normalizePath(target: string, rules: PathRules): NormalizedPath {
  const { normalize, mergeSlashes, escapedSlashes } = rules
  if (PLAIN.test(target)) return { path: target }
  if (!VISIBLE.test(target)) return { status: 400, problem: 'a character that a path cannot contain' }
  const end = target.indexOf('?')
  let path = end < 0 ? target : target.slice(0, end)
  const query = end < 0 ? '' : target.slice(end)
  let isRedirect = false
  if (escapedSlashes !== 'keep' && ESCAPED_SLASH.test(path)) {
    if (escapedSlashes === 'reject') return { status: 400, problem: 'an escaped slash or backslash' }
    isRedirect = escapedSlashes === 'redirect'
    path = path.replace(ESCAPED_SLASHES, (escape) => (escape === '%2F' || escape === '%2f' ? '/' : '\\'))
  }
  if (normalize) {
    path = path.replace(DOT_PARAMETERS, '$1')
    if (path.includes('%00')) return { status: 400, problem: 'an escaped zero byte' }
    path = withoutDotSegments(decodeUnreserved(path))
  }
  if (mergeSlashes) path = /^\/{2,}$/.test(path) ? '//' : path.replace(/\/{2,}/g, '/')
  return isRedirect ? { status: 307, location: path + query } : { path: path + query }
}

/** Most paths, which need no change whatever the rules are: no segment is empty or begins with a dot. */
const PLAIN = /^(?:\/[\w=&,;:@!$'()*+~-][\w=&,;:@!$'()*+~.-]*)*\/?(?:\?[\x21\x22\x24-\x7e]*)?$/
const VISIBLE = /^[\x21\x22\x24-\x7e]*$/
const ESCAPED_SLASH = /%(?:2f|5c)/i
const ESCAPED_SLASHES = /%(?:2f|5c)/gi
/** A dot segment with parameters, such as `..;v=1`, which some servers take for a dot segment. */
const DOT_PARAMETERS = /(\/\.{1,2});[^/]*/g
const ESCAPES = /%[\da-f]{2}|%/gi
const UNRESERVED = /[\w.~-]/
/** Stands for a percent sign that begins no escape; no path has this character. */
const STRAY = '\0'
const UNSAFE = /["<>^`{|}]/g

/** Decodes the escapes of letters, digits, and `-._~`; escapes what a path should not contain. */
function decodeUnreserved(path: string): string {
  return path
    .replaceAll('\\', '/')
    .replace(ESCAPES, (escape) => {
      if (escape === '%') return STRAY
      const character = String.fromCharCode(Number.parseInt(escape.slice(1), 16))
      return UNRESERVED.test(character) ? character : escape
    })
    .replace(/\0(?=[\da-f]{2})/gi, '%25')
    .replaceAll(STRAY, '%')
    .replace(UNSAFE, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** Removes `.` and `..` as RFC 3986 does, section 5.2.4. Empty segments count. */
function withoutDotSegments(path: string): string {
  if (!/\/\.{1,2}(?:\/|$)/.test(path)) return path
  const kept: string[] = []
  const segments = path.slice(1).split('/')
  for (const segment of segments) {
    if (segment === '..') kept.pop()
    else if (segment !== '.') kept.push(segment)
  }
  const last = segments.at(-1)
  if (last === '.' || last === '..') kept.push('')
  return `/${kept.join('/')}`
}

/**
 * Whether servers read a path in different ways: it has a dot segment, an empty segment, a backslash, a semicolon, or an
 * escape of any of these, of a zero byte, or of a percent sign.
 */
export function isAmbiguous(target: string): boolean {
  const end = target.indexOf('?')
  return AMBIGUOUS.test(end < 0 ? target : target.slice(0, end))
}

const AMBIGUOUS = /[\\;]|%(?:00|25|2e|2f|3b|5c)|\/\/|\/\.{1,2}(?:\/|$)/i
