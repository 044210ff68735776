import { type ProxyToken, type Tokens, newToken } from './tokens.js'

/** Callbacks of a token. */
export interface TokenHooks {
  /**
   * Saves the state.
   * @throws the system's error
   */
  save(): Promise<void>
  /** Schedules the revocation of a token. */
  revokeLater(accessor: string): void
  /** Called when the agent no longer knows the token. */
  deleted(): void
}

/** How often to check that the agent knows a token. With a pass every 2 s, a deletion is detected within 15 s. */
export const TOKEN_CHECK_MS = 12_000

/**
 * Manages the ACL token of one proxy: creates it, replaces it after deletion or a rename of the service, and revokes
 * it.
 */
export class ManagedToken {
  readonly #hooks: TokenHooks
  readonly #description: string
  #token: ProxyToken | undefined
  #checkedAt: number | undefined

  constructor(saved: ProxyToken | undefined, description: string, hooks: TokenHooks) {
    this.#token = saved
    this.#description = description
    this.#hooks = hooks
  }

  get saved(): ProxyToken | undefined {
    return this.#token
  }

  /** The secret; undefined until the agent has confirmed the creation. */
  get secret(): string | undefined {
    return this.#token?.isCreated === true ? this.#token.secret : undefined
  }

  /**
   * State of the token: `none` if ACLs are disabled; `missing` from the loss of a token until its replacement exists.
   */
  get state(): 'none' | 'valid' | 'missing' {
    if (this.#token === undefined) return 'none'
    return this.#token.isCreated ? 'valid' : 'missing'
  }

  /** Whether the token carries the identity of another service. */
  isForOtherService(service: string): boolean {
    return this.#token !== undefined && this.#token.service !== service
  }

  /**
   * Creates the token if ACLs are enabled and there is none.
   * @throws AgentError, or Error that says which right to grant
   */
  async ensure(tokens: Tokens, service: string): Promise<void> {
    if (!(await tokens.areOn())) return
    const now = performance.now()
    if (this.isForOtherService(service)) this.release()
    if (this.#token?.isCreated === true) {
      const isDue = this.#checkedAt === undefined || now - this.#checkedAt >= TOKEN_CHECK_MS
      if (!isDue) return
      const state = await tokens.state(this.#token)
      this.#checkedAt = now
      if (state !== 'unknown') return
      this.#hooks.deleted()
      this.release()
    }
    // Save the ids before creating the token: after a crash in between, an unrecorded token would never be revoked.
    this.#token ??= newToken(service)
    await this.#hooks.save()
    await tokens.create(this.#token, this.#description)
    this.#token = { ...this.#token, isCreated: true }
    this.#checkedAt = now
    await this.#hooks.save()
  }

  release(): void {
    if (this.#token !== undefined) this.#hooks.revokeLater(this.#token.accessor)
    this.#token = undefined
    this.#checkedAt = undefined
  }
}
