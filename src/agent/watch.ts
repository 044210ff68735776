import { isDeepStrictEqual } from 'node:util'
import { isAborted } from '../bounded.js'
import { type Clock, sleep } from '../clock.js'
import { AgentError, type ErrorCode, because, toError } from '../errors.js'
import { log } from '../log.js'
import { DEFAULTS } from '../options.js'
import type { AgentRequest, AgentResponse } from './client.js'
import type { BlockingSlots } from './slots.js'

/** What makes a read a blocking one. Without index and hash it answers at once. */
export interface BlockingQuery {
  readonly index?: number | undefined
  readonly hash?: string | undefined
  readonly waitMs?: number | undefined
  readonly signal?: AbortSignal | undefined
  readonly timeoutMs?: number | undefined
}

/** The parts of a request that carry a blocking query. */
export function blocking(query: BlockingQuery): Pick<AgentRequest, 'query' | 'signal' | 'timeoutMs'> {
  const { index, hash, waitMs, signal, timeoutMs } = query
  const blocks = index !== undefined || hash !== undefined
  return {
    query: { index, hash, wait: blocks && waitMs !== undefined ? `${waitMs}ms` : undefined },
    signal,
    timeoutMs,
  }
}

export interface WatchOptions<T> {
  /** For logs. */
  readonly name: string
  readonly fetch: (query: BlockingQuery) => Promise<AgentResponse<T>>
  /** Called with the first value and with every one that differs from the last. May throw to refuse it. */
  readonly onValue: (value: T) => void
  /** Called after every read that went well, whether or not it brought something new. */
  readonly onRead?: () => void
  /** Called with every failure, a refused value included, and when it will be tried again. */
  readonly onError: (error: Error, retryInMs: number) => void
  readonly clock: Clock
  /** From 0 to below 1. */
  readonly random: () => number
  /** How long the agent may hold a query. @default 300000 */
  readonly waitMs?: number
  /** How often it reads at most while the index churns. @default 10 */
  readonly readsPerSecond?: number
  /** A bound on how many of several watches block at a time; those without a place poll. @default none */
  readonly slots?: BlockingSlots
}

/** The agent adds up to a sixteenth to the wait; the rest is for the network. */
export const WAIT_MARGIN_MS = 10_000
/** The pause between two reads of an endpoint that cannot block. */
const POLL_MS = 10_000
/** A churning index costs at most a burst, then so many reads a second as are wanted. */
const BURST = 20
const READS_PER_SECOND = 10

/** However many want to know, a pause lasts so long. */
const SHORTEST_PAUSE_MS = 1_000

interface Backoff {
  readonly firstMs: number
  readonly capMs: number
}
const BACKOFF: Backoff = { firstMs: 100, capMs: 10_000 }
/** Rights rarely appear within seconds, and certificate signing must not be hammered. */
const SLOW_BACKOFF: Backoff = { firstMs: 2_000, capMs: 60_000 }
const SLOW_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_CONNECT_AGENT_FORBIDDEN',
  'ERR_CONNECT_AGENT_RATE_LIMITED',
  'ERR_CONNECT_DISABLED',
])

/**
 * The one loop behind every watch of the agent: blocking queries by index or by content hash, for ever, until
 * closed. The rules are those of Consul's documentation of blocking queries, and of what agents were seen to do
 * otherwise.
 */
export class Watch<T> {
  readonly #options: WatchOptions<T>
  readonly #reads: TokenBucket
  // A turn is one read and the pause after it; aborting it starts the next one.
  #turn = new AbortController()
  #phase: 'reading' | 'blocking' | 'pausing' = 'reading'
  #pausedAt = 0
  #closed = false
  #last: { value: T } | undefined
  #lastError: Error | undefined

  constructor(options: WatchOptions<T>) {
    this.#options = options
    this.#reads = new TokenBucket(options.clock, options.readsPerSecond ?? READS_PER_SECOND)
    void this.#run()
  }

  /** What the last read failed with; undefined while all is well. */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /** Reads anew at once, without an index, whether a read or a pause is under way. */
  restart(): void {
    this.#turn.abort()
  }

  /** Reads anew at once, unless a read is under way that began without an index: its answer is as new. */
  refresh(): void {
    if (this.#phase !== 'reading') this.#turn.abort()
  }

  /** Ends a pause that has lasted a while. Returns whether a read is under way now, or about to begin. */
  hurry(): boolean {
    if (this.#phase !== 'pausing') return true
    if (this.#options.clock.now() - this.#pausedAt < SHORTEST_PAUSE_MS) return false
    this.#turn.abort()
    return true
  }

  close(): void {
    this.#closed = true
    this.#turn.abort()
  }

  async #run(): Promise<void> {
    const { random } = this.#options
    let position: Position = { from: 'start' }
    let failures = 0
    while (!this.#closed) {
      this.#turn = new AbortController()
      const { signal } = this.#turn
      const throttleMs = this.#reads.take()
      if (throttleMs > 0) await this.#pause(throttleMs, signal)
      if (isAborted(signal)) {
        this.#reads.giveBack()
        continue
      }
      try {
        const response = await this.#read(position, signal)
        // An answer that was crossed by the end of its turn was not taken: what it says is read again.
        position = isAborted(signal) ? { from: 'start' } : nextPosition(position, response)
        if (isAborted(signal)) continue
        if (this.#options.slots?.isFull === true) position = { from: 'poll' }
        failures = 0
        this.#lastError = undefined
        this.#options.onRead?.()
        if (position.from === 'poll') await this.#pause(POLL_MS * jitter(random), signal)
      } catch (thrown) {
        position = { from: 'start' }
        if (isAborted(signal)) continue
        failures += 1
        await this.#pause(this.#report(toError(thrown), failures), signal)
      }
    }
  }

  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    this.#phase = 'pausing'
    this.#pausedAt = clock.now()
    await sleep(clock, ms, signal)
    this.#phase = 'reading'
  }

  /** Tells of a failure; returns how long to wait before the next try, in milliseconds. */
  #report(error: Error, failures: number): number {
    const { name, random, onError } = this.#options
    const delayMs = Math.round(backoffMs(error, failures) * jitter(random))
    this.#lastError = error
    log.watch('%s: failure %d, next try in %d ms%s', name, failures, delayMs, because(error))
    onError(error, delayMs)
    return delayMs
  }

  async #read(position: Position, signal: AbortSignal): Promise<AgentResponse<T>> {
    const { slots } = this.#options
    const blocks = position.from === 'index' || position.from === 'hash'
    this.#phase = blocks ? 'blocking' : 'reading'
    if (blocks) slots?.take()
    try {
      return await this.#fetch(position, signal, blocks)
    } finally {
      if (blocks) slots?.give()
    }
  }

  async #fetch(position: Position, signal: AbortSignal, blocks: boolean): Promise<AgentResponse<T>> {
    const { fetch, onValue, waitMs = DEFAULTS.watchWaitMs } = this.#options
    const response = await fetch({
      index: position.from === 'index' ? position.index : undefined,
      hash: position.from === 'hash' ? position.hash : undefined,
      waitMs,
      signal,
      // A dead agent must not hang the watch for ever. A read that does not block has the client's own bound.
      timeoutMs: blocks ? (waitMs * 17) / 16 + WAIT_MARGIN_MS : undefined,
    })
    // The index may move with nothing new, and a leaf may be new under an old index: the content decides.
    if (
      !isAborted(signal) &&
      (this.#last === undefined || !isDeepStrictEqual(this.#last.value, response.value))
    ) {
      onValue(response.value)
      this.#last = { value: response.value }
    }
    return response
  }
}

/** Where a read starts: from nothing, after an index or a hash, or after a pause when the endpoint cannot block. */
export type Position =
  | { readonly from: 'start' | 'poll' }
  | { readonly from: 'index'; readonly index: number }
  | { readonly from: 'hash'; readonly hash: string }

export function nextPosition(
  before: Position,
  response: { index: number | undefined; hash: string | undefined },
): Position {
  const { hash } = response
  if (hash !== undefined) return { from: 'hash', hash }
  if (response.index === undefined) return { from: 'poll' }
  // Agents have sent 0, and a read at 0 would never block.
  const index = Math.max(1, response.index)
  // A restored snapshot or a new leader: the old index means nothing any more.
  if (before.from === 'index' && index < before.index) return { from: 'start' }
  return { from: 'index', index }
}

function backoffMs(error: Error, failures: number): number {
  const { firstMs, capMs } =
    error instanceof AgentError && SLOW_CODES.has(error.code) ? SLOW_BACKOFF : BACKOFF
  return Math.min(capMs, firstMs * 2 ** Math.min(failures - 1, 20))
}

/** From 0.5 to 1: agents that fail together must not be asked again together. */
function jitter(random: () => number): number {
  return 0.5 + random() / 2
}

class TokenBucket {
  readonly #clock: Clock
  readonly #perSecond: number
  #tokens = BURST
  #filledAt: number

  constructor(clock: Clock, perSecond: number) {
    this.#clock = clock
    this.#perSecond = perSecond
    this.#filledAt = clock.now()
  }

  /** For a read that was not made after all. */
  giveBack(): void {
    this.#tokens += 1
  }

  /** Takes a token; returns how long to wait for it, in milliseconds. */
  take(): number {
    const now = this.#clock.now()
    // A clock that was set back fills nothing.
    const filled = (Math.max(0, now - this.#filledAt) * this.#perSecond) / 1000
    this.#tokens = Math.min(BURST, this.#tokens + filled) - 1
    this.#filledAt = now
    return this.#tokens >= 0 ? 0 : Math.ceil((-this.#tokens * 1000) / this.#perSecond)
  }
}
