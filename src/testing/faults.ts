import { STATUS_CODES } from 'node:http'
import { text, type AgentRequest, type Answer } from './http.js'
import type { Json } from './json.js'
import { matches, type RequestMatch } from './requests.js'

/**
 * What a faulty agent answers. With a `body`, or a `status` from 400 on and no `transform`, the request is not
 * carried out at all; else it is, and the agent's own answer is bent.
 */
export interface FaultAnswer {
  status?: number
  /** Added to the headers; an empty string takes one away. */
  headers?: Record<string, string>
  /** Sent verbatim in place of the agent's answer. */
  body?: string
  /** @default 'text/html' with a `body`, else that of the answer */
  contentType?: string
  /** Time before the answer. @default 0 */
  delayMs?: number
  /** Announce the whole body, send half of it and cut the connection. @default false */
  truncate?: boolean
  /** Never answer. @default false */
  hang?: boolean
  /** Reset the connection in place of an answer. @default false */
  reset?: boolean
  /** Changes the JSON of the agent's answer. */
  transform?: (json: Json) => Json
  /** How many requests it strikes. @default Infinity */
  times?: number
}

/** The answer that stands in for the agent's own, if the fault has one. */
export function replacement({ body, status = 200, transform }: FaultAnswer): Answer | undefined {
  if (body !== undefined) return { status, headers: { 'Content-Type': 'text/html' }, body }
  return status >= 400 && !transform ? text(status, STATUS_CODES[status] ?? '') : undefined
}

/** Rules that spoil answers: the newest that matches a request strikes. */
export class Faults {
  readonly #rules: { match: RequestMatch; answer: FaultAnswer; left: number }[] = []

  /** Returns the function that takes the rule away again. */
  add(match: RequestMatch, answer: FaultAnswer): () => void {
    const rule = { match, answer, left: answer.times ?? Infinity }
    this.#rules.unshift(rule)
    return () => {
      rule.left = 0
    }
  }

  take(request: AgentRequest): FaultAnswer | undefined {
    const rule = this.#rules.find(({ match, left }) => left > 0 && matches(match, request))
    if (!rule) return undefined
    rule.left--
    return rule.answer
  }

  clear(): void {
    this.#rules.length = 0
  }
}
