import type { AgentClient } from '../agent/client.js'
import type { Time } from '../base/clock.js'
import { DestinationIntentions } from './destination-intentions.js'

/** Shared intentions for a service. The last release ends their watch. */
export interface IntentionsLease {
  readonly intentions: DestinationIntentions
  release(): void
}

/** The watched intentions of all services of a process: one copy for each destination. */
export class IntentionRegistry {
  readonly #agent: AgentClient
  readonly #time: Time
  readonly #shared = new Map<string, { readonly intentions: DestinationIntentions; users: number }>()

  constructor(agent: AgentClient, time: Time) {
    this.#agent = agent
    this.#time = time
  }

  lease(service: string, staleMs: number): IntentionsLease {
    const key = `${staleMs} ${service}`
    const entry = this.#shared.get(key) ?? {
      intentions: new DestinationIntentions({ agent: this.#agent, service, staleMs, ...this.#time }),
      users: 0,
    }
    this.#shared.set(key, entry)
    entry.users += 1
    let isReleased = false
    return {
      intentions: entry.intentions,
      release: () => {
        if (isReleased) return
        isReleased = true
        entry.users -= 1
        if (entry.users > 0) return
        this.#shared.delete(key)
        entry.intentions.close()
      },
    }
  }

  close(): void {
    for (const { intentions } of this.#shared.values()) intentions.close()
    this.#shared.clear()
  }
}
