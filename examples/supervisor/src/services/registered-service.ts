import { type Registered, type Registry, registrationFingerprint } from '../agent/registry.js'
import type { ServiceDefinition } from '../configuration/definition.js'
import type { SavedService } from '../state/snapshot.js'

/**
 * Number of consecutive passes without the service before it counts as deregistered. A single miss may be a
 * registration in progress.
 */
const MISSING = 2

/** Keeps one service of the configuration registered. Its proxy is a `ManagedProxy`. */
export class RegisteredService {
  #definition: ServiceDefinition
  #sentFingerprint: string | undefined
  /** Generation of the agent in which the service was last listed. */
  #lastSeenGeneration: number | undefined
  #missing = 0
  #isGone = false

  constructor(definition: ServiceDefinition, sent?: string) {
    this.#definition = definition
    this.#sentFingerprint = sent
  }

  get definition(): ServiceDefinition {
    return this.#definition
  }

  /** Whether another client deregistered the service. It then stays deregistered until `allowReregistration()`. */
  get isGone(): boolean {
    return this.#isGone
  }

  get saved(): SavedService {
    return { id: this.#definition.id, sender: this.#definition.sender, sent: this.#sentFingerprint }
  }

  redefine(definition: ServiceDefinition): void {
    const before = registrationFingerprint(this.#definition.body, this.#definition.sender)
    if (before !== registrationFingerprint(definition.body, definition.sender)) this.allowReregistration()
    this.#definition = definition
  }

  /** Registers the service again even if another client deregistered it. */
  allowReregistration(): void {
    this.#isGone = false
    this.#missing = 0
    this.#lastSeenGeneration = undefined
  }

  /**
   * Registers the service if it is missing or has changed. A service that disappears while the agent keeps running
   * was deregistered by another client, and is not registered again.
   * @param generation - generation of the agent; undefined while the agent is unreachable
   * @throws Error
   */
  async reconcile(
    registry: Registry,
    known: ReadonlyMap<string, Registered>,
    generation: number | undefined,
  ): Promise<void> {
    const { id, body, sender } = this.#definition
    if (this.#isGone) return
    const newFingerprint = registrationFingerprint(body, sender)
    if (known.has(id)) {
      this.#missing = 0
      this.#lastSeenGeneration = generation
      if (newFingerprint === this.#sentFingerprint) return
    } else if (
      this.#sentFingerprint !== undefined &&
      generation !== undefined &&
      this.#lastSeenGeneration === generation
    ) {
      this.#missing += 1
      if (this.#missing < MISSING) return
      this.#isGone = !(await registry.isRegistered(id))
      return
    }
    await registry.register(body, sender)
    this.#sentFingerprint = newFingerprint
  }
}
