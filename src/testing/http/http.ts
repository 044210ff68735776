/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | JsonObject

/** A JSON object. A field with the value `undefined` is left out of the JSON text. */
export interface JsonObject {
  [key: string]: Json | undefined
}

export function isObject(json: Json | undefined): json is JsonObject {
  return typeof json === 'object' && json !== null && !Array.isArray(json)
}

/** Whether a value is absent or the zero value of its type, which Go leaves out with `omitempty`. */
export function isZero(json: Json | undefined): boolean {
  if (typeof json === 'object' && json !== null) return Object.keys(json).length === 0
  return json === undefined || json === null || json === '' || json === 0 || json === false
}

/** Removes the fields with zero values, as Go does with `omitempty`. */
export function omitZero(json: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(json).filter(([, value]) => !isZero(value)))
}

/** A request to the agent. Faults and counters select requests by it. */
export interface AgentRequest {
  method: string
  /** The path without the query. */
  path: string
  /** The path and the query, as the client sent them. */
  url: string
  query: URLSearchParams
  /** The ACL token; undefined without one. */
  token: string | undefined
}

/** A request that a handler answers. */
export interface Call extends AgentRequest {
  /** The decoded rest of the path after the path of the route, such as the name of a service. */
  rest: string
  body: Buffer
  /** Aborted when the client closes the connection or the agent stops. */
  signal: AbortSignal
  /** Counts the request as blocked while the promise is pending. */
  blocked(wait: Promise<void>): Promise<void>
}

export interface Answer {
  status: number
  headers: Record<string, string>
  /** Sent as JSON. If undefined, `body` is sent. */
  json?: Json
  body?: Buffer | string
}

/** An error that is the answer to the request. Consul sends its message as plain text. */
export class HttpError extends Error {
  override name = 'HttpError'
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

export function json(value: Json, headers: Record<string, string> = {}): Answer {
  return { status: 200, headers, json: value }
}

export function empty(status = 200): Answer {
  return { status, headers: {} }
}

export function text(status: number, body: string, headers: Record<string, string> = {}): Answer {
  return { status, headers: { ...headers, 'Content-Type': 'text/plain; charset=utf-8' }, body }
}
