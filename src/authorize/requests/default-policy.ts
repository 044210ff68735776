import type { AgentClient } from '../../agent/client.js'
import { fetchDefaultPolicy } from '../../agent/endpoints/agent-self.js'
import type { Clock } from '../../base/clock.js'
import { AgentError } from '../../base/errors.js'

/** How long an answer counts as current. */
const CACHE_MS = 60_000

/** The default policy for intentions, as the settings of the agent say. */
export class DefaultPolicy {
  readonly #agent: AgentClient
  readonly #clock: Clock
  #answer: { readonly allows: Promise<boolean>; readonly askedAt: number } | undefined

  constructor(agent: AgentClient, clock: Clock) {
    this.#agent = agent
    this.#clock = clock
  }

  /**
   * Whether the policy allows. False if the token may not read the settings, which needs `agent:read`: a policy that
   * allows would also grant that.
   * @throws AgentError
   */
  allows(): Promise<boolean> {
    const age = this.#clock.now() - (this.#answer?.askedAt ?? -Infinity)
    if (this.#answer === undefined || age < 0 || age >= CACHE_MS) {
      const answer = { allows: this.#ask(), askedAt: this.#clock.now() }
      this.#answer = answer
      answer.allows.catch(() => {
        if (this.#answer === answer) this.#answer = undefined
      })
    }
    return this.#answer.allows
  }

  /** Makes the next call ask again. */
  expire(): void {
    this.#answer = undefined
  }

  async #ask(): Promise<boolean> {
    try {
      const { value } = await fetchDefaultPolicy(this.#agent)
      return value === 'allow'
    } catch (error) {
      if (error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_FORBIDDEN') return false
      throw error
    }
  }
}
