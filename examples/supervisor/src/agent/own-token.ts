import { type ProxyToken, type Tokens, newToken } from './tokens.js'

/** What the token of a proxy needs from around it. */
export interface TokenHooks {
  /** @throws when it cannot be written down */
  save(): Promise<void>
  /** It is not needed any more. */
  revokeLater(accessor: string): void
  /** Somebody has deleted it. */
  deleted(): void
}

/** How often the agent is asked whether it still knows the token. With a pass every 2 s, a deletion is noticed within 15 s. */
export const TOKEN_CHECK_MS = 12_000

/** The token of one proxy: made when there is none, made again when it is gone or for another service, and given up. */
export class OwnToken {
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

  /** Undefined as long as the agent has not said that it is made. */
  get secret(): string | undefined {
    return this.#token?.isMade === true ? this.#token.secret : undefined
  }

  /** `none` where ACLs are off; `missing` from the loss of a token until the agent has made the next one. */
  get state(): 'none' | 'valid' | 'missing' {
    if (this.#token === undefined) return 'none'
    return this.#token.isMade ? 'valid' : 'missing'
  }

  /** Whether it is of another service than this one. */
  isOfOther(service: string): boolean {
    return this.#token !== undefined && this.#token.service !== service
  }

  /**
   * Makes it, where ACLs are on.
   * @throws Error, which says what to grant; AgentError
   */
  async ensure(tokens: Tokens, service: string): Promise<void> {
    if (!(await tokens.areOn())) return
    const now = performance.now()
    if (this.isOfOther(service)) this.giveUp()
    if (this.#token?.isMade === true) {
      const isDue = this.#checkedAt === undefined || now - this.#checkedAt >= TOKEN_CHECK_MS
      if (!isDue) return
      const state = await tokens.state(this.#token)
      this.#checkedAt = now
      if (state !== 'unknown') return
      this.#hooks.deleted()
      this.giveUp()
    }
    // A token that nobody remembers is one that nobody revokes.
    this.#token ??= newToken(service)
    await this.#hooks.save()
    await tokens.create(this.#token, this.#description)
    this.#token = { ...this.#token, isMade: true }
    this.#checkedAt = now
    await this.#hooks.save()
  }

  giveUp(): void {
    if (this.#token !== undefined) this.#hooks.revokeLater(this.#token.accessor)
    this.#token = undefined
    this.#checkedAt = undefined
  }
}
