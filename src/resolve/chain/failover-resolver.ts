import { setMaxListeners } from 'node:events'
import { isTransient } from '../../agent/agent-errors.js'
import { isAborted } from '../../base/deadline.js'
import { ClosedError, DialError, messageOf, toError } from '../../base/errors.js'
import { publishResolution } from '../diagnostics.js'
import { type DialPolicy, type Endpoint, type ResolveRequest, endpointList } from '../resolver.js'
import type { Failover } from './failover.js'
import type { Patience } from './instance-watches.js'
import { type Conditions, type TargetContext, TargetResolver } from './target-resolver.js'

type Groups = readonly (readonly Endpoint[])[]

/** Resolves targets in failover order to one list of endpoints, in which each target is a group. */
export class FailoverResolver {
  readonly #name: string
  readonly #isSorted: boolean
  readonly #targets: readonly TargetResolver[]
  readonly #policy: DialPolicy
  /** The errors of the last resolution. */
  readonly #failures = new Map<TargetResolver, Error>()
  #last: { readonly groups: Groups; readonly endpoints: readonly Endpoint[] } | undefined

  /** @param name - the name of the upstream, for messages */
  constructor(name: string, failover: Failover, conditions: Conditions, context: TargetContext) {
    const { targets, connectTimeoutMs, loadBalancer } = failover
    this.#name = name
    this.#isSorted = conditions.near !== undefined
    this.#policy = { connectTimeoutMs, loadBalancer }
    this.#targets = targets.map(
      (target, priority) => new TargetResolver(target, conditions, priority, context),
    )
    for (const target of this.#targets) {
      // Publishes the change even if no dial follows.
      target.onChanged(() => {
        if (this.#last !== undefined) this.#combine(this.#known())
      })
    }
  }

  /** The targets in messages. */
  get description(): string {
    return this.#targets.map(({ name }) => name).join(', then ')
  }

  get lastError(): Error | undefined {
    return this.#targets.find(({ lastError }) => lastError !== undefined)?.lastError
  }

  get isEmpty(): boolean {
    return this.#targets.every(({ isEmpty }) => isEmpty)
  }

  /**
   * Returns the endpoints of the first target that has a healthy instance, and those of the other targets as far as they
   * are known. A refresh reads all targets.
   * @throws DialError with ERR_CONNECT_NO_INSTANCES or the code of a target, AgentError
   */
  async resolve({ signal, refresh }: ResolveRequest): Promise<readonly Endpoint[]> {
    for (const target of this.#targets) target.touch()
    const endpoints = this.#combine(await this.#groups(signal, refresh))
    if (endpoints.length > 0) return endpoints
    throw await this.#none(signal)
  }

  /** Returns the endpoints, or an empty list, if they are known without waiting. */
  known(): readonly Endpoint[] | undefined {
    for (const target of this.#targets) {
      if (target.known().length > 0) break
      if (!target.isKnownEmpty) return undefined
    }
    for (const target of this.#targets) target.touch()
    return this.#combine(this.#known())
  }

  close(): void {
    for (const target of this.#targets) target.close()
  }

  async #groups(signal: AbortSignal, refresh: boolean): Promise<Groups> {
    const [first, ...others] = this.#targets
    if (first === undefined) return []
    if (others.length === 0) return [await first.resolve(signal, refresh ? 'refreshed' : 'first')]
    if (refresh) return this.#refreshed(signal)
    // Nothing to wait for, as in most dials.
    return first.known().length > 0 ? this.#known() : this.#firstHealthy(signal)
  }

  #known(): Groups {
    return this.#targets.map((target) => target.known())
  }

  async #firstHealthy(signal: AbortSignal): Promise<Groups> {
    for (;;) {
      // All at once; the first one with a healthy instance counts.
      const attempts = this.#targets.map((target) => this.#attempt(target, signal, 'now'))
      // The first rejection ends the loop.
      for (const attempt of attempts) attempt.catch(() => undefined)
      const unanswered: TargetResolver[] = []
      for (const [i, target] of this.#targets.entries()) {
        const endpoints = await attempts[i]
        if (endpoints === undefined || isTransient(endpoints)) unanswered.push(target)
        else if (!(endpoints instanceof Error) && endpoints.length > 0) {
          return this.#targets.map((each) => (each === target ? endpoints : each.known()))
        }
      }
      if (unanswered.length === 0) return this.#targets.map(() => [])
      // The agent does not answer at the moment. The next round reports an error.
      await anyAnswer(unanswered, signal)
      if (isAborted(signal)) throw toError(signal.reason)
    }
  }

  /** Reads all targets again. One that fails keeps its known endpoints. */
  #refreshed(signal: AbortSignal): Promise<Groups> {
    return Promise.all(
      this.#targets.map(async (target) => {
        const endpoints = await this.#attempt(target, signal, 'refreshed')
        return endpoints === undefined || endpoints instanceof Error ? target.known() : endpoints
      }),
    )
  }

  /** Resolves a target. @returns an error that is no reason to ignore the other targets; undefined without an answer */
  async #attempt(
    target: TargetResolver,
    signal: AbortSignal,
    patience: Patience,
  ): Promise<readonly Endpoint[] | Error | undefined> {
    this.#failures.delete(target)
    try {
      return await target.resolveSoon(signal, patience)
    } catch (thrown) {
      if (isAborted(signal) || thrown instanceof ClosedError) throw thrown
      const error = toError(thrown)
      this.#failures.set(target, error)
      return error
    }
  }

  /** Returns the same frozen list while nothing changes, so that the balancer need not compare it at each dial. */
  #combine(groups: Groups): readonly Endpoint[] {
    if (this.#last?.groups.every((group, i) => group === groups[i]) === true) return this.#last.endpoints
    const endpoints = endpointList(groups.flat(), this.#policy)
    this.#last = { groups, endpoints }
    publishResolution(this.#name, endpoints, this.#isSorted)
    return endpoints
  }

  /** Explains why no target has an instance. */
  async #none(signal: AbortSignal): Promise<DialError> {
    const reasons = await Promise.all(
      this.#targets.map(async (target) => {
        const error = this.#failures.get(target)
        const { reason, message } =
          error === undefined
            ? await target.whyEmpty(signal)
            : { reason: 'empty' as const, message: messageOf(error) }
        const isObvious =
          this.#targets.length === 1 && target.subset === undefined && target.service === this.#name
        return { reason, error, message: isObvious ? message : `${target.name}: ${message}` }
      }),
    )
    const [first] = reasons
    const message = reasons.map((each) => each.message).join('; ')
    return new DialError('ERR_CONNECT_NO_INSTANCES', this.#name, message, {
      reason: first?.reason ?? 'empty',
      cause: reasons.find(({ error }) => error !== undefined)?.error,
    })
  }
}

/** Waits until one of the targets has an answer. Never rejects. */
async function anyAnswer(targets: readonly TargetResolver[], signal: AbortSignal): Promise<void> {
  const ended = new AbortController()
  const either = AbortSignal.any([signal, ended.signal])
  setMaxListeners(0, either)
  await Promise.any(targets.map((target) => target.resolve(either, 'first'))).catch(() => undefined)
  ended.abort()
}
