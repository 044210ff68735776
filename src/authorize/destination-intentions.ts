import { EventEmitter } from 'eventemitter3'
import type { AgentClient } from '../agent/client.js'
import { type Intention, intentionsReader } from '../agent/endpoints/intentions.js'
import { CachedWatch } from '../agent/cached-watch.js'
import { isAborted } from '../base/deadline.js'
import type { Time } from '../base/clock.js'
import { AgentError, ConnectError, withCause } from '../base/errors.js'
import type { Peer } from '../identity/peer.js'
import { log } from '../base/log.js'
import { AgentAuthorization } from './agent-authorization.js'
import type { IntentionDecision } from './authorizer.js'
import { type IntentionPermissions, IntentionTable } from './intention-table.js'
import { DefaultPolicy } from './requests/default-policy.js'
import { PermissionPolicy } from './requests/request-policy.js'
import { RequestSettings, isHttp } from './requests/request-settings.js'

/** How long the agent may hold a query. Short, so that an agent that hangs is noticed. */
const WAIT_MS = 30_000
/** Upper bound on reads, so that a new deny intention is read within 40 ms even if the mesh changes constantly. */
const READS_PER_SECOND = 25

/** The state of intentions that cannot be read. */
export interface Staleness {
  /** When they were last known to be current. */
  readonly since: Date
  /** When all peers are denied. */
  readonly deniesAt: Date
  /** Why they cannot be read. */
  readonly cause: Error
}

interface IntentionsEvents {
  /** Decisions may have changed. */
  changed: []
  /** The agent does not answer; the last known intentions stay in use. */
  stale: [staleness: Staleness]
  /** The agent answers again. */
  fresh: []
  /** The intentions could not be read, which is retried. */
  failed: [error: Error]
}

export interface DestinationIntentionsOptions extends Time {
  readonly agent: AgentClient
  /** The destination. */
  readonly service: string
  /** How long the last known intentions stay in use while the agent does not answer, in milliseconds. */
  readonly staleMs: number
}

export interface DecisionRequest {
  readonly signal: AbortSignal
  /** Whether the caller decides each request by permissions. Without it, a source with permissions is denied. */
  readonly decidesRequests: boolean
}

/** Decides who may connect to a service, by a watched copy of its intentions. */
export class DestinationIntentions extends EventEmitter<IntentionsEvents> {
  readonly #options: DestinationIntentionsOptions
  readonly #watch: CachedWatch<readonly Intention[]>
  readonly #agentAuthorization: AgentAuthorization
  readonly #requestSettings: RequestSettings
  readonly #defaultPolicy: DefaultPolicy
  /** The problems of the current intentions that were reported. */
  #reported: ReadonlySet<string> = new Set()
  #intentions: readonly Intention[] | undefined
  #table: IntentionTable | undefined
  #canRead = true
  #readAt = 0
  #staleSince: number | undefined
  #hasExpired = false
  /** Whether the last read was the first 403. */
  #isDoubted = false
  #cancelExpiry: () => void = () => undefined

  constructor(options: DestinationIntentionsOptions) {
    super()
    this.#options = options
    const { agent, service, clock, random } = options
    const read = intentionsReader(agent, service)
    this.#defaultPolicy = new DefaultPolicy(agent, clock)
    this.#requestSettings = new RequestSettings(agent, service, options)
    this.#requestSettings.on('changed', () => {
      this.emit('changed')
    })
    this.#agentAuthorization = new AgentAuthorization({
      ...options,
      onDoubt: () => {
        this.emit('changed')
      },
    })
    this.#watch = new CachedWatch({
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
    this.#watch.on('read', () => {
      this.#onRead()
    })
    this.#watch.on('failed', (error) => {
      this.#onFailed(error)
    })
  }

  /** The number of intentions; undefined while they cannot be read. */
  get size(): number | undefined {
    return this.#table?.size
  }

  /** Since when the agent has not answered, in milliseconds since the Unix epoch; undefined while it answers. */
  get staleSince(): number | undefined {
    return this.#staleSince
  }

  /**
   * Decides whether a peer may connect.
   * @throws AgentError or the reason of the signal, if there is no decision
   */
  decide(peer: Peer, request: DecisionRequest): IntentionDecision | Promise<IntentionDecision> {
    if (this.#isExpired())
      return { decision: { authorized: false, basis: 'stale', reason: this.#whyStale() } }
    const ruling = this.#table?.find(peer)
    if (ruling === undefined) return this.#decideByAgent(peer, request)
    const { permissions } = ruling
    if (permissions === undefined || !request.decidesRequests) return ruling
    return this.#decideByPermissions(permissions, peer, request)
  }

  close(): void {
    this.#requestSettings.close()
    this.#cancelExpiry()
    this.#watch.close()
    this.#agentAuthorization.close()
    this.removeAllListeners()
  }

  async #decideByPermissions(
    permissions: IntentionPermissions,
    peer: Peer,
    request: DecisionRequest,
  ): Promise<IntentionDecision> {
    const { signal } = request
    const { intention } = permissions
    const table = this.#table
    const settings = this.#requestSettings
    const [protocol, normalization, rules] = await Promise.all([
      settings.protocol(signal),
      settings.normalization(signal),
      permissions.compile(),
    ])
    if (!isHttp(protocol)) {
      const reason = `intention ${intention} has permissions, which decide HTTP requests, but the protocol of ${this.#options.service} is ${protocol}`
      return { decision: { authorized: false, basis: 'permissions', reason } }
    }
    const defaultAllows = await this.#defaultAllows(peer)
    // The intentions changed meanwhile.
    if (table !== this.#table && !isAborted(signal)) return this.decide(peer, request)
    const reason = `intention ${intention} has permissions, which decide each request`
    return {
      decision: { authorized: true, basis: 'permissions', reason },
      requests: new PermissionPolicy({ intention, rules, defaultAllows, normalization }),
    }
  }

  /**
   * Whether the default policy of the mesh allows. The agent tells it for a source that no intention matches. An
   * intention for any source leaves none: then the settings of the agent tell it, to a token that may read them.
   */
  async #defaultAllows(peer: Peer): Promise<boolean> {
    const stranger = { ...peer, ...strangerLike(peer) }
    if (this.#table?.find(stranger) === undefined) {
      const { authorized } = await this.#agentAuthorization.queryCached(stranger)
      return authorized
    }
    return this.#defaultPolicy.allows()
  }

  async #decideByAgent(peer: Peer, request: DecisionRequest): Promise<IntentionDecision> {
    const { signal } = request
    const table = this.#table
    if (table === undefined && this.#canRead) {
      await this.#watch.now(signal).catch((error: unknown) => {
        if (!isForbidden(error)) throw error
        this.#canRead = false
      })
      return this.decide(peer, request)
    }
    const { authorized, reason } = await (table === undefined
      ? this.#agentAuthorization.query(peer)
      : this.#agentAuthorization.queryCached(peer))
    // The intentions changed during the request.
    if (table !== this.#table && !isAborted(signal)) return this.decide(peer, request)
    const by = `decided by the agent: ${reason}`
    if (table === undefined) return { decision: { authorized, basis: 'agent', reason: by } }
    const none = `none of ${table.size} intentions applies`
    return { decision: { authorized, basis: 'default', reason: `${none}; ${by}` } }
  }

  #onRead(): void {
    this.#isDoubted = false
    const given = this.#watch.value
    const wasStale = this.#endStaleness()
    const isFirst = this.#table === undefined && this.#canRead
    this.#canRead = true
    const isNew = given !== undefined && given !== this.#intentions
    if (isNew) {
      this.#intentions = given
      this.#table = new IntentionTable(given)
      log.authorize('%s: %d intentions', this.#options.service, given.length)
      void this.#reportProblems(this.#table)
    }
    if (!isNew && !wasStale) return
    // Before the first read there are no decisions to reconsider.
    if (isNew && !isFirst) this.#agentAuthorization.onChange()
    else this.#agentAuthorization.expire()
    this.#defaultPolicy.expire()
    this.emit('changed')
  }

  /** Reports what this version does not understand, once for each intention until it changes. */
  async #reportProblems(table: IntentionTable): Promise<void> {
    const { service } = this.#options
    const found = [...table.problems].map(([intention, problem]) => `intention ${intention} has ${problem}`)
    for (const permissions of table.permissions) {
      const { problems } = await permissions.compile()
      for (const problem of problems)
        found.push(`a permission of intention ${permissions.intention}: ${problem}`)
    }
    const isCurrent = this.#table === table
    const fresh = found.filter((each) => isCurrent && !this.#reported.has(each))
    if (isCurrent) this.#reported = new Set(found)
    for (const each of fresh) {
      const message = `${service}: ${each}; what it would allow is denied`
      this.emit('failed', new ConnectError('ERR_CONNECT_INTENTION', message))
    }
  }

  #onFailed(error: Error): void {
    if (isForbidden(error)) {
      // A restarting server may reject permitted requests: only the second 403 in a row counts.
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
    // An agent that hangs may have been unreachable since the request.
    const since = hung ? this.#readAt : clock.now()
    const leftMs = since + staleMs - clock.now()
    this.#staleSince = since
    this.#hasExpired = leftMs <= 0
    log.authorize('%s: intentions may be outdated%s', this.#options.service, withCause(error))
    this.emit('stale', { since: new Date(since), deniesAt: new Date(since + staleMs), cause: error })
    const expire = (): void => {
      this.#hasExpired = true
      this.emit('changed')
    }
    if (leftMs <= 0) expire()
    else this.#cancelExpiry = clock.after(leftMs, expire)
  }

  /** @returns whether the intentions were stale */
  #endStaleness(): boolean {
    if (this.#staleSince === undefined) return false
    this.#staleSince = undefined
    this.#hasExpired = false
    this.#cancelExpiry()
    this.emit('fresh')
    return true
  }

  /** Changes can no longer be read: the agent decides from now on. */
  #forbid(cause: Error): void {
    const couldRead = this.#canRead
    this.#endStaleness()
    this.#canRead = false
    this.#intentions = undefined
    this.#table = undefined
    if (!couldRead) return
    this.#agentAuthorization.clear()
    const { agent, service } = this.#options
    const message = `intentions for ${service}: the token cannot read them; the agent is asked about each connection, which may need the same permission; give the token service ${JSON.stringify(service)} { policy = "write", intentions = "read" }`
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
    return `the intentions could not be read since ${since}${withCause(this.#watch.lastError)}`
  }
}

/** A source that exists nowhere, for the question what the default policy is. */
const STRANGER = 'consul-connect-default-policy'

function strangerLike({ spiffeId }: Peer): Pick<Peer, 'service' | 'spiffeId'> {
  return { service: STRANGER, spiffeId: spiffeId.slice(0, spiffeId.lastIndexOf('/') + 1) + STRANGER }
}

function isForbidden(error: unknown): boolean {
  return error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_FORBIDDEN'
}
