import type { AgentClient } from '../agent/client.js'
import type { Time } from '../base/clock.js'
import { DestinationIntentions } from './destination-intentions.js'

/** A user's share in the intentions for a service; the last one to give it back ends their watch. */
export interface IntentionsLease {
  readonly intentions: DestinationIntentions
  release(): void
}

/** The intentions that the services of a process watch: one copy for each destination. */
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
