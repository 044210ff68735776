import { isDeepStrictEqual } from 'node:util'
import { type Backoff, backoffMs } from '../base/backoff.js'
import { TokenBucket } from '../base/token-bucket.js'
import { isAborted } from '../base/deadline.js'
import { type Clock, sleep } from '../base/clock.js'
import { AgentError, type ErrorCode, withCause, toError } from '../base/errors.js'
import { log } from '../base/log.js'
import { DEFAULTS } from '../base/options/validate.js'
import type { AgentRequest, AgentResponse } from './client.js'
import type { BlockingSlots } from './blocking-slots.js'

/** The parameters of a blocking query. Without `index` and `hash`, the agent answers at once. */
export interface BlockingQuery {
  readonly index?: number | undefined
  readonly hash?: string | undefined
  readonly waitMs?: number | undefined
  readonly signal?: AbortSignal | undefined
  readonly timeoutMs?: number | undefined
}

/** Converts a blocking query to the options of a request. */
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
  /** The name in logs. */
  readonly name: string
  readonly fetch: (query: BlockingQuery) => Promise<AgentResponse<T>>
  /** Called with the first value and with each value that differs from the last one. Throws to reject a value. */
  readonly onValue: (value: T) => void | Promise<void>
  /** Called after each successful read, also without a new value. */
  readonly onRead?: () => void
  /** Called with each failure, including rejected values, and the time until the next read. */
  readonly onError: (error: Error, retryInMs: number) => void
  /**
   * Whether a value of a blocking read must be confirmed by a plain read. Agents have answered blocking reads with an
   * empty list where the plain read returned 403 or listed an instance.
   * @default never
   */
  readonly isDoubtful?: (value: T) => boolean
  readonly clock: Clock
  /** From 0 to below 1. */
  readonly random: () => number
  /** How long the agent may hold a query, in milliseconds. @default 300000 */
  readonly waitMs?: number
  /** Upper bound on the reads per second while the index changes constantly. @default 10 */
  readonly readsPerSecond?: number
  /** Limits the blocking queries of several watches; watches without a slot poll. @default none */
  readonly slots?: BlockingSlots
  /** How long to wait between two reads while polling, in milliseconds. @default 10000 */
  readonly pollMs?: () => number
}

/** The agent adds up to 1/16 to the wait; this margin is for the network. */
export const WAIT_MARGIN_MS = 10_000
/** The pause between two reads of an endpoint that cannot block. */
const POLL_MS = 10_000
/** The number of reads that may follow each other at once, before the limit per second applies. */
const BURST = 20
const READS_PER_SECOND = 10

/** The minimum pause between reads, however often `hurry` is called. */
const SHORTEST_PAUSE_MS = 1_000

/** The wait of the read after a rejected value. */
const SHORT_WAIT_MS = 2_000
/** A blocking read that ends sooner has failed (see `#isCut`). Also the shortest wait. */
const SHORTEST_WAIT_MS = 1_000
/** Factor by which the wait is reduced when a proxy in front of the agent has a shorter timeout. */
const CUT_FACTOR = 0.8
/** Statuses of a proxy whose timeout is shorter than the wait. */
const PROXY_TIMEOUTS: ReadonlySet<number | undefined> = new Set([408, 504, 524])

const BACKOFF: Backoff = { firstMs: 100, longestMs: 10_000 }
/** Permissions rarely change within seconds, and certificate signing is expensive. */
const SLOW_BACKOFF: Backoff = { firstMs: 2_000, longestMs: 60_000 }
const SLOW_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_CONNECT_AGENT_FORBIDDEN',
  'ERR_CONNECT_AGENT_RATE_LIMITED',
  'ERR_CONNECT_DISABLED',
])

/**
 * Watches an endpoint of the agent by blocking queries, by index or content hash, until closed. It follows Consul's
 * documentation of blocking queries and handles the known deviations of agents.
 */
export class Watch<T> {
  readonly #options: WatchOptions<T>
  readonly #reads: TokenBucket
  /** Aborting a turn, which is a read and the pause after it, starts the next one. */
  #turn = new AbortController()
  #phase: 'reading' | 'blocking' | 'pausing' = 'reading'
  #pausedAt = 0
  #closed = false
  #last: { value: T } | undefined
  #lastError: Error | undefined
  #waitMs: number
  /** The number of consecutive blocking reads that ended early. */
  #cuts = 0

  constructor(options: WatchOptions<T>) {
    this.#options = options
    this.#waitMs = options.waitMs ?? DEFAULTS.watchWaitMs
    this.#reads = new TokenBucket(options.clock, {
      burst: BURST,
      perSecond: options.readsPerSecond ?? READS_PER_SECOND,
    })
    void this.#run()
  }

  /** The error of the last read; undefined when the last read succeeded. */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /** Aborts the current read or pause, and reads without an index. */
  restart(): void {
    this.#turn.abort()
  }

  /** Reads without an index, unless such a read is pending. */
  refresh(): void {
    if (this.#phase !== 'reading') this.#turn.abort()
  }

  /** Ends a pause that has lasted for its minimum. @returns whether a read is pending or about to begin */
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
    let position: Position = START
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
      const begin = this.#options.clock.now()
      let failure: Error | undefined
      try {
        const response = await this.#read(position, signal)
        if (!isAborted(signal)) {
          position = nextPosition(position, response)
          failure = await this.#offer(response.value)
          // A read with the index of the rejected value makes the agent renew its cached copy.
          if (failure !== undefined) position = { ...position, waitMs: SHORT_WAIT_MS }
        }
      } catch (thrown) {
        failure = toError(thrown)
        if (!isAborted(signal) && this.#isCut(failure, position, this.#options.clock.now() - begin)) continue
        position = positionAfter(failure, position)
      }
      if (isAborted(signal)) position = START
      else if (failure === undefined) {
        failures = 0
        if (this.#options.slots?.isFull === true) position = { from: 'poll' }
        await this.#succeeded(position, signal)
      } else {
        failures += 1
        await this.#pause(this.#report(failure, failures), signal)
      }
    }
  }

  async #succeeded(position: Position, signal: AbortSignal): Promise<void> {
    const { onRead, pollMs = () => POLL_MS, random } = this.#options
    this.#cuts = 0
    this.#lastError = undefined
    onRead?.()
    if (position.from === 'poll') await this.#pause(pollMs() * jitter(random), signal)
  }

  /**
   * Whether a failed blocking read only ended early: by a proxy in front of the agent, or by the HTTP server of the
   * agent (1.22 before February 2026 closed every connection after 30 s). This is no outage. The next reads use a
   * shorter wait.
   */
  #isCut(error: Error, position: Position, lastedMs: number): boolean {
    if (!isBlocking(position) || lastedMs < SHORTEST_WAIT_MS || lastedMs >= this.#waitMs) return false
    if (!(error instanceof AgentError)) return false
    const byProxy = PROXY_TIMEOUTS.has(error.status)
    if (!byProxy && error.code !== 'ERR_CONNECT_AGENT_UNREACHABLE') return false
    this.#cuts += 1
    // A stopping agent closes its connections as well: only a second early end indicates a timeout.
    if (byProxy || this.#cuts > 1)
      this.#waitMs = Math.max(SHORTEST_WAIT_MS, Math.floor(lastedMs * CUT_FACTOR))
    log.watch('%s: ended after %d ms, waits %d ms from now on', this.#options.name, lastedMs, this.#waitMs)
    return true
  }

  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    this.#phase = 'pausing'
    this.#pausedAt = clock.now()
    await sleep(clock, ms, signal)
    this.#phase = 'reading'
  }

  /** Reports a failure. @returns the pause before the next read, in milliseconds */
  #report(error: Error, failures: number): number {
    const { name, random, onError } = this.#options
    const delayMs = Math.round(pauseAfter(error, failures) * jitter(random))
    this.#lastError = error
    log.watch('%s: failure %d, next try in %d ms%s', name, failures, delayMs, withCause(error))
    onError(error, delayMs)
    return delayMs
  }

  async #read(position: Position, signal: AbortSignal): Promise<AgentResponse<T>> {
    const response = await this.#fetch(position, signal)
    const isDoubtful = isBlocking(position) && this.#options.isDoubtful?.(response.value) === true
    return isDoubtful && !isAborted(signal) ? this.#fetch(START, signal) : response
  }

  async #fetch(position: Position, signal: AbortSignal): Promise<AgentResponse<T>> {
    const { slots, fetch } = this.#options
    const blocks = isBlocking(position)
    const waitMs = Math.min(this.#waitMs, position.waitMs ?? Infinity)
    this.#phase = blocks ? 'blocking' : 'reading'
    const release = blocks
      ? slots?.take(() => {
          this.#turn.abort()
        })
      : undefined
    try {
      return await fetch({
        index: position.from === 'index' ? position.index : undefined,
        hash: position.from === 'hash' ? position.hash : undefined,
        waitMs,
        signal,
        // An agent that died must not hang the watch. Other reads have the timeout of the client.
        timeoutMs: blocks && position.isPrompt !== true ? (waitMs * 17) / 16 + WAIT_MARGIN_MS : undefined,
      })
    } finally {
      release?.()
    }
  }

  /** Passes on a value that has changed; the index may change without it. @returns why the value was rejected */
  async #offer(value: T): Promise<Error | undefined> {
    if (this.#last !== undefined && isDeepStrictEqual(this.#last.value, value)) return undefined
    try {
      await this.#options.onValue(value)
      this.#last = { value }
      return undefined
    } catch (error) {
      return toError(error)
    }
  }
}

/**
 * Where the next read starts: without an index, after an index or hash, or after a pause if the endpoint cannot block.
 */
export type Position = (
  | { readonly from: 'start' | 'poll' }
  | { readonly from: 'index'; readonly index: number }
  | { readonly from: 'hash'; readonly hash: string }
) & {
  /** A shorter wait than that of the watch, in milliseconds. */
  readonly waitMs?: number
  /** Whether the agent answers at once although the read has an index. */
  readonly isPrompt?: boolean
}

const START: Position = { from: 'start' }

function isBlocking({ from }: Position): boolean {
  return from === 'index' || from === 'hash'
}

export function nextPosition(
  before: Position,
  response: { index: number | undefined; hash: string | undefined },
): Position {
  const { hash } = response
  if (hash !== undefined) return { from: 'hash', hash }
  if (response.index === undefined) return { from: 'poll' }
  // Agents have sent index 0, with which a read never blocks.
  const index = Math.max(1, response.index)
  // The index went backwards: a snapshot was restored, or there is a new leader.
  if (before.from === 'index' && index < before.index) return START
  return { from: 'index', index }
}

/**
 * Returns the start of the read after a failure. Consul 1.9 to 1.12 held a plain read while another process had a
 * blocking read of the same certificate; a read with the lowest index was answered at once (Consul issue 13302).
 */
function positionAfter(error: Error, position: Position): Position {
  const hasHung = error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_TIMEOUT'
  if (position.from !== 'start' || !hasHung) return START
  return { from: 'index', index: 1, waitMs: SHORTEST_WAIT_MS, isPrompt: true }
}

function pauseAfter(error: Error, failures: number): number {
  const isSlow = error instanceof AgentError && SLOW_CODES.has(error.code)
  return backoffMs(isSlow ? SLOW_BACKOFF : BACKOFF, failures)
}

/** From 0.5 to 1, so that clients do not retry in lockstep. */
function jitter(random: () => number): number {
  return 0.5 + random() / 2
}
