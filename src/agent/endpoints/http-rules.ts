import { type JsonObject, array, boolean, maybe, nonEmpty, noteUnknown, object, string } from '../json.js'

/** A condition on the path of a request, without its query. */
export interface PathRule {
  readonly kind: 'exact' | 'prefix' | 'regex'
  readonly value: string
  /** Whether letters match in either case; ignored for an expression. */
  readonly ignoreCase: boolean
}

/** A condition on a header of a request. */
export interface HeaderRule {
  /** In lower case. */
  readonly name: string
  readonly kind: 'present' | 'exact' | 'prefix' | 'suffix' | 'contains' | 'regex'
  /** Empty for `present`. */
  readonly value: string
  readonly invert: boolean
  readonly ignoreCase: boolean
}

/** A condition on a parameter of the query of a request. */
export interface QueryRule {
  readonly name: string
  readonly kind: 'present' | 'exact' | 'regex'
  /** Empty for `present`. */
  readonly value: string
}

/** The conditions of a route. All of them must hold. */
export interface HttpMatch {
  /** @default every path */
  readonly path: PathRule | undefined
  readonly headers: readonly HeaderRule[]
  readonly query: readonly QueryRule[]
  /** In upper case; an empty list for every method. */
  readonly methods: readonly string[]
}

const HEADER_KINDS = ['Exact', 'Regex', 'Prefix', 'Suffix', 'Contains', 'Present'] as const
const QUERY_KINDS = ['Exact', 'Regex', 'Present'] as const

/**
 * Reads the conditions of a route.
 * @param ignored - receives the place of each field that this version does not know
 */
export function parseHttpMatch(value: unknown, place: string, ignored: string[]): HttpMatch {
  const match = object(value, place)
  const known = ['PathExact', 'PathPrefix', 'PathRegex', 'CaseInsensitive', 'Header', 'QueryParam', 'Methods']
  noteUnknown(match, place, known, ignored)
  const list = (field: string): readonly unknown[] => array(match[field] ?? null, `${place}.${field}`)
  return {
    // Consul uses the first one.
    path: parsePaths(match, place)[0],
    // A rule without a condition is none, as at Consul.
    headers: list('Header').flatMap(
      (item, i) => parseHeaderRule(item, `${place}.Header[${i}]`, ignored) ?? [],
    ),
    query: list('QueryParam').flatMap((item, i) =>
      parseQueryRule(item, `${place}.QueryParam[${i}]`, ignored),
    ),
    methods: list('Methods').map((item, i) => nonEmpty(item, `${place}.Methods[${i}]`)),
  }
}

/** Returns the conditions on the path, in the order in which Consul looks for them. */
export function parsePaths(match: JsonObject, place: string): PathRule[] {
  const ignoreCase = maybe(boolean)(match['CaseInsensitive'], `${place}.CaseInsensitive`) ?? false
  return (['Exact', 'Prefix', 'Regex'] as const).flatMap((kind) => {
    const value = maybe(string)(match[`Path${kind}`], `${place}.Path${kind}`)
    return value === undefined ? [] : [{ kind: lowerCase(kind), value, ignoreCase }]
  })
}

/**
 * Reads a rule on a header.
 * @param ignored - receives the place of each field that this version does not know
 * @returns undefined for a rule without a condition
 */
export function parseHeaderRule(item: unknown, place: string, ignored: string[]): HeaderRule | undefined {
  const rule = object(item, place)
  noteUnknown(rule, place, ['Name', 'Invert', 'IgnoreCase', ...HEADER_KINDS], ignored)
  const name = nonEmpty(rule['Name'], `${place}.Name`).toLowerCase()
  const flag = (field: string): boolean => maybe(boolean)(rule[field], `${place}.${field}`) ?? false
  const condition = parseCondition(rule, place, HEADER_KINDS)
  if (condition === undefined) return undefined
  return { name, ...condition, invert: flag('Invert'), ignoreCase: flag('IgnoreCase') }
}

function parseQueryRule(item: unknown, place: string, ignored: string[]): QueryRule[] {
  const rule = object(item, place)
  noteUnknown(rule, place, ['Name', ...QUERY_KINDS], ignored)
  const name = nonEmpty(rule['Name'], `${place}.Name`)
  const condition = parseCondition(rule, place, QUERY_KINDS)
  return condition === undefined ? [] : [{ name, ...condition }]
}

/** Returns the first condition of a rule, in the order in which Consul looks for them. */
function parseCondition<K extends string>(
  rule: JsonObject,
  place: string,
  kinds: readonly K[],
): { readonly kind: Lowercase<K>; readonly value: string } | undefined {
  for (const kind of kinds) {
    const at = `${place}.${kind}`
    if (kind === 'Present') {
      if (maybe(boolean)(rule[kind], at) === true) return { kind: lowerCase(kind), value: '' }
    } else {
      const value = maybe(string)(rule[kind], at)
      if (value !== undefined) return { kind: lowerCase(kind), value }
    }
  }
  return undefined
}

function lowerCase<K extends string>(kind: K): Lowercase<K> {
  return kind.toLowerCase() as Lowercase<K>
}
