import type { RequestDecision } from '../../authorize/requests/request-policy.js'
import type { ReceivedRequest } from '../../authorize/requests/received-request.js'
import { OptionError } from '../../base/errors.js'
import { describe, expectSignal, expectString, optional, readOptions } from '../../base/options/validate.js'

/** Options of `authorize` for a connection. */
export interface AuthorizeOptions {
  readonly signal?: AbortSignal | undefined
}

/** Options of `authorize` for an HTTP request. */
export interface AuthorizeRequestOptions extends AuthorizeOptions {
  /** Such as `GET`. */
  readonly method: string
  /** The path with its query, as it was received. */
  readonly path: string
  /**
   * The headers: an object, or a list of names and values in turn such as `request.rawHeaders`, which keeps repeated
   * lines apart.
   * @default none but a Host header
   */
  readonly headers?: Readonly<Record<string, string | readonly string[]>> | readonly string[] | undefined
}

/** The decision about a request. */
export interface AuthorizedRequest extends RequestDecision {
  /** The normalized path with its query, to which the rules were applied. */
  readonly path: string
}

export interface AuthorizeSettings {
  readonly signal: AbortSignal | undefined
  readonly request: ReceivedRequest | undefined
}

/** @throws OptionError */
export function authorizeSettings(given: AuthorizeOptions | AuthorizeRequestOptions = {}): AuthorizeSettings {
  const { signal, method, path, headers } = readOptions(given, {
    signal: optional(expectSignal),
    method: optional(expectString),
    path: optional(expectString),
    headers: optional(expectHeaders),
  })
  if (method === undefined && path === undefined && headers === undefined)
    return { signal, request: undefined }
  if (method === undefined || path === undefined)
    throw new OptionError(method === undefined ? 'method' : 'path', 'both method and path', 'one of them')
  const rawHeaders = headers ?? []
  const hasHost = rawHeaders.some((text, i) => i % 2 === 0 && text.toLowerCase() === 'host')
  const request = { method, target: path, rawHeaders, isHttp2: false, authority: hasHost ? undefined : '' }
  return { signal, request }
}

function expectHeaders(option: string, value: unknown): readonly string[] {
  if (Array.isArray(value) && value.length % 2 === 0 && value.every((text) => typeof text === 'string'))
    return value
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new OptionError(option, 'an object, or a list of names and values', describe(value))
  return Object.entries(value).flatMap(([name, lines]: [string, unknown]) =>
    (Array.isArray(lines) ? (lines as unknown[]) : [lines]).flatMap((line) => [
      name,
      expectString(`${option}[${JSON.stringify(name)}]`, line),
    ]),
  )
}
