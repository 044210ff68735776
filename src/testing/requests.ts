import { STATUS_CODES } from 'node:http'
import { text, type AgentRequest, type Answer } from './http.js'
import type { Json } from './json.js'

/** Selects requests: by a prefix of the path, by a RegExp on `METHOD /path?query`, or by a function. */
export type RequestMatch = string | RegExp | ((request: AgentRequest) => boolean)

/**
 * The answer of a faulty agent. With a `body`, or with a `status` of 400 or more and no `transform`, the agent does not
 * execute the request; otherwise it does, and its answer is changed.
 */
export interface FaultAnswer {
  status?: number
  /** Headers to add; an empty string removes the header. */
  headers?: Record<string, string>
  /** Sent verbatim in place of the agent's answer. */
  body?: string
  /** @default 'text/html' with a `body`, otherwise the type of the answer */
  contentType?: string
  /** Time before the answer in milliseconds. @default 0 */
  delayMs?: number
  /** Announce the whole body, send half of it, and close the connection. @default false */
  truncate?: boolean
  /** Never answer. @default false */
  hang?: boolean
  /** Reset the connection in place of an answer. @default false */
  reset?: boolean
  /** Changes the JSON of the agent's answer. */
  transform?: (json: Json) => Json
  /** Number of requests that the fault applies to. @default Infinity */
  times?: number
}

const MAX_RECORDED_REQUESTS = 10_000

function matches(match: RequestMatch | undefined, request: AgentRequest): boolean {
  if (match === undefined) return true
  if (typeof match === 'string') return request.path.startsWith(match)
  if (typeof match === 'function') return match(request)
  // A RegExp with the flag g or y keeps the position of its last match.
  match.lastIndex = 0
  return match.test(`${request.method} ${request.url}`)
}

/** Records the last requests and those that wait in a blocking query. */
export class Requests {
  readonly #seen: AgentRequest[] = []
  readonly #blocked = new Set<AgentRequest>()
  readonly #waiting = new Set<() => void>()

  record(request: AgentRequest): void {
    this.#seen.push(request)
    if (this.#seen.length > MAX_RECORDED_REQUESTS) this.#seen.shift()
    this.#notify()
  }

  async block(request: AgentRequest, wait: Promise<void>): Promise<void> {
    this.#blocked.add(request)
    this.#notify()
    try {
      await wait
    } finally {
      this.#blocked.delete(request)
    }
  }

  seen(match?: RequestMatch): number {
    return this.#seen.filter((request) => matches(match, request)).length
  }

  blocked(match?: RequestMatch): number {
    return [...this.#blocked].filter((request) => matches(match, request)).length
  }

  /** Resolves once the condition holds. It is checked at each request and at each block. */
  until(condition: () => boolean, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        this.#waiting.delete(check)
        signal?.removeEventListener('abort', abort)
      }
      const check = (): void => {
        if (!condition()) return
        stop()
        resolve()
      }
      const abort = (): void => {
        stop()
        reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted'))
      }
      this.#waiting.add(check)
      signal?.addEventListener('abort', abort)
      if (signal?.aborted) abort()
      else check()
    })
  }

  #notify(): void {
    for (const check of [...this.#waiting]) check()
  }
}

/** Faults of the agent. The newest fault that matches a request applies. */
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

  take(request: AgentRequest): FaultAnswer | undefined {
    const rule = this.#rules.find(({ match, remaining }) => remaining > 0 && matches(match, request))
    if (!rule) return undefined
    rule.remaining--
    return rule.answer
  }

  clear(): void {
    this.#rules.length = 0
  }
}

/** The answer in place of the agent's own, if the fault has one. */
export function replacement({ body, status = 200, transform }: FaultAnswer): Answer | undefined {
  if (body !== undefined) return { status, headers: { 'Content-Type': 'text/html' }, body }
  return status >= 400 && !transform ? text(status, STATUS_CODES[status] ?? '') : undefined
}
