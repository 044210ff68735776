import { type Registered, type Registry, registrationPrint } from './agent/registry.js'
import type { ServiceDefinition } from './configuration/definition.js'
import type { SavedService } from './state/snapshot.js'

/** So many times in a row it must be missing: its registration may be under way. */
const MISSING = 2

/** A service that we register, without its proxy. */
export class DefinedService {
  #definition: ServiceDefinition
  #sent: string | undefined
  /** In which run of the agent it was seen last. */
  #seenIn: number | undefined
  #missing = 0
  #isGone = false

  constructor(definition: ServiceDefinition, sent?: string) {
    this.#definition = definition
    this.#sent = sent
  }

  get definition(): ServiceDefinition {
    return this.#definition
  }

  /** Somebody else has deregistered it: it stays away until somebody asks for it again. */
  get isGone(): boolean {
    return this.#isGone
  }

  get saved(): SavedService {
    return { id: this.#definition.id, sender: this.#definition.sender, sent: this.#sent }
  }

  redefine(definition: ServiceDefinition): void {
    const before = registrationPrint(this.#definition.body, this.#definition.sender)
    if (before !== registrationPrint(definition.body, definition.sender)) this.forgive()
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
    const { id, body, sender } = this.#definition
    if (this.#isGone) return
    const print = registrationPrint(body, sender)
    if (known.has(id)) {
      this.#missing = 0
      this.#seenIn = run
      if (print === this.#sent) return
    } else if (this.#sent !== undefined && run !== undefined && this.#seenIn === run) {
      this.#missing += 1
      if (this.#missing < MISSING) return
      this.#isGone = !(await registry.isThere(id))
      return
    }
    await registry.register(body, sender)
    this.#sent = print
  }
}
