import { BoundedMap } from '../base/bounded-map.js'
import { askAuthorize } from '../agent/endpoints/authorize.js'
import type { AgentClient } from '../agent/client.js'
import { isNoAnswer } from '../agent/agent-errors.js'
import type { Clock } from '../base/clock.js'
import { AgentError } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { log } from '../base/log.js'
import type { Decision } from './decision.js'

/** How long a decision is cached. Open connections are authorized again at this interval. */
const CACHE_MS = 60_000
const MAX_CACHED = 10_000
/** How far the cached intentions of the agent may be behind ours. */
const SETTLED_MS = 1_000

export interface AgentAuthorizationOptions {
  readonly agent: AgentClient
  readonly service: string
  /** How long a decision stays in use while the agent does not answer, in milliseconds. */
  readonly staleMs: number
  readonly clock: Clock
  /** Called when decisions may have changed and should be requested again. */
  readonly onDoubt: () => void
}

interface Answer {
  readonly decision: Decision
  /** When the decision was requested, or when the agent last refreshed its cached intentions. */
  readonly trueAt: number
  isFresh: boolean
}

/** Decisions by the agent, for peers that this process cannot decide on. Cached by SPIFFE ID. */
export class AgentAuthorization {
  readonly #options: AgentAuthorizationOptions
  readonly #closed = new AbortController()
  /** By SPIFFE ID, the latest last. */
  readonly #answers = new BoundedMap<string, Answer>(MAX_CACHED)
  #asking = new Map<string, Promise<Decision>>()
  #epoch = 0
  #changedAt = -Infinity
  #cancelSettling: () => void = () => undefined
  #cancelRecheck: (() => void) | undefined

  constructor(options: AgentAuthorizationOptions) {
    this.#options = options
  }

  /**
   * Requests a decision. While the agent does not answer, returns the last one for this identity.
   * @throws AgentError
   */
  async query(peer: Peer): Promise<Decision> {
    // The token may lack the permission to refresh the cached intentions of the agent.
    return this.#ask(peer, { servesMs: this.#options.staleMs, maxAgeMs: 0 })
  }

  /**
   * Requests a decision, or returns the cached one of the last minute.
   * @throws AgentError
   */
  async queryCached(peer: Peer): Promise<Decision> {
    const { staleMs } = this.#options
    const { spiffeId } = peer
    const answer = this.#answers.get(spiffeId)
    if (answer?.isFresh === true && this.#age(answer) < CACHE_MS) return answer.decision
    const asking =
      this.#asking.get(spiffeId) ??
      this.#ask(peer, { servesMs: staleMs > 0 ? CACHE_MS + staleMs : 0, maxAgeMs: staleMs }).finally(() => {
        if (this.#asking.get(spiffeId) === asking) this.#asking.delete(spiffeId)
      })
    this.#asking.set(spiffeId, asking)
    return asking
  }

  /** Makes all decisions be requested again; the old ones are only used while the agent does not answer. */
  expire(): void {
    this.#epoch += 1
    this.#asking = new Map()
    for (const answer of this.#answers.values()) answer.isFresh = false
  }

  /** The intentions have changed; the cached intentions of the agent may still be the old ones. */
  onChange(): void {
    const { clock, onDoubt } = this.#options
    this.expire()
    this.#changedAt = clock.now()
    this.#cancelSettling()
    this.#cancelSettling = clock.after(SETTLED_MS, () => {
      const doubtful = [...this.#answers].filter(([, { trueAt }]) => trueAt >= this.#changedAt)
      for (const [spiffeId] of doubtful) this.#answers.delete(spiffeId)
      // Pending requests may be answered by the old intentions.
      const isAsking = this.#asking.size > 0
      this.expire()
      if (doubtful.length > 0 || isAsking) onDoubt()
    })
  }

  /** Removes all decisions. */
  clear(): void {
    this.expire()
    this.#answers.clear()
  }

  close(): void {
    this.#closed.abort()
    this.#cancelSettling()
    this.#cancelRecheck?.()
    this.clear()
  }

  async #ask(
    peer: Peer,
    { servesMs, maxAgeMs }: { readonly servesMs: number; readonly maxAgeMs: number },
  ): Promise<Decision> {
    const { agent, service, clock } = this.#options
    const { spiffeId, serialNumber } = peer
    const epoch = this.#epoch
    const askedAt = clock.now()
    try {
      const { ageMs, ...decision } = await askAuthorize(
        agent,
        { target: service, clientCertUri: spiffeId, clientCertSerial: serialNumber },
        { signal: this.#closed.signal },
      )
      const trueAt = askedAt - ageMs
      if (ageMs > maxAgeMs || (ageMs > 0 && trueAt < this.#changedAt)) throw outOfDate(agent, ageMs)
      if (epoch === this.#epoch) this.#keep(spiffeId, { decision, trueAt, isFresh: true })
      return decision
    } catch (error) {
      const last = this.#answers.get(spiffeId)
      if (!isNoAnswer(error) || last === undefined || this.#age(last) >= servesMs) throw error
      log.authorize('%s: using the last decision of the agent for %s', service, spiffeId)
      return last.decision
    }
  }

  #keep(spiffeId: string, answer: Answer): void {
    this.#answers.set(spiffeId, answer)
    this.#armRecheck()
  }

  #armRecheck(): void {
    const { clock, staleMs, onDoubt } = this.#options
    this.#cancelRecheck ??= clock.after(CACHE_MS, () => {
      this.#cancelRecheck = undefined
      for (const [spiffeId, answer] of this.#answers) {
        // Not used since.
        if (this.#age(answer) >= 2 * CACHE_MS + staleMs) this.#answers.delete(spiffeId)
      }
      if (this.#answers.size === 0) return
      this.#armRecheck()
      onDoubt()
    })
  }

  /** A decision in the future comes from a clock that was set back, and counts as old. */
  #age({ trueAt }: Answer): number {
    const age = this.#options.clock.now() - trueAt
    return age < 0 ? Infinity : age
  }
}

/** An agent answers from its cache when its servers do not answer, or when the token can no longer read intentions. */
function outOfDate({ address }: AgentClient, ageMs: number): AgentError {
  const request = 'POST /v1/agent/connect/authorize'
  const message = `${request}: the agent at ${address} answered from its cache, which it could not refresh for ${ageMs / 1_000} s`
  return new AgentError('ERR_CONNECT_AGENT_STALE', message, { address, request, status: 200 })
}
