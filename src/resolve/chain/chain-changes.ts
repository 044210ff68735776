import { setMaxListeners } from 'node:events'
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

/** The reads have the timeout of the agent, and end with the watches. */
const NEVER_ABORTED = new AbortController().signal
setMaxListeners(0, NEVER_ABORTED)

/** Chains expire at most this often, however often config entries change. */
const SHORTEST_INTERVAL_MS = 1_000

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
  #ready: Promise<unknown> = Promise.resolve()
  #isReady = false
  #reportedAt = -Infinity
  #cancelReport: (() => void) | undefined
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

  /**
   * Resolves when each kind of entry was read or could not be read: a chain that is read from then on is no older than
   * what the watches know. Never rejects.
   */
  async ready(): Promise<void> {
    await this.#ready
  }

  /** Watches until the last user has called the returned function. */
  use(): () => void {
    this.#users += 1
    if (this.#users === 1) this.#open()
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
    this.#isReady = false
    this.#cancelReport?.()
    this.#cancelReport = undefined
  }

  /** Reports a change at once, or after the interval since the last report. */
  #report(): void {
    const { clock } = this.#time
    if (this.#cancelReport !== undefined) return
    const leftMs = this.#reportedAt + SHORTEST_INTERVAL_MS - clock.now()
    const report = (): void => {
      this.#cancelReport = undefined
      this.#reportedAt = clock.now()
      this.emit('changed')
    }
    if (leftMs > 0 && leftMs <= SHORTEST_INTERVAL_MS) this.#cancelReport = clock.after(leftMs, report)
    else report()
  }

  #open(): void {
    const watches = CHAIN_KINDS.map((kind) => this.#watch(kind))
    this.#watches = watches
    // A closed watch rejects as well.
    const reads = watches.map((watch) => watch.now(NEVER_ABORTED))
    this.#ready = Promise.allSettled(reads).then(() => {
      if (this.#watches === watches) this.#isReady = true
    })
  }

  #watch(kind: ChainKind): CachedWatch<EntryVersions> {
    const watch: CachedWatch<EntryVersions> = new CachedWatch({
      name: `config entries of the kind ${kind}`,
      fetch: (query) => fetchEntryVersions(this.#agent, kind, query),
      slots: this.#agent.upstreamSlots,
      waitMs: this.#agent.settings.waitMs,
      ...this.#time,
    })
    watch.on('value', () => {
      // The first values are no changes.
      if (!this.#isReady) return
      log.resolve('config entries of the kind %s have changed', kind)
      this.#report()
    })
    return watch
  }
}
