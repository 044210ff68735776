import type { AgentRequest } from './http.js'
import type { Json } from './json.js'
import { matches, type RequestMatch } from './requests.js'

/**
 * What a faulty agent answers. Without `body`, `hang` or `reset` it is the agent's own answer, bent by `status`,
 * `headers`, `contentType`, `transform` and `truncate`.
 */
export interface FaultAnswer {
  status?: number
  /** Added to the headers; an empty string takes one away. */
  headers?: Record<string, string>
  /** Sent verbatim in place of the agent's answer. */
  body?: string
  /** @default 'text/html' with a `body`, else what the agent says */
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
