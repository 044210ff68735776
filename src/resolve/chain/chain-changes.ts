import { EventEmitter } from 'eventemitter3'
import { CachedWatch } from '../../agent/cached-watch.js'
import type { AgentClient } from '../../agent/client.js'
import {
  CHAIN_KINDS,
  type ChainKind,
  type EntryVersions,
  fetchEntryVersions,
} from '../../agent/endpoints/config-entries.js'
import type { Time } from '../../base/clock.js'
import { log } from '../../base/log.js'

interface ChainChangesEvents {
  /** A config entry has changed, so that every chain may have changed. */
  changed: []
}

/**
 * Reports changes of the config entries from which Consul compiles discovery chains. Five blocking queries, one for each
 * kind of entry, serve all chains of a process; a blocking query for each chain would exhaust the connections of the
 * agent.
 */
export class ChainChanges extends EventEmitter<ChainChangesEvents> {
  readonly #agent: AgentClient
  readonly #time: Time
  #watches: readonly CachedWatch<EntryVersions>[] = []
  #users = 0

  constructor(agent: AgentClient, time: Time) {
    super()
    this.#agent = agent
    this.#time = time
  }

  /**
   * Whether all changes are seen. False while the agent does not answer, or if the token may not read all config entries:
   * chains must then be read again after a while.
   */
  get isComplete(): boolean {
    return (
      this.#watches.length > 0 &&
      this.#watches.every(({ value, lastError }) => value?.isFiltered === false && lastError === undefined)
    )
  }

  /** Watches until the last user has called the returned function. */
  use(): () => void {
    this.#users += 1
    if (this.#users === 1) this.#watches = CHAIN_KINDS.map((kind) => this.#watch(kind))
    let isReleased = false
    return () => {
      if (isReleased) return
      isReleased = true
      this.#users -= 1
      if (this.#users === 0) this.close()
    }
  }

  close(): void {
    for (const watch of this.#watches) watch.close()
    this.#watches = []
  }

  #watch(kind: ChainKind): CachedWatch<EntryVersions> {
    const watch: CachedWatch<EntryVersions> = new CachedWatch({
      name: `config entries of the kind ${kind}`,
      fetch: (query) => fetchEntryVersions(this.#agent, kind, query),
      slots: this.#agent.blockingSlots,
      waitMs: this.#agent.settings.waitMs,
      ...this.#time,
    })
    watch.on('value', () => {
      log.resolve('config entries of the kind %s have changed', kind)
      this.emit('changed')
    })
    return watch
  }
}
