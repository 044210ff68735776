import type { DnsQuery } from './query.js'

/**
 * Stands between a query and its answer, which it may replace: by bytes that are sent as they are, by `drop` for no
 * answer at all, or by `reset`, which cuts a TCP connection and is no answer over UDP. Undefined leaves the answer as
 * it is.
 */
export type DnsFault = (
  query: DnsQuery,
  answer: Buffer,
) => Buffer | 'drop' | 'reset' | undefined | Promise<Buffer | 'drop' | 'reset' | undefined>

/** The newest fault that has something to say strikes. */
export class DnsFaults {
  readonly #faults: DnsFault[] = []

  /** Returns the function that takes the fault away again. */
  add(fault: DnsFault): () => void {
    const own: DnsFault = (query, answer) => fault(query, answer)
    this.#faults.unshift(own)
    return () => {
      const index = this.#faults.indexOf(own)
      if (index !== -1) this.#faults.splice(index, 1)
    }
  }

  clear(): void {
    this.#faults.length = 0
  }

  async strike(query: DnsQuery, answer: Buffer): Promise<Buffer | 'nothing' | 'reset'> {
    for (const fault of [...this.#faults]) {
      const instead = await fault(query, answer)
      if (instead === 'drop') return 'nothing'
      if (instead !== undefined) return instead
    }
    return answer
  }
}
