import type { AgentRequest } from './http.js'
import { Waiters } from './waiters.js'

/**
 * Picks requests: a string is a prefix of the path, a RegExp is tried on `METHOD /path?query`, a function decides
 * for itself.
 */
export type RequestMatch = string | RegExp | ((request: AgentRequest) => boolean)

const remembered = 10_000

export function matches(match: RequestMatch | undefined, request: AgentRequest): boolean {
  if (match === undefined) return true
  if (typeof match === 'string') return request.path.startsWith(match)
  if (typeof match === 'function') return match(request)
  // A /g or /y expression remembers where it stopped.
  match.lastIndex = 0
  return match.test(`${request.method} ${request.url}`)
}

/** The last requests, those that hang in a blocking query, and who waits for either. */
export class Requests {
  readonly #seen: AgentRequest[] = []
  readonly #blocked = new Set<AgentRequest>()
  readonly #waiters = new Waiters()

  record(request: AgentRequest): void {
    this.#seen.push(request)
    if (this.#seen.length > remembered) this.#seen.shift()
    this.#waiters.wake()
  }

  async block(request: AgentRequest, wait: Promise<void>): Promise<void> {
    this.#blocked.add(request)
    this.#waiters.wake()
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

  /** Resolves once the condition holds; it is tried again at each request and each block. */
  until(condition: () => boolean, signal?: AbortSignal): Promise<void> {
    return this.#waiters.until(condition, signal)
  }
}
