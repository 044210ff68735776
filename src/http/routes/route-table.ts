import { randomBytes } from 'node:crypto'
import type { HeaderChanges, HeaderModifiers } from '../../agent/endpoints/chain-nodes.js'
import { compileMatch } from '../../matching/request-matcher.js'
import type { Route, RouteLeg, Routes } from '../../resolve/chain/routes.js'
import { type NewCookie, type RequestHash, requestHash } from '../../resolve/balancing/request-hash.js'
import { applyChanges, checkChanges } from './header-changes.js'
import { rewritePath } from './path-rewrite.js'
import type { RequestHead } from './request-head.js'
import { type RetryPolicy, retryPolicy } from './retry.js'

/** What is done with a request. */
export interface Decision {
  readonly legKey: string
  /** With its query. */
  readonly path: string
  /** The header lines: name, value, name, value; undefined for those of the request. */
  readonly headers: readonly string[] | undefined
  /** In the order in which they are applied. */
  readonly responseChanges: readonly HeaderChanges[]
  readonly rules: RequestRules
  /** Chooses the instance under a policy that hashes. */
  readonly hash: bigint | undefined
  /** Values of `set-cookie`, which lead later requests to the same instance. */
  readonly cookies: readonly string[]
}

/** How long a request may take, and when it is sent again. */
export interface RequestRules {
  /** In milliseconds; Infinity for no limit. */
  readonly requestTimeoutMs: number
  /** In milliseconds; Infinity for no limit. */
  readonly idleTimeoutMs: number
  readonly retry: RetryPolicy | undefined
}

interface CompiledRoute extends Pick<Route, 'prefixRewrite' | 'hashPolicies'> {
  readonly matches: (request: RequestHead) => boolean
  readonly path: Route['match']['path']
  readonly rules: RequestRules
  readonly legs: readonly CompiledLeg[]
  /** The sum of all shares. */
  readonly shares: number
}

interface CompiledLeg extends Pick<RouteLeg, 'key' | 'share'> {
  readonly request: readonly HeaderChanges[]
  readonly response: readonly HeaderChanges[]
}

/** The routes of a service, prepared to decide requests. */
export class RouteTable {
  readonly #routes: readonly CompiledRoute[]

  private constructor(routes: readonly CompiledRoute[]) {
    this.#routes = routes
  }

  /** @param onIgnored - receives each part of the routes that cannot be followed, and is left out */
  static async compile(routes: Routes, onIgnored: (problem: string) => void): Promise<RouteTable> {
    return new RouteTable(await Promise.all(routes.routes.map((route) => compileRoute(route, onIgnored))))
  }

  /**
   * Decides a request by the first route that matches it.
   * @param random - returns a number from 0 to below 1
   * @returns undefined if no route matches
   */
  decide(request: RequestHead, random: () => number): Decision | undefined {
    for (const route of this.#routes) if (route.matches(request)) return decideBy(route, request, random)
    return undefined
  }
}

function decideBy(route: CompiledRoute, request: RequestHead, random: () => number): Decision {
  const { prefixRewrite, path, rules, hashPolicies } = route
  const leg = drawLeg(route, random)
  const newPath = prefixRewrite === undefined ? request.path : rewritePath(request.path, path, prefixRewrite)
  const headers = changedOrRead(request, leg.request)
  // Envoy hashes the request as it is sent.
  const { hash, newCookies } =
    hashPolicies.length === 0
      ? NO_HASH
      : requestHash(hashPolicies, request.changedTo(newPath, headers), randomBytes)
  return {
    legKey: leg.key,
    path: newPath,
    headers,
    responseChanges: leg.response,
    rules,
    hash,
    cookies: newCookies.length === 0 ? NO_COOKIES : newCookies.map(setCookie),
  }
}

/** Returns the decision on a request to a service without routes. */
export function unrouted({ path }: RequestHead): Decision {
  return {
    legKey: '',
    path,
    headers: undefined,
    responseChanges: [],
    rules: { requestTimeoutMs: Infinity, idleTimeoutMs: Infinity, retry: undefined },
    hash: undefined,
    cookies: [],
  }
}

const NO_COOKIES: readonly string[] = []
const NO_HASH: RequestHash = { hash: undefined, newCookies: [] }

/** Returns the header lines to send; undefined for those of the request, unless they can be read only once. */
function changedOrRead(
  request: RequestHead,
  changes: readonly HeaderChanges[],
): readonly string[] | undefined {
  if (changes.length > 0) return changedHeaders(request.headers, changes)
  return request.isReadOnce ? request.headers : undefined
}

/** Applies changes of headers in order. */
export function changedHeaders(
  lines: readonly string[],
  changes: readonly HeaderChanges[],
): readonly string[] {
  return changes.reduce<readonly string[]>((all, each) => applyChanges(all, each), lines)
}

/** Returns the line for a new cookie (RFC 6265, section 4.1.1). */
function setCookie({ name, value, path, ttlMs }: NewCookie): string {
  const maxAge = ttlMs >= 1_000 ? `; Max-Age=${Math.trunc(ttlMs / 1_000)}` : ''
  return `${name}="${value}"${maxAge}${path === undefined ? '' : `; Path=${path}`}; HttpOnly`
}

async function compileRoute(route: Route, onIgnored: (problem: string) => void): Promise<CompiledRoute> {
  const { match, prefixRewrite, hashPolicies, requestTimeoutMs, idleTimeoutMs } = route
  const changesOf = (modifiers: readonly HeaderModifiers[], of: keyof HeaderModifiers): HeaderChanges[] =>
    modifiers
      .map((each) => checkChanges(each[of], onIgnored))
      .filter(({ remove, set, add }) => remove.length + set.length + add.length > 0)
  return {
    matches: await compileMatch(match, onIgnored),
    path: match.path,
    prefixRewrite,
    hashPolicies,
    rules: { requestTimeoutMs, idleTimeoutMs, retry: retryPolicy(route.retry, onIgnored) },
    shares: route.legs.reduce((sum, { share }) => sum + share, 0),
    legs: route.legs.map(({ key, share, headers }) => ({
      key,
      share,
      // Envoy applies the more specific changes first.
      request: changesOf([headers, route.headers], 'request'),
      response: changesOf([headers, route.headers], 'response'),
    })),
  }
}

function drawLeg({ legs, shares }: CompiledRoute, random: () => number): CompiledLeg {
  const [first] = legs
  if (first === undefined) throw new Error('a route has no leg')
  if (legs.length === 1) return first
  let left = random() * shares
  return legs.find(({ share }) => (left -= share) < 0) ?? first
}
