import { Notifier } from '../state/changes.js'
import type { AgentRequest } from './http.js'

/** Selects requests: by a prefix of the path, by a RegExp on `METHOD /path?query`, or by a function. */
export type RequestMatch = string | RegExp | ((request: AgentRequest) => boolean)

const MAX_RECORDED_REQUESTS = 10_000

export function matches(match: RequestMatch | undefined, request: AgentRequest): boolean {
  if (match === undefined) return true
  if (typeof match === 'string') return request.path.startsWith(match)
  if (typeof match === 'function') return match(request)
  // A RegExp with the flag g or y starts at the position of its last match.
  match.lastIndex = 0
  return match.test(`${request.method} ${request.url}`)
}

/** Records the last requests, and the requests that wait in a blocking query. */
export class Requests {
  readonly #seen: AgentRequest[] = []
  readonly #blocked = new Set<AgentRequest>()
  readonly #changes = new Notifier()

  record(request: AgentRequest): void {
    this.#seen.push(request)
    if (this.#seen.length > MAX_RECORDED_REQUESTS) this.#seen.shift()
    this.#changes.notify()
  }

  /** Counts the request as blocked until the promise resolves. It must not reject. */
  async block(request: AgentRequest, wait: Promise<void>): Promise<void> {
    this.#blocked.add(request)
    this.#changes.notify()
    await wait
    this.#blocked.delete(request)
  }

  countSeen(match?: RequestMatch): number {
    return this.#seen.filter((request) => matches(match, request)).length
  }

  countBlocked(match?: RequestMatch): number {
    return [...this.#blocked].filter((request) => matches(match, request)).length
  }

  /**
   * Resolves when the condition is true. Checks it now, and when a request arrives or blocks.
   * @throws the reason of the signal when it is aborted
   */
  async until(condition: () => boolean, signal?: AbortSignal): Promise<void> {
    for (;;) {
      signal?.throwIfAborted()
      if (condition()) return
      await this.#changes.next(signal)
    }
  }
}
