import { STATUS_CODES } from 'node:http'
import { text, type AgentRequest, type Answer, type Json } from './http.js'
import { matches, type RequestMatch } from './requests.js'

/**
 * The answer of a faulty agent. With a `body`, or with a `status` of 400 or more and no `transform`, the agent does not
 * execute the request. Otherwise it executes the request and changes its answer.
 */
export interface FaultAnswer {
  status?: number
  /** Headers to add; an empty string removes the header. */
  headers?: Record<string, string>
  /** Sent unchanged in place of the answer, as `text/html` unless `headers` has another type. */
  body?: string
  /** Time before the answer in milliseconds. @default 0 */
  delayMs?: number
  /** Announce the whole body, send half of it, and close the connection. @default false */
  truncate?: boolean
  /** Never answer. @default false */
  hang?: boolean
  /** Reset the connection in place of an answer. @default false */
  reset?: boolean
  /** Changes the JSON of the answer. */
  transform?: (json: Json) => Json
  /** Number of requests that the fault applies to. @default Infinity */
  times?: number
}

/** The faults of the agent. The newest fault that matches a request applies. */
export class Faults {
  readonly #rules: { match: RequestMatch; answer: FaultAnswer; remaining: number }[] = []

  /** @returns a function that removes the fault */
  add(match: RequestMatch, answer: FaultAnswer): () => void {
    const rule = { match, answer, remaining: answer.times ?? Infinity }
    this.#rules.unshift(rule)
    return () => {
      rule.remaining = 0
    }
  }

  /** Returns the fault that applies to a request, and counts the request. */
  take(request: AgentRequest): FaultAnswer | undefined {
    const rule = this.#rules.find(({ match, remaining }) => remaining > 0 && matches(match, request))
    if (!rule) return undefined
    rule.remaining--
    return rule.answer
  }
}

/** Returns the answer that replaces the answer of the agent; undefined if the agent executes the request. */
export function replacement({ body, status = 200, transform }: FaultAnswer): Answer | undefined {
  if (body !== undefined) return { status, headers: { 'Content-Type': 'text/html' }, body }
  return status >= 400 && !transform ? text(status, STATUS_CODES[status] ?? '') : undefined
}
