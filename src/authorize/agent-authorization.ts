import { BoundedMap } from '../base/bounded-map.js'
import { askAuthorize } from '../agent/endpoints/authorize.js'
import { type AgentClient, isNoAnswer } from '../agent/client.js'
import type { Clock } from '../base/clock.js'
import { AgentError } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { log } from '../base/log.js'
import type { Decision } from './authorizer.js'

/** How long an answer is kept; connections that stay open on it are asked about again as often. */
const KEPT_MS = 60_000
const MOST_KEPT = 10_000
/** An agent answers from a copy of its own, which may be behind ours by a moment. */
const SETTLED_MS = 1_000

export interface AgentAuthorizationOptions {
  readonly agent: AgentClient
  readonly service: string
  /** How long what the agent has said serves while it cannot be asked. */
  readonly staleMs: number
  readonly clock: Clock
  /** Called when what was said may be so no more: whoever relies on it should ask again. */
  readonly onDoubt: () => void
}

interface Answer {
  readonly decision: Decision
  /** When it was asked for, or when the agent could refresh its own copy for the last time. */
  readonly trueAt: number
  isFresh: boolean
}

/** What the agent says of peers where we cannot decide ourselves: of each identity, as it was said last. */
export class AgentAuthorization {
  readonly #options: AgentAuthorizationOptions
  readonly #closed = new AbortController()
  // By SPIFFE ID; the one that was asked for last comes last.
  readonly #answers = new BoundedMap<string, Answer>(MOST_KEPT)
  #asking = new Map<string, Promise<Decision>>()
  #epoch = 0
  #changedAt = -Infinity
  #cancelSettling: () => void = () => undefined
  #cancelRecheck: (() => void) | undefined

  constructor(options: AgentAuthorizationOptions) {
    this.#options = options
  }

  /**
   * The agent's word on a peer, asked for now. While the agent is away, what it said of that identity last.
   * @throws AgentError
   */
  async asked(peer: Peer): Promise<Decision> {
    // Its copy may be one that the token may not refresh.
    return this.#ask(peer, { servesMs: this.#options.staleMs, maxAgeMs: 0 })
  }

  /**
   * The same, and kept for a minute, or until it expires.
   * @throws AgentError
   */
  async kept(peer: Peer): Promise<Decision> {
    const { staleMs } = this.#options
    const { spiffeId } = peer
    const answer = this.#answers.get(spiffeId)
    if (answer?.isFresh === true && this.#age(answer) < KEPT_MS) return answer.decision
    const asking =
      this.#asking.get(spiffeId) ??
      this.#ask(peer, { servesMs: staleMs > 0 ? KEPT_MS + staleMs : 0, maxAgeMs: staleMs }).finally(() => {
        if (this.#asking.get(spiffeId) === asking) this.#asking.delete(spiffeId)
      })
    this.#asking.set(spiffeId, asking)
    return asking
  }

  /** Whatever was said is asked for again, and serves only while the agent is away. */
  expire(): void {
    this.#epoch += 1
    this.#asking = new Map()
    for (const answer of this.#answers.values()) answer.isFresh = false
  }

  /** The intentions have changed: the agent's copy may still be that of before. */
  onChange(): void {
    const { clock, onDoubt } = this.#options
    this.expire()
    this.#changedAt = clock.now()
    this.#cancelSettling()
    this.#cancelSettling = clock.after(SETTLED_MS, () => {
      const doubtful = [...this.#answers].filter(([, { trueAt }]) => trueAt >= this.#changedAt)
      for (const [spiffeId] of doubtful) this.#answers.delete(spiffeId)
      // Not even what is being asked for now is sure to be new.
      const isAsking = this.#asking.size > 0
      this.expire()
      if (doubtful.length > 0 || isAsking) onDoubt()
    })
  }

  /** Whatever was said counts no more. */
  forget(): void {
    this.expire()
    this.#answers.clear()
  }

  close(): void {
    this.#closed.abort()
    this.#cancelSettling()
    this.#cancelRecheck?.()
    this.forget()
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
      log.authorize('%s: of %s the agent’s last word serves', service, spiffeId)
      return last.decision
    }
  }

  #keep(spiffeId: string, answer: Answer): void {
    this.#answers.set(spiffeId, answer)
    this.#armRecheck()
  }

  #armRecheck(): void {
    const { clock, staleMs, onDoubt } = this.#options
    this.#cancelRecheck ??= clock.after(KEPT_MS, () => {
      this.#cancelRecheck = undefined
      for (const [spiffeId, answer] of this.#answers) {
        // Nobody has asked for it since.
        if (this.#age(answer) >= 2 * KEPT_MS + staleMs) this.#answers.delete(spiffeId)
      }
      if (this.#answers.size === 0) return
      this.#armRecheck()
      onDoubt()
    })
  }

  /** An answer of the future comes from a clock that was set back: it counts as old. */
  #age({ trueAt }: Answer): number {
    const age = this.#options.clock.now() - trueAt
    return age < 0 ? Infinity : age
  }
}

/** An agent goes on answering from its copy when its servers are away, or the token may not read intentions any more. */
function outOfDate({ address }: AgentClient, ageMs: number): AgentError {
  const request = 'POST /v1/agent/connect/authorize'
  const message = `${request}: the agent at ${address} answered from a copy that it has not been able to refresh for ${ageMs / 1_000} s`
  return new AgentError('ERR_CONNECT_AGENT_STALE', message, { address, request, status: 200 })
}
