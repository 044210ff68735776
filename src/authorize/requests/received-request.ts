import type { RequestHead } from '../../matching/request-matcher.js'

/** A request as it was received. */
export interface ReceivedRequest {
  readonly method: string
  /** The request target of HTTP/1, or `:path`; empty for CONNECT. */
  readonly target: string
  /** `:authority` of HTTP/2. */
  readonly authority: string | undefined
  /** Name, value, name, value; also the pseudo headers of HTTP/2. A character for each byte. */
  readonly rawHeaders: readonly string[]
  readonly isHttp2: boolean
}

/** A received request as rules see it. */
export class ReceivedHead implements RequestHead {
  readonly method: string
  readonly path: string
  /** The host of the request, which the target of HTTP/1 may name as well. */
  readonly authority: string | undefined
  readonly #rawHeaders: readonly string[]
  readonly #isHttp2: boolean
  readonly #target: string

  /**
   * @param path - the path that rules apply to
   * @param authority - the host, if the target or `:authority` names it
   */
  constructor(
    { method, rawHeaders, isHttp2, target }: ReceivedRequest,
    path: string,
    authority: string | undefined,
  ) {
    this.method = method
    this.path = path
    this.authority = authority
    this.#rawHeaders = rawHeaders
    this.#isHttp2 = isHttp2
    this.#target = target
  }

  lines(name: string): readonly string[] {
    if (name === 'host' && this.authority !== undefined) return [this.authority]
    const found = headerLines(this.#rawHeaders, name)
    if (name === ':scheme')
      return this.#isHttp2 ? found.map((scheme) => scheme.toLowerCase()) : [this.#scheme()]
    // Envoy adds it: connections of the mesh are encrypted.
    if (name === 'x-forwarded-proto' && found.length === 0) return ['https']
    // Clients may split this header (RFC 9113, section 8.2.3).
    return name === 'cookie' && this.#isHttp2 && found.length > 1 ? [found.join('; ')] : found
  }

  /** The scheme of an HTTP/1 request: that of its target, or the one that a proxy before us has received. */
  #scheme(): string {
    const [given = '', ...more] = headerLines(this.#rawHeaders, 'x-forwarded-proto')
    const isHttp = /^http:/i.test(this.#target) || (more.length === 0 && given.toLowerCase() === 'http')
    return isHttp ? 'http' : 'https'
  }
}

const NONE: readonly string[] = []

/** @param name - in lower case */
export function headerLines(rawHeaders: readonly string[], name: string): readonly string[] {
  let lines: string[] | undefined
  for (let i = indexOfHeader(rawHeaders, name, 0); i >= 0; i = indexOfHeader(rawHeaders, name, i + 2)) {
    lines ??= []
    lines.push(rawHeaders[i + 1] ?? '')
  }
  return lines ?? NONE
}

/**
 * Removes all lines of a header.
 * @param name - in lower case
 */
export function removeLines(rawHeaders: string[], name: string): void {
  for (let i = indexOfHeader(rawHeaders, name); i >= 0; i = indexOfHeader(rawHeaders, name, i))
    rawHeaders.splice(i, 2)
}

/**
 * Returns the index of the first line of a header; -1 without one.
 * @param name - in lower case
 */
export function indexOfHeader(rawHeaders: readonly string[], name: string, from = 0): number {
  for (let i = from; i < rawHeaders.length; i += 2) {
    const given = rawHeaders[i]
    if (given?.length === name.length && (given === name || given.toLowerCase() === name)) return i
  }
  return -1
}
