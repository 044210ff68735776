import { type AgentClient, isTransient } from '../agent/client.js'
import { type QueryAnswer, executeQuery, isSortedQuery } from '../agent/query.js'
import type { Clock } from '../clock.js'
import { AgentError, DialError } from '../errors.js'
import { log } from '../log.js'
import { noneAlive, toEndpoints } from './instances.js'
import { Lookup, type Timed } from './lookup.js'
import type { Endpoint, ResolveRequest, Resolver } from './resolver.js'
import type { QueryTarget } from './upstream.js'

/** An answer of a query that says nothing of its own holds for so long. */
const DEFAULT_TTL_MS = 10_000
/** The agent is not asked on every dial, whatever the query says. */
const SHORTEST_TTL_MS = 1_000
/** A query is rarely changed; how it sorts is asked for again after this. */
const SORTING_TTL_MS = 60_000
/** Nobody waits for longer to know how a query sorts, when its answer is there. */
const LONGEST_EXPLAIN_MS = 500

/** Resolves by a prepared query, which may fail over to other datacenters. It is executed again after its own TTL. */
export class QueryResolver implements Resolver {
  readonly name: string
  readonly #target: QueryTarget
  readonly #answer: Lookup<QueryAnswer>
  readonly #sorting: Lookup<boolean>
  #isSorted: boolean
  #last: { answer: QueryAnswer; own: string; endpoints: readonly Endpoint[] } | undefined

  constructor(agent: AgentClient, target: QueryTarget, clock: Clock) {
    this.name = `query ${target.query}`
    this.#target = target
    this.#isSorted = target.near !== undefined
    this.#answer = new Lookup(this.name, clock, async (signal) => {
      const value = await executeQuery(agent, target, signal)
      const { service, instances, datacenter, ttlMs = DEFAULT_TTL_MS } = value
      log.resolve('%s: %d instances of %s in %s', this.name, instances.length, service, datacenter)
      return { value, ttlMs: Math.max(SHORTEST_TTL_MS, ttlMs) }
    })
    this.#sorting = new Lookup(`sorting of ${this.name}`, clock, (signal) => this.#askSorting(agent, signal))
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
    if (this.#target.near === undefined) this.#isSorted = await this.#sorting.get(signal, false)
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

  /** A token may well have the right to execute a query and not to read it: then it counts as not sorted. */
  async #askSorting(agent: AgentClient, signal: AbortSignal): Promise<Timed<boolean>> {
    try {
      const bounds = { signal, timeoutMs: LONGEST_EXPLAIN_MS }
      return { value: await isSortedQuery(agent, this.#target, bounds), ttlMs: SORTING_TTL_MS }
    } catch (error) {
      if (!isTransient(error)) return { value: false, ttlMs: SORTING_TTL_MS }
      // What was known of it is not forgotten.
      return { value: this.#isSorted, ttlMs: SHORTEST_TTL_MS }
    }
  }

  #endpoints(answer: QueryAnswer, own: string): readonly Endpoint[] {
    if (this.#last?.answer === answer && this.#last.own === own) return this.#last.endpoints
    const { namespace = answer.namespace, partition } = this.#target
    const { service } = answer
    const instances = answer.instances.map((instance) => ({
      ...instance,
      datacenter: instance.datacenter ?? answer.datacenter,
    }))
    // Whether instances with warnings are wanted is the query's to say.
    const endpoints = toEndpoints(instances, { service, own, onlyPassing: false, namespace, partition })
    this.#last = { answer, own, endpoints }
    return endpoints
  }

  #none(reason: DialError['reason'] & string, message: string, cause?: unknown): DialError {
    return new DialError('ERR_CONNECT_NO_INSTANCES', this.name, message, { reason, cause })
  }
}
