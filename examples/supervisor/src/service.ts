import { type Registered, type Registry, registrationPrint } from './agent/registry.js'
import type { ServiceDefinition } from './configuration/definition.js'
import type { SavedService } from './state/snapshot.js'

/**
 * Number of consecutive passes without the service before it counts as deregistered. A single miss may be a
 * registration in progress.
 */
const MISSING = 2

/** Keeps one service of the configuration registered. Its proxy is a `ManagedProxy`. */
export class DefinedService {
  #definition: ServiceDefinition
  #sent: string | undefined
  /** Generation of the agent in which the service was last listed. */
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

  /** Whether another client deregistered the service. It then stays deregistered until `forgive()`. */
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

  /** Registers the service again even if another client deregistered it. */
  forgive(): void {
    this.#isGone = false
    this.#missing = 0
    this.#seenIn = undefined
  }

  /**
   * Registers the service if it is missing or has changed. A service that disappears while the agent keeps running
   * was deregistered by another client, and is not registered again.
   * @param run - generation of the agent; undefined while the agent is unreachable
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
