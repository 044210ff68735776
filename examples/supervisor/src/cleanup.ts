import type { Registered, Registry } from './agent/registry.js'
import { type Tokens, isAway } from './agent/tokens.js'
import type { Sender } from './configuration/definition.js'
import { RetrySchedule } from './retry-schedule.js'
import type { SavedService } from './state/snapshot.js'

/** Removes registrations and tokens that are no longer needed, and retries until the agent accepts each removal. */
export class Cleanup {
  readonly #registry: Registry
  readonly #tokens: Tokens
  readonly #warn: (message: string) => void
  readonly #retries = new RetrySchedule()
  /** Registrations to remove, by service id. */
  readonly #registrations: Map<string, Sender>
  readonly #accessors: Set<string>

  constructor(
    registry: Registry,
    tokens: Tokens,
    saved: { readonly services: readonly SavedService[]; readonly accessors: readonly string[] },
    warn: (message: string) => void,
  ) {
    this.#registry = registry
    this.#tokens = tokens
    this.#warn = warn
    this.#registrations = new Map(saved.services.map(({ id, sender }) => [id, sender]))
    this.#accessors = new Set(saved.accessors)
  }

  get services(): readonly SavedService[] {
    return [...this.#registrations].map(([id, sender]) => ({ id, sender, sent: undefined }))
  }

  get accessors(): readonly string[] {
    return [...this.#accessors]
  }

  deregister(id: string, sender: Sender): void {
    this.#registrations.set(id, sender)
  }

  /** Cancels a pending deregistration. */
  cancel(id: string): void {
    this.#registrations.delete(id)
  }

  revoke(accessor: string): void {
    this.#accessors.add(accessor)
  }

  /** Returns one step for each pending removal whose retry is due. Steps log their errors and never reject. */
  steps(known: ReadonlyMap<string, Registered>): readonly (() => Promise<void>)[] {
    const registrations = [...this.#registrations].map(
      ([id, sender]) =>
        () =>
          this.#attempt(`service ${id}`, `cannot deregister ${id}: `, async () => {
            if (known.has(id)) await this.#registry.deregister(id, sender)
            this.#registrations.delete(id)
          }),
    )
    const tokens = [...this.#accessors].map(
      (accessor) => () =>
        this.#attempt(`token ${accessor}`, '', async () => {
          if (await this.#tokens.revoke(accessor)) this.#accessors.delete(accessor)
        }),
    )
    return [...registrations, ...tokens]
  }

  /** Attempts all pending removals once, in parallel, ignoring the retry schedule. Never rejects. */
  async finish(): Promise<void> {
    const registrations = [...this.#registrations].map(([id, sender]) =>
      this.#registry.deregister(id, sender),
    )
    const tokens = [...this.#accessors].map((accessor) => this.#tokens.revoke(accessor))
    await Promise.allSettled([...registrations, ...tokens])
  }

  async #attempt(key: string, messagePrefix: string, act: () => Promise<void>): Promise<void> {
    if (!this.#retries.isDue(key)) return
    try {
      await act()
      this.#retries.succeeded(key)
    } catch (error) {
      this.#retries.failed(key, '', isAway(error))
      this.#warn(`${messagePrefix}${(error as Error).message}`)
    }
  }
}
