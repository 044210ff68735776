import { DecodeError, FieldReader, parseJson, type Json } from './json.js'

/** A request as the agent got it; what fault rules and counters match on. */
export interface AgentRequest {
  method: string
  /** Path without the query. */
  path: string
  /** Path and query, verbatim. */
  url: string
  query: URLSearchParams
  token: string | undefined
}

/** A request on its way through a route. */
export interface Call extends AgentRequest {
  /** The decoded path after the route's own: the name of the service, the key. */
  rest: string
  body: Buffer
  /** Aborts when the client goes away or the agent stops. */
  signal: AbortSignal
  /** Marks the request as hanging in a blocking query for as long as the promise is pending. */
  blocked(wait: Promise<void>): Promise<void>
}

export interface Answer {
  status: number
  headers: Record<string, string>
  /** Sent as JSON when present, in place of `body`. */
  json?: Json
  body?: Buffer | string
}

export type Handler = (call: Call) => Answer | Promise<Answer>

/** An answer that is an error: Consul sends its message as plain text. */
export class HttpError extends Error {
  override name = 'HttpError'
  readonly status: number
  readonly headers: Record<string, string>

  constructor(status: number, message: string, headers: Record<string, string> = {}) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

export function json(value: Json, headers: Record<string, string> = {}): Answer {
  return { status: 200, headers, json: value }
}

export function empty(status = 200, headers: Record<string, string> = {}): Answer {
  return { status, headers }
}

export function text(status: number, body: string, headers: Record<string, string> = {}): Answer {
  return { status, headers: { ...headers, 'Content-Type': 'text/plain; charset=utf-8' }, body }
}

/** Reads a JSON body; Consul's endpoints differ in the status and the words around a decoding error. */
export function decode<T>(call: Call, status: number, prefix: string, read: (fields: FieldReader) => T): T {
  try {
    return read(new FieldReader(parseJson(call.body.toString())))
  } catch (error) {
    if (error instanceof DecodeError) throw new HttpError(status, `${prefix}: ${error.message}`)
    throw error
  }
}

/** Several complaints in the form of HashiCorp's go-multierror. */
export function multiError(status: number, problems: string[]): HttpError {
  const head = problems.length === 1 ? '1 error occurred:' : `${problems.length} errors occurred:`
  return new HttpError(status, `${head}\n${problems.map((problem) => `\t* ${problem}\n`).join('')}\n`)
}
