import type { ConsulApi } from 'consul-connect'
import { elapsed } from '../time.js'

const PATH = '/v1/agent/connect/ca/roots'
const WAIT_S = 60
const PAUSE_MS = 500

/**
 * Detects restarts of the agent. A restarted agent may have lost registrations, so they are sent again. If a
 * registration disappears while the agent keeps running, another client removed it. A blocking query on the CA roots
 * fails when the agent stops.
 */
export class RestartDetector {
  readonly #api: ConsulApi
  readonly #onBack: () => void
  readonly #closed = new AbortController()
  #generation = 0
  #isConnected = false

  /** @param onBack - called when the agent responds for the first time, and after each outage */
  constructor(api: ConsulApi, onBack: () => void) {
    this.#api = api
    this.#onBack = onBack
    void this.#watch()
  }

  /** Generation of the agent. Increases with each interruption, which may have been a restart. */
  get generation(): number {
    return this.#generation
  }

  /** Whether the blocking query is established, so that a restart would be detected. */
  get isConnected(): boolean {
    return this.#isConnected
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
        // The agent adds jitter of up to 1/16 to the wait.
        const timeoutMs = (WAIT_S * 1.0625 + 10) * 1_000
        const answer = await this.#api.exchange({ path: PATH, query, signal, timeoutMs })
        const seen = answer.headers['x-consul-index']
        const wasConnected = this.#isConnected
        this.#isConnected = answer.status === 200 && typeof seen === 'string'
        if (!this.#isConnected) throw new Error(`${PATH} returned status ${answer.status}`)
        if (!wasConnected) this.#onBack()
        // A repeated or invalid index makes the next query return immediately.
        if (String(seen) === index) await this.#pause()
        index = /^[1-9]\d*$/.test(String(seen)) ? String(seen) : '0'
      } catch {
        this.#isConnected = false
        this.#generation += 1
        index = '0'
        await this.#pause()
      }
    }
  }

  async #pause(): Promise<void> {
    await elapsed(PAUSE_MS, this.#closed.signal)
  }
}
