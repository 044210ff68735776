import type { RequestNormalization } from '../../agent/endpoints/mesh-entry.js'
import { normalizePath } from '../../matching/path-normalization.js'
import { ReceivedHead, type ReceivedRequest, headerLines } from './received-request.js'
import type { RequestDecision, RequestPolicy } from './request-policy.js'

/** What happens to a request. */
export interface RequestOutcome {
  /** The request as it was decided, and as its handler must see it. */
  readonly head: ReceivedHead
  readonly decision: RequestDecision
  /** The HTTP status of the answer to a request that was not authorized: 403, 400, or 307. */
  readonly status: number
  /** Where a client is redirected. */
  readonly location: string | undefined
}

/** The outcome for a request that cannot be decided. */
export function malformed(
  request: ReceivedRequest,
  problem: string,
  status = 400,
  location?: string,
): RequestOutcome {
  const reason = `the request has ${problem}`
  return {
    head: new ReceivedHead(request, request.target, request.authority),
    decision: { authorized: false, basis: 'malformed', reason, intention: undefined, permission: undefined },
    status,
    location,
  }
}

/** Decides a request: makes its target comparable as the mesh says, and asks the policy of its source. */
export function decideRequest(request: ReceivedRequest, policy: RequestPolicy): RequestOutcome {
  const problem = problemOf(request, policy.normalization)
  if (problem !== undefined) return malformed(request, problem)
  const target = parseTarget(request)
  if (target === undefined) return malformed(request, 'a target that is no path')
  const { path: given, authority = request.authority } = target
  const normalized = given === '' ? { path: '' } : normalizePath(given, policy.normalization)
  if ('problem' in normalized)
    return malformed(request, `a path with ${normalized.problem}`, normalized.status)
  if ('location' in normalized)
    return malformed(request, 'an escaped slash or backslash in its path', 307, normalized.location)
  const head = new ReceivedHead(request, normalized.path, authority)
  return { head, decision: policy.decide(head), status: 403, location: undefined }
}

function problemOf(
  { authority, rawHeaders, isHttp2 }: ReceivedRequest,
  { underscores }: RequestNormalization,
): string | undefined {
  const hosts = headerLines(rawHeaders, 'host')
  if (hosts.length > 1) return 'more than one Host header'
  if (hosts.length === 0 && authority === undefined) return 'no Host header'
  if (isHttp2 && authority !== undefined && hosts.length === 1 && hosts[0] !== authority)
    return 'a Host header that differs from its :authority'
  const invalid = isHttp2 ? NO_AUTHORITY : NO_HOST
  if (invalid.test(authority ?? '') || hosts.some((host) => invalid.test(host))) return 'a malformed host'
  if (headerLines(rawHeaders, 'connection').some(namesAnother))
    return 'a Connection header that names another header'
  if (underscores === 'reject' && hasUnderscore(rawHeaders)) return 'a header with an underscore in its name'
  return undefined
}

/** The characters that Envoy refuses in a host. */
const NO_HOST = /[^\w!$%&'()*+,\-.:;=@[\]~]/
const NO_AUTHORITY = /[^\w!$%&'()*+,\-.:;=[\]~]/

/** What a Connection header may contain. Envoy removes any other header that it names, before rules apply. */
const OF_CONNECTIONS: ReadonlySet<string> = new Set([
  ...['', 'close', 'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding'],
  'upgrade',
])

function namesAnother(line: string): boolean {
  return line.split(',').some((name) => !OF_CONNECTIONS.has(name.trim().toLowerCase()))
}

function hasUnderscore(rawHeaders: readonly string[]): boolean {
  return rawHeaders.some((text, i) => i % 2 === 0 && text.includes('_'))
}

const ABSOLUTE = /^https?:\/\/((?:[a-z\d.-]+|\[[a-f\d:.]+\])(?::\d+)?)(\/.*)?$/is

/**
 * Returns the path of a request with its query, and the host that its target names; undefined if it has neither. CONNECT
 * has no path.
 */
export function parseTarget({
  method,
  target,
  isHttp2,
}: ReceivedRequest): { readonly path: string; readonly authority?: string } | undefined {
  if (method === 'CONNECT' && !isHttp2)
    return NO_HOST.test(target) ? undefined : { path: '', authority: target }
  if (target.startsWith('/')) return { path: target }
  if (method === 'CONNECT' && target === '') return { path: '' }
  const [whole, authority, path = '/'] = isHttp2 ? [] : (ABSOLUTE.exec(target) ?? [])
  return whole === undefined || authority === undefined ? undefined : { path, authority }
}
