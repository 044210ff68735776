import { Waiters } from '../waiters.js'
import type { DnsQuery } from './query.js'

/** Picks queries: a string is the whole name, in any case; a RegExp is tried on `TYPE name`; a function decides for itself. */
export type DnsMatch = string | RegExp | ((query: DnsQuery) => boolean)

const remembered = 10_000

/** The last queries, and who waits for some. */
export class DnsQueries {
  readonly #seen: DnsQuery[] = []
  readonly #waiters = new Waiters()

  record(query: DnsQuery): void {
    this.#seen.push(query)
    if (this.#seen.length > remembered) this.#seen.shift()
    this.#waiters.wake()
  }

  seen(match?: DnsMatch): number {
    return this.#seen.filter((query) => matches(match, query)).length
  }

  until(match: DnsMatch, count: number, signal?: AbortSignal): Promise<void> {
    return this.#waiters.until(() => this.seen(match) >= count, signal)
  }
}

function matches(match: DnsMatch | undefined, query: DnsQuery): boolean {
  if (match === undefined) return true
  if (typeof match === 'string') return query.name.toLowerCase() === match.toLowerCase()
  if (typeof match === 'function') return match(query)
  // A /g or /y expression remembers where it stopped.
  match.lastIndex = 0
  return match.test(`${query.type} ${query.name}`)
}
