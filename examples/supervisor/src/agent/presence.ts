import type { ConsulApi } from 'consul-connect'
import { elapsed } from '../time.js'

const PATH = '/v1/agent/connect/ca/roots'
const WAIT_S = 60
const PAUSE_MS = 500

/**
 * Tells one run of the agent from the next. An agent that was started anew may have forgotten what was registered with
 * it, and is to be told again; what is missing from one that has run all the time was taken away by somebody, and is to
 * stay away. A query that blocks breaks off when the agent ends.
 */
export class Presence {
  readonly #api: ConsulApi
  readonly #onBack: () => void
  readonly #closed = new AbortController()
  #run = 0
  #isThere = false

  /** @param onBack - called when the agent answers for the first time, and for the first time after an outage */
  constructor(api: ConsulApi, onBack: () => void) {
    this.#api = api
    this.#onBack = onBack
    void this.#watch()
  }

  /** Another number for each run of the agent that may be another. */
  get run(): number {
    return this.#run
  }

  /** Whether this run can be told from the next. */
  get isThere(): boolean {
    return this.#isThere
  }

  close(): void {
    this.#closed.abort()
  }

  async #watch(): Promise<void> {
    const { signal } = this.#closed
    let index = '0'
    while (!signal.aborted) {
      try {
        const query = index === '0' ? {} : { index, wait: `${WAIT_S}s` }
        // The agent adds up to a sixteenth to the wait.
        const timeoutMs = (WAIT_S * 1.0625 + 10) * 1_000
        const answer = await this.#api.exchange({ path: PATH, query, signal, timeoutMs })
        const seen = answer.headers['x-consul-index']
        const wasThere = this.#isThere
        this.#isThere = answer.status === 200 && typeof seen === 'string'
        if (!this.#isThere) throw new Error(`${PATH} was answered with ${answer.status}`)
        if (!wasThere) this.#onBack()
        // An index that does not change, or is none, would be answered at once.
        if (String(seen) === index) await this.#pause()
        index = /^[1-9]\d*$/.test(String(seen)) ? String(seen) : '0'
      } catch {
        this.#isThere = false
        this.#run += 1
        index = '0'
        await this.#pause()
      }
    }
  }

  async #pause(): Promise<void> {
    await elapsed(PAUSE_MS, this.#closed.signal)
  }
}
