import { isDeepStrictEqual } from 'node:util'
import type { Registered, Registry } from './agent/registry.js'
import type { ServiceDefinition } from './configuration/definition.js'
import type { Json } from './configuration/parse.js'

/** So many times in a row it must be missing: its registration may be under way. */
const MISSING = 2

/** A service that we register, without its proxy. */
export class DefinedService {
  #definition: ServiceDefinition
  /** What was sent last in this life of the supervisor, and in which run of the agent it was seen. */
  #sent: Json | undefined
  #seenIn: number | undefined
  #missing = 0
  #isGone = false

  constructor(definition: ServiceDefinition) {
    this.#definition = definition
  }

  get definition(): ServiceDefinition {
    return this.#definition
  }

  /** Somebody else has deregistered it: it stays away until somebody asks for it again. */
  get isGone(): boolean {
    return this.#isGone
  }

  /** Whether the agent knows it, as far as we have seen. */
  get isRegistered(): boolean {
    return this.#sent !== undefined && !this.#isGone
  }

  redefine(definition: ServiceDefinition): void {
    if (!isDeepStrictEqual(definition, this.#definition)) this.forgive()
    this.#definition = definition
  }

  /** What was deregistered meanwhile is registered again. */
  forgive(): void {
    this.#isGone = false
    this.#missing = 0
    this.#seenIn = undefined
  }

  /**
   * @param run of the agent; undefined when it cannot be told from others
   * @throws Error
   */
  async settle(
    registry: Registry,
    known: ReadonlyMap<string, Registered>,
    run: number | undefined,
  ): Promise<void> {
    const { id, body, token } = this.#definition
    if (this.#isGone) return
    if (known.has(id)) {
      this.#missing = 0
      this.#seenIn = run
      if (isDeepStrictEqual(body, this.#sent)) return
    } else if (this.#sent !== undefined && run !== undefined && this.#seenIn === run) {
      this.#missing += 1
      if (this.#missing < MISSING) return
      this.#isGone = !(await registry.isThere(id))
      return
    }
    await registry.register(body, token)
    this.#sent = body
  }
}
