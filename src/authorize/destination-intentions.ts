import { EventEmitter } from 'eventemitter3'
import type { AgentClient } from '../agent/client.js'
import { type Intention, intentionsReader } from '../agent/endpoints/intentions.js'
import { CachedWatch } from '../agent/cached-watch.js'
import { isAborted } from '../base/deadline.js'
import type { Time } from '../base/clock.js'
import { AgentError, withCause } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { log } from '../base/log.js'
import { AgentAuthorization } from './agent-authorization.js'
import type { Decision } from './authorizer.js'
import { IntentionTable } from './intention-table.js'

/** How long the agent may hold a query: one that hangs must be noticed before long. */
const WAIT_MS = 30_000
/** However much changes in the mesh, a denial waits no longer than 40 ms to be read. */
const READS_PER_SECOND = 25

/** Since when the intentions are those of before. */
export interface Staleness {
  /** When they were known to be true for the last time. */
  readonly since: Date
  /** From when on everybody is denied. */
  readonly deniesAt: Date
  /** Why they cannot be read. */
  readonly cause: Error
}

interface IntentionsEvents {
  /** Decisions may be others from now on. */
  changed: []
  /** The agent is away; the last known intentions serve. */
  stale: [staleness: Staleness]
  /** The agent is back. */
  fresh: []
  /** The intentions could not be read; it will be tried again. */
  failed: [error: Error]
}

export interface IntentionsOptions extends Time {
  readonly agent: AgentClient
  /** The destination. */
  readonly service: string
  /** How long the last known intentions serve while the agent is away; 0 for not at all. */
  readonly staleMs: number
}

/** Who may connect to a service: decided in this process, from a watched copy of the mesh's intentions. */
export class DestinationIntentions extends EventEmitter<IntentionsEvents> {
  readonly #options: IntentionsOptions
  readonly #watched: CachedWatch<readonly Intention[]>
  readonly #word: AgentAuthorization
  #given: readonly Intention[] | undefined
  #table: IntentionTable | undefined
  #mayRead = true
  #readAt = 0
  #staleSince: number | undefined
  #hasExpired = false
  /** Whether the last read was answered with 403, once. */
  #isDoubted = false
  #cancelExpiry: () => void = () => undefined

  constructor(options: IntentionsOptions) {
    super()
    this.#options = options
    const { agent, service, clock, random } = options
    const read = intentionsReader(agent, service)
    this.#word = new AgentAuthorization({
      ...options,
      onDoubt: () => {
        this.emit('changed')
      },
    })
    this.#watched = new CachedWatch({
      name: `intentions for ${service}`,
      clock,
      random,
      waitMs: Math.min(WAIT_MS, agent.settings.waitMs),
      readsPerSecond: READS_PER_SECOND,
      slots: agent.blockingSlots,
      fetch: (query) => {
        this.#readAt = clock.now()
        return read(query)
      },
    })
    this.#watched.on('read', () => {
      this.#onRead()
    })
    this.#watched.on('failed', (error) => {
      this.#onFailed(error)
    })
  }

  /** How many intentions are known; undefined while they may not, or cannot, be read. */
  get size(): number | undefined {
    return this.#table?.size
  }

  /** Since when, in milliseconds since the epoch, the agent has been away; undefined while it is there. */
  get staleSince(): number | undefined {
    return this.#staleSince
  }

  /**
   * Whether a peer may connect now.
   * @throws AgentError, and the signal's reason, when no decision can be made
   */
  decide(peer: Peer, signal: AbortSignal): Decision | Promise<Decision> {
    if (this.#isExpired()) return { authorized: false, basis: 'stale', reason: this.#whyStale() }
    return this.#table?.decide(peer) ?? this.#decideByAgent(peer, signal)
  }

  close(): void {
    this.#cancelExpiry()
    this.#watched.close()
    this.#word.close()
    this.removeAllListeners()
  }

  async #decideByAgent(peer: Peer, signal: AbortSignal): Promise<Decision> {
    const table = this.#table
    if (table === undefined && this.#mayRead) {
      await this.#watched.now(signal).catch((error: unknown) => {
        if (!isForbidden(error)) throw error
        this.#mayRead = false
      })
      return this.decide(peer, signal)
    }
    const { authorized, reason } = await (table === undefined
      ? this.#word.asked(peer)
      : this.#word.kept(peer))
    // An answer to what is no longer the question.
    if (table !== this.#table && !isAborted(signal)) return this.decide(peer, signal)
    if (table === undefined) return { authorized, basis: 'agent', reason: `the agent says: ${reason}` }
    return {
      authorized,
      basis: 'default',
      reason: `none of ${table.size} intentions speaks of it; the agent says: ${reason}`,
    }
  }

  #onRead(): void {
    this.#isDoubted = false
    const given = this.#watched.value
    const wasStale = this.#endStaleness()
    const isFirst = this.#table === undefined && this.#mayRead
    this.#mayRead = true
    const isNew = given !== undefined && given !== this.#given
    if (isNew) {
      this.#given = given
      this.#table = new IntentionTable(given)
      log.authorize('%s: %d intentions', this.#options.service, given.length)
    }
    if (!isNew && !wasStale) return
    // With the first there is nothing that could have been said before it.
    if (isNew && !isFirst) this.#word.onChange()
    else this.#word.expire()
    this.emit('changed')
  }

  #onFailed(error: Error): void {
    if (isForbidden(error)) {
      // A server that restarts may refuse for a moment what it allows: the second 403 in a row is believed.
      if (this.#table === undefined || this.#isDoubted) {
        this.#forbid(error)
        return
      }
      this.#isDoubted = true
    }
    this.emit('failed', error)
    if (this.#table === undefined || this.#staleSince !== undefined) return
    const { clock, staleMs } = this.#options
    const hung = error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_TIMEOUT'
    // One that hangs may have been away since it was asked.
    const since = hung ? this.#readAt : clock.now()
    const leftMs = since + staleMs - clock.now()
    this.#staleSince = since
    this.#hasExpired = leftMs <= 0
    log.authorize('%s: intentions may be out of date%s', this.#options.service, withCause(error))
    this.emit('stale', { since: new Date(since), deniesAt: new Date(since + staleMs), cause: error })
    const expire = (): void => {
      this.#hasExpired = true
      this.emit('changed')
    }
    if (leftMs <= 0) expire()
    else this.#cancelExpiry = clock.after(leftMs, expire)
  }

  /** Whether they were stale. */
  #endStaleness(): boolean {
    if (this.#staleSince === undefined) return false
    this.#staleSince = undefined
    this.#hasExpired = false
    this.#cancelExpiry()
    this.emit('fresh')
    return true
  }

  /** What is known would not be seen to change any more: from now on the agent is asked. */
  #forbid(cause: Error): void {
    const hadRight = this.#mayRead
    this.#endStaleness()
    this.#mayRead = false
    this.#given = undefined
    this.#table = undefined
    if (!hadRight) return
    this.#word.forget()
    const { agent, service } = this.#options
    const message = `the intentions for ${service} may not be read; the agent is asked about each connection, for which it may want the same right: give the token service ${JSON.stringify(service)} { policy = "write", intentions = "read" }`
    const { address } = agent
    const request = 'GET /v1/connect/intentions/match'
    const details = { address, request, status: 403, cause }
    this.emit('failed', new AgentError('ERR_CONNECT_AGENT_FORBIDDEN', message + withCause(cause), details))
    this.emit('changed')
  }

  #isExpired(): boolean {
    if (this.#hasExpired) return true
    const { clock, staleMs } = this.#options
    return this.#staleSince !== undefined && clock.now() - this.#staleSince >= staleMs
  }

  #whyStale(): string {
    const since = new Date(this.#staleSince ?? 0).toISOString()
    return `the intentions have not been read since ${since}${withCause(this.#watched.lastError)}`
  }
}

function isForbidden(error: unknown): boolean {
  return error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_FORBIDDEN'
}
