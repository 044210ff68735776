import type { HeaderRule, HttpMatch, PathRule, QueryRule } from '../agent/endpoints/http-rules.js'
import { byteString, lowerCase } from './byte-string.js'
import { compileHeaderRule } from './header-matcher.js'
import { PatternError, compilePattern } from './pattern.js'
import { parameterOf, withoutQuery } from './target.js'

/** What rules read of an HTTP request. */
export interface RequestHead {
  readonly method: string
  /** The path with the query, as it is sent. */
  readonly path: string
  /**
   * Returns the lines of a header, in order, with a character for each byte; an empty list without the header. Those of
   * `host` are the authority of the request, which a target in absolute form names.
   * @param name - in lower case
   */
  lines(name: string): readonly string[]
}

export type RequestMatcher = (request: RequestHead) => boolean

/**
 * Compiles the conditions of a route, or of a permission, to a function that decides as Envoy does.
 * @param onInvalid - receives the problem of an expression that RE2 refuses; the conditions then hold for no request
 */
export async function compileMatch(
  match: HttpMatch,
  onInvalid: (problem: string) => void,
): Promise<RequestMatcher> {
  try {
    const conditions = await Promise.all([
      ...(match.path === undefined ? [] : [compilePath(match.path)]),
      ...match.headers.map(compileHeader),
      ...match.query.map(compileQuery),
    ])
    if (match.methods.length > 0) conditions.push(({ method }) => match.methods.includes(method))
    const [first, ...others] = conditions
    if (first === undefined) return () => true
    return others.length === 0 ? first : (request) => conditions.every((holds) => holds(request))
  } catch (error) {
    if (!(error instanceof PatternError)) throw error
    onInvalid(error.message)
    return () => false
  }
}

async function compilePath(rule: PathRule): Promise<RequestMatcher> {
  if (rule.kind === 'regex') {
    const pattern = await compilePattern(rule.value)
    return ({ path }) => pattern.matches(withoutQuery(path))
  }
  const value = byteString(rule.value)
  const isExact = rule.kind === 'exact'
  if (rule.ignoreCase) {
    const lower = lowerCase(value)
    return ({ path }) => {
      const start = withoutQuery(path)
      const isLong = isExact ? start.length === lower.length : start.length >= lower.length
      return isLong && lowerCase(start.slice(0, lower.length)) === lower
    }
  }
  // A rule may contain a question mark, which no path does.
  return isExact
    ? ({ path }) => path.startsWith(value) && withoutQuery(path) === value
    : ({ path }) => path.startsWith(value) && withoutQuery(path).length >= value.length
}

async function compileHeader(rule: HeaderRule): Promise<RequestMatcher> {
  const matches = await compileHeaderRule(rule)
  const { name } = rule
  switch (name) {
    case ':method':
      return ({ method }) => matches([method])
    case ':path':
      return ({ path }) => matches([path])
    case ':authority':
      return (request) => matches(request.lines('host'))
    default:
      return (request) => matches(request.lines(name))
  }
}

async function compileQuery({ name, kind, value }: QueryRule): Promise<RequestMatcher> {
  const key = byteString(name)
  if (kind === 'present') return ({ path }) => parameterOf(path, key) !== undefined
  const matches = kind === 'exact' ? equals(byteString(value)) : (await compilePattern(value)).matches
  return ({ path }) => {
    const found = parameterOf(path, key)
    return found !== undefined && matches(found)
  }
}

function equals(value: string): (text: string) => boolean {
  return (text) => text === value
}
