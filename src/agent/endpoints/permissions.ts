import { ShapeError, array, maybe, noteUnknown, object, string } from '../json.js'
import { type HeaderRule, type HttpMatch, type PathRule, parseHeaderRule, parsePaths } from './http-rules.js'

/** What an intention says about the HTTP requests of its source that meet some conditions. */
export interface Permission {
  /** `allow`, `deny`, or a value of a later version. */
  readonly action: string
  readonly match: HttpMatch
  /** Why this version cannot tell which requests the permission is for, or what they need. */
  readonly problem: string | undefined
}

const NO_MATCH: HttpMatch = { path: undefined, headers: [], query: [], methods: [] }

/**
 * Reads the permissions of an intention. A permission that this version does not understand in full has a problem,
 * whatever else it says: a later version of Consul may have added a condition.
 */
export function parsePermissions(value: unknown, place: string): readonly Permission[] {
  return array(value ?? null, place).map((item, i) => {
    const at = `${place}[${i}]`
    try {
      return parsePermission(item, at)
    } catch (error) {
      if (!(error instanceof ShapeError)) throw error
      return { action: '', match: NO_MATCH, problem: error.message }
    }
  })
}

function parsePermission(item: unknown, place: string): Permission {
  const unknown: string[] = []
  const permission = object(item, place)
  noteUnknown(permission, place, ['Action', 'HTTP', 'JWT'], unknown)
  const http = object(permission['HTTP'], `${place}.HTTP`)
  noteUnknown(http, `${place}.HTTP`, ['PathExact', 'PathPrefix', 'PathRegex', 'Header', 'Methods'], unknown)
  const paths = parsePaths(http, `${place}.HTTP`)
  const headers = array(http['Header'] ?? null, `${place}.HTTP.Header`).map((rule, i) =>
    parseHeaderRule(rule, `${place}.HTTP.Header[${i}]`, unknown),
  )
  const methods = array(http['Methods'] ?? null, `${place}.HTTP.Methods`).map((method, i) =>
    string(method, `${place}.HTTP.Methods[${i}]`),
  )
  const known = headers.filter((rule) => rule !== undefined)
  return {
    action: maybe(string)(permission['Action'], `${place}.Action`) ?? '',
    match: { path: paths[0], headers: known, query: [], methods },
    problem: problemOf(place, unknown, {
      paths,
      headers,
      methods,
      needsToken: (permission['JWT'] ?? undefined) !== undefined,
    }),
  }
}

function problemOf(
  place: string,
  unknown: readonly string[],
  parts: {
    readonly paths: readonly PathRule[]
    readonly headers: readonly (HeaderRule | undefined)[]
    readonly methods: readonly string[]
    readonly needsToken: boolean
  },
): string | undefined {
  const { paths, headers, methods, needsToken } = parts
  if (unknown.length > 0) return `unknown field ${unknown.join(', ')}`
  if (needsToken) return `${place}.JWT: JSON Web Tokens are not supported`
  if (paths.length > 1) return `${place}.HTTP: more than one condition on the path`
  const empty = headers.indexOf(undefined)
  if (empty >= 0) return `${place}.HTTP.Header[${empty}]: no condition`
  if (paths.length + headers.length + methods.length === 0) return `${place}.HTTP: no condition`
  return undefined
}
