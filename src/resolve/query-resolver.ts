import type { AgentClient } from '../agent/client.js'
import { isNoAnswer } from '../agent/agent-errors.js'
import { type QueryAnswer, executeQuery, isSortedQuery } from '../agent/endpoints/query.js'
import type { Clock } from '../base/clock.js'
import { AgentError, DialError, toError } from '../base/errors.js'
import { log } from '../base/log.js'
import { AnswerOrder } from './answer-order.js'
import { publishResolution, publishResolutionFailure } from './diagnostics.js'
import { noneAlive, toEndpoints } from './instances.js'
import { TtlCache, type Timed } from './ttl-cache.js'
import { type Endpoint, type ResolveRequest, type Resolver, endpointList } from './resolver.js'
import type { QueryUpstream } from './upstream.js'

/** The TTL of an answer if the query defines none. */
const DEFAULT_TTL_MS = 10_000
/** The minimum TTL, and the TTL of an empty answer. */
const SHORTEST_TTL_MS = 1_000
/** How long the known sorting of a query is cached: definitions change rarely. */
const SORTING_TTL_MS = 60_000
/** How long an unknown sorting is cached. */
const UNDECIDED_TTL_MS = 10_000
/** How long a dial that has instances waits for the sorting of the query. */
const LONGEST_EXPLAIN_MS = 500
/**
 * Upper bound on the answers that are compared if the definition cannot be read. With two nodes, 12 are needed.
 */
const MOST_COMPARED = 16

/** Resolves a prepared query, which may fail over to other datacenters. The query is executed again after its TTL. */
export class QueryResolver implements Resolver {
  readonly name: string
  readonly #agent: AgentClient
  readonly #clock: Clock
  readonly #upstream: QueryUpstream
  readonly #answer: TtlCache<QueryAnswer>
  readonly #sorting: TtlCache<boolean | undefined>
  readonly #order = new AnswerOrder()
  #isComparable = false
  /** Whether the definition of the query sorts; undefined where the definition cannot be read. */
  #definition: boolean | undefined
  #isSorted: boolean
  #last: { answer: QueryAnswer; own: string; endpoints: readonly Endpoint[] } | undefined

  constructor(agent: AgentClient, upstream: QueryUpstream, clock: Clock) {
    this.name = `query ${upstream.query}`
    this.#agent = agent
    this.#clock = clock
    this.#upstream = upstream
    this.#isSorted = upstream.near !== undefined
    this.#answer = new TtlCache(this.name, clock, (signal) => this.#execute(signal))
    this.#sorting = new TtlCache(`sorting of ${this.name}`, clock, (signal) => this.#findSorting(signal))
  }

  get isSorted(): boolean {
    return this.#isSorted
  }

  get isEmpty(): boolean {
    return this.#last === undefined || this.#last.endpoints.length === 0
  }

  get lastError(): Error | undefined {
    return this.#answer.lastError
  }

  /** @throws DialError with ERR_CONNECT_NO_INSTANCES, AgentError */
  async resolve({ signal, datacenter, refresh }: ResolveRequest): Promise<readonly Endpoint[]> {
    const answer = await this.#answer.get(signal, refresh).catch((error: unknown) => {
      if (!(error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND')) throw error
      throw this.#none('unknown', 'there is no prepared query of that name or id', error)
    })
    if (this.#upstream.near === undefined) {
      const definition = await this.#sorting.get(signal, false)
      this.#isSorted = definition ?? this.#order.isSorted ?? false
    }
    const endpoints = this.#endpoints(answer, datacenter)
    if (endpoints.length > 0) return endpoints
    if (answer.instances.length > 0) {
      const { reason, message } = noneAlive(answer.instances, answer.service)
      throw this.#none(reason, message)
    }
    throw this.#none('empty', `it found no healthy instance of ${answer.service} that takes Connect`)
  }

  close(): void {
    this.#answer.close()
    this.#sorting.close()
  }

  async #execute(signal: AbortSignal): Promise<Timed<QueryAnswer>> {
    try {
      const value = await executeQuery(this.#agent, this.#upstream, { signal })
      const { service, instances, datacenter, ttlMs = DEFAULT_TTL_MS } = value
      log.resolve('%s: %d instances of %s in %s', this.name, instances.length, service, datacenter)
      this.#order.add(value.nodes)
      // Instances of one node are equally near.
      this.#isComparable = new Set(value.nodes).size > 1
      const isEmpty = instances.length === 0
      return { value, ttlMs: isEmpty ? SHORTEST_TTL_MS : Math.max(SHORTEST_TTL_MS, ttlMs) }
    } catch (error) {
      publishResolutionFailure(this.name, toError(error))
      throw error
    }
  }

  /**
   * Finds out whether the query sorts by distance. If the token can execute the query but not read its definition, the
   * order of several answers decides.
   */
  async #findSorting(signal: AbortSignal): Promise<Timed<boolean | undefined>> {
    const endsAt = this.#clock.now() + LONGEST_EXPLAIN_MS
    try {
      const bounds = { signal, timeoutMs: LONGEST_EXPLAIN_MS }
      this.#definition = await isSortedQuery(this.#agent, this.#upstream, bounds)
      return { value: this.#definition, ttlMs: SORTING_TTL_MS }
    } catch (error) {
      // The last definition stays in use while the agent does not answer.
      if (isNoAnswer(error)) return { value: this.#definition, ttlMs: SHORTEST_TTL_MS }
    }
    this.#definition = undefined
    await this.#compareAnswers(signal, endsAt)
    return { value: undefined, ttlMs: this.#order.isSorted === undefined ? UNDECIDED_TTL_MS : SORTING_TTL_MS }
  }

  /** Executes the query until the order of its answers shows whether they are sorted. */
  async #compareAnswers(signal: AbortSignal, endsAt: number): Promise<void> {
    if (!this.#isComparable) return
    for (let i = 0; i < MOST_COMPARED && this.#order.isSorted === undefined; i += 1) {
      const timeoutMs = endsAt - this.#clock.now()
      if (timeoutMs <= 0) return
      try {
        const { nodes } = await executeQuery(this.#agent, this.#upstream, { signal, timeoutMs })
        this.#order.add(nodes)
      } catch (error) {
        log.resolve('%s: %s', this.name, toError(error).message)
        return
      }
    }
  }

  #endpoints(answer: QueryAnswer, own: string): readonly Endpoint[] {
    if (this.#last?.answer === answer && this.#last.own === own) return this.#last.endpoints
    const { namespace = answer.namespace, partition } = this.#upstream
    const { service } = answer
    const instances = answer.instances.map((instance) => ({
      ...instance,
      datacenter: instance.datacenter ?? answer.datacenter,
      namespace: instance.namespace ?? namespace,
      partition: instance.partition ?? partition,
    }))
    // The query decides whether instances with warnings are in its answer.
    const endpoints = endpointList(toEndpoints(instances, { service, own, onlyPassing: false }))
    this.#last = { answer, own, endpoints }
    publishResolution(this.name, endpoints, this.#isSorted)
    return endpoints
  }

  #none(reason: DialError['reason'] & string, message: string, cause?: unknown): DialError {
    return new DialError('ERR_CONNECT_NO_INSTANCES', this.name, message, { reason, cause })
  }
}
