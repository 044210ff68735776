import { stringify } from 'node:querystring'
import type { Dispatcher } from 'undici'
import { OptionError } from '../../base/errors.js'
import { describe } from '../../base/options/validate.js'

/** The head of a request of undici, as routes see it. */
export class RequestHead {
  readonly method: string
  /** With its query. */
  readonly path: string
  readonly #options: Dispatcher.DispatchOptions
  #lines: readonly string[] | undefined

  /** @throws OptionError */
  constructor(options: Dispatcher.DispatchOptions) {
    const { method, path, query } = options
    if (typeof method !== 'string') throw new OptionError('method', 'a method', describe(method))
    if (typeof path !== 'string') throw new OptionError('path', 'a path', describe(path))
    this.method = method
    this.path = pathOf(path, query)
    this.#options = options
  }

  /** Whether the headers are an iterable, of which nothing may be left after they were read. */
  get isReadOnce(): boolean {
    const { headers } = this.#options
    return (
      typeof headers === 'object' && headers !== null && !Array.isArray(headers) && Symbol.iterator in headers
    )
  }

  /** The header lines: name, value, name, value. */
  get headers(): readonly string[] {
    return (this.#lines ??= linesOf(this.#options.headers))
  }

  /** Returns the head with another path, and with other header lines if some are given. */
  changedTo(path: string, headers: readonly string[] = this.headers): RequestHead {
    const { method, origin } = this.#options
    return new RequestHead({ method, path, headers: [...headers], ...(origin !== undefined && { origin }) })
  }

  /** Returns the values of the lines of a header. @param name - in lower case */
  lines(name: string): readonly string[] {
    const { headers } = this
    const values: string[] = []
    for (let i = 0; i < headers.length; i += 2) {
      const key = headers[i]
      if (key?.length === name.length && key.toLowerCase() === name) values.push(headers[i + 1] ?? '')
    }
    // undici adds it.
    if (name === 'host' && values.length === 0) values.push(new URL(this.#options.origin ?? '').host)
    return values
  }
}

/** Returns a path that begins with a slash. One with a host is for proxies; the host of the request is its origin. */
function pathOf(path: string, query: unknown): string {
  if (query === undefined && path.startsWith('/')) return path
  const host = /^https?:\/\/[^/?#]*/.exec(path)?.[0] ?? ''
  const local = path.slice(host.length)
  // As undici does. `OPTIONS *` would become a request for the path `/*`.
  if (host === '' && !local.startsWith('/')) {
    throw new OptionError('path', 'a path that starts with a slash', describe(path))
  }
  const rooted = local.startsWith('/') ? local : `/${local}`
  if (typeof query !== 'object' || query === null) return rooted
  if (/[?#]/.test(rooted)) {
    throw new OptionError('query', 'none, since the path has a query', describe(query))
  }
  const text = stringify(query as Parameters<typeof stringify>[0])
  return text === '' ? rooted : `${rooted}?${text}`
}

/** Reads headers in any of the forms that undici accepts. */
function linesOf(headers: unknown): readonly string[] {
  if (typeof headers !== 'object' || headers === null) return []
  const lines: string[] = []
  const add = (name: unknown, value: unknown): void => {
    if (value === undefined) return
    for (const each of Array.isArray(value) ? (value as unknown[]) : [value]) {
      lines.push(String(name), each === null ? '' : toText(name, each))
    }
  }
  if (Array.isArray(headers)) {
    for (let i = 0; i < headers.length; i += 2) add(headers[i], headers[i + 1])
  } else if (Symbol.iterator in headers) {
    for (const [name, value] of headers as Iterable<readonly [unknown, unknown]>) add(name, value)
  } else {
    for (const [name, value] of Object.entries(headers)) add(name, value)
  }
  return lines
}

/** @throws OptionError for what undici refuses as the value of a header */
function toText(name: unknown, value: unknown): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  throw new OptionError('headers', `a text as the value of ${String(name)}`, describe(value))
}
