// Intentions with permissions, and HTTP requests, that together meet every kind of rule.

/** A permission in the JSON of Consul. */
export interface CasePermission {
  readonly Action: 'allow' | 'deny'
  readonly HTTP: CaseHttp
}

interface CaseHttp {
  readonly PathExact?: string
  readonly PathPrefix?: string
  readonly PathRegex?: string
  readonly Methods?: readonly string[]
  readonly Header?: readonly CaseHeader[]
}

export interface CaseHeader {
  readonly Name: string
  readonly Exact?: string
  readonly Prefix?: string
  readonly Suffix?: string
  readonly Contains?: string
  readonly Regex?: string
  readonly Present?: boolean
  readonly Invert?: boolean
  readonly IgnoreCase?: boolean
}

export interface CaseRequest {
  readonly method: string
  readonly path: string
  readonly host: string
  /** Name, value, name, value; a character for each byte. */
  readonly headers: readonly string[]
}

type Random = () => number

function pick<T>(random: Random, all: readonly T[]): T {
  return all[Math.floor(random() * all.length)]!
}

const PATHS: readonly CaseHttp[] = [
  { PathExact: '/admin' },
  { PathExact: '/' },
  { PathExact: '/api/v2/users' },
  { PathExact: '/%C3%A9' },
  { PathPrefix: '/admin' },
  { PathPrefix: '/api/' },
  { PathPrefix: '/' },
  { PathPrefix: '/api/v2/u' },
  { PathRegex: '/api/v[0-9]+/users' },
  { PathRegex: '/(?i)ADMIN.*' },
  { PathRegex: '/a.*' },
  { PathRegex: '/[[:alpha:]]+' },
  { PathRegex: '/admin|/api/.*' },
  { PathRegex: '.*/users/[^/]*' },
]

const METHODS = ['GET', 'POST', 'PUT', 'DELETE', 'HEAD', 'PATCH', 'OPTIONS']

/** Rules of Consul 1.9 to 1.20.0. */
const HEADERS: readonly CaseHeader[] = [
  { Name: 'x-role', Exact: 'admin' },
  { Name: 'X-Role', Exact: 'user,admin' },
  { Name: 'x-role', Prefix: 'adm' },
  { Name: 'x-role', Suffix: 'min' },
  { Name: 'x-role', Regex: '.*dmin' },
  { Name: 'x-role', Regex: 'bad.*' },
  { Name: 'x-role', Present: true },
  { Name: 'x-tag', Present: true },
  { Name: 'authorization', Prefix: 'Bearer ' },
  { Name: 'user-agent', Regex: 'curl/.*' },
  { Name: 'host', Exact: 'api' },
  { Name: ':authority', Suffix: 'i' },
  { Name: ':method', Exact: 'GET' },
  { Name: ':path', Prefix: '/admin?' },
]

/** Rules of Consul 1.20.1 and later. */
const NEW_HEADERS: readonly CaseHeader[] = [
  { Name: 'x-role', Contains: 'dmi' },
  { Name: 'x-role', Contains: 'DMI', IgnoreCase: true },
  { Name: 'x-role', Exact: 'ADMIN', IgnoreCase: true },
  { Name: 'x-role', Prefix: 'BAD\u00c9', IgnoreCase: true },
  { Name: 'x-role', Suffix: 'MIN', IgnoreCase: true },
]

/** Makes two to five permissions. The last one is often for all requests. */
export function makePermissions(random: Random, isNew = false): CasePermission[] {
  const rules = isNew ? [...HEADERS, ...NEW_HEADERS, ...NEW_HEADERS] : HEADERS
  const count = 2 + Math.floor(random() * 3)
  const permissions = Array.from({ length: count }, (): CasePermission => {
    const path = random() < 0.7 ? pick(random, PATHS) : {}
    const methods =
      random() < 0.25 ? { Methods: [...new Set([pick(random, METHODS), pick(random, METHODS)])] } : {}
    const header = (): CaseHeader => {
      const rule = pick(random, rules)
      return random() < 0.3 ? { ...rule, Invert: true } : rule
    }
    const wanted = random()
    const headers = wanted < 0.45 ? [header()] : wanted < 0.55 ? [header(), header()] : []
    const isEmpty = Object.keys(path).length + Object.keys(methods).length + headers.length === 0
    const all = isEmpty ? [header()] : headers
    return {
      Action: random() < 0.5 ? 'allow' : 'deny',
      HTTP: { ...path, ...methods, ...(all.length > 0 && { Header: all }) },
    }
  })
  if (random() < 0.5)
    permissions.push({ Action: random() < 0.5 ? 'allow' : 'deny', HTTP: { PathPrefix: '/' } })
  return permissions
}

const REQUEST_PATHS = [
  ...['/', '/admin', '/admin?x=1', '/admin/', '/admin/x', '/administrator', '/Admin', '/ADMIN/x'],
  ...['/api', '/api/', '/api/v2/users', '/api/v2/users/7', '/api/v3/users?all', '/api/v2/u', '/a', '/about'],
  ...['/%C3%A9', '/x%2Fy', '/a;b', '/public', '/?/admin', '/x?a=/admin#'.slice(0, -1), '/users/1'],
]

/** Paths that Envoy normalizes only with a setting. */
const UNUSUAL_PATHS = [
  ...['/x/../admin', '/./admin', '/%61dmin', '/admin/..', '/public/..;/admin', '/%2e%2e/admin'],
  ...['//admin', '/\\admin', '/a%2fb', '/a/..%2fadmin', '/api//v2/users', '/adm"in', '/%zz'],
]

const ROLES: readonly (readonly string[])[] = [
  ...[[], [], ['user'], ['admin'], ['user,admin'], ['user', 'admin'], ['admin', 'user'], ['']],
  ...[['bad\xff'], ['\xe9bad'], ['Admin'], ['bad\xc3\xa9'], ['admin', 'admin']],
]

const OTHERS: readonly (readonly string[])[] = [
  ...[[], [], ['x-tag', '1'], ['X-Tag', ''], ['authorization', 'Bearer abc'], ['user-agent', 'curl/8.1']],
  ...[
    ['authorization', 'Basic x', 'Authorization', 'Bearer y'],
    ['cookie', 'a=1', 'cookie', 'b=2'],
  ],
]

export function makeRequest(random: Random): CaseRequest {
  const role = pick(random, ROLES).flatMap((value) => [pick(random, ['x-role', 'X-Role']), value])
  return {
    method: random() < 0.6 ? 'GET' : pick(random, METHODS),
    path: pick(random, random() < 0.8 ? REQUEST_PATHS : UNUSUAL_PATHS),
    host: pick(random, ['api', 'api', 'API:80', 'other']),
    headers: [...role, ...pick(random, OTHERS)],
  }
}

/** The kinds of rules in permissions, with `inverted` beside those that are, for counting. */
export function kindsOf({ Action, HTTP }: CasePermission): string[] {
  const { Header = [], Methods, ...path } = HTTP
  return [
    Action,
    ...Object.keys(path),
    ...(Methods === undefined ? [] : ['Methods']),
    ...Header.flatMap(({ Name, Invert, IgnoreCase, ...condition }) => [
      ...Object.keys(condition),
      ...(Name.startsWith(':') ? ['pseudo header'] : []),
      ...(Invert === true ? ['inverted'] : []),
      ...(IgnoreCase === true ? ['IgnoreCase'] : []),
    ]),
  ]
}
