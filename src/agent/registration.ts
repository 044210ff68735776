import { isAborted } from '../bounded.js'
import { type Clock, sleep } from '../clock.js'
import { AgentError, ConnectError, because, toError } from '../errors.js'
import { log } from '../log.js'
import type { AgentClient } from './client.js'
import {
  type ServiceDefinition,
  deregisterService,
  findService,
  passCheck,
  registerService,
} from './services.js'

export interface RegistrationOptions {
  readonly agent: AgentClient
  readonly definition: ServiceDefinition
  /** How often to tell the agent that we live (TTL) or to look whether it still knows us. */
  readonly heartbeatMs: number
  readonly clock: Clock
  readonly onError: (error: ConnectError) => void
  /** Called when it is closed or abandoned. */
  readonly onClosed: () => void
}

/** How often a deregistration is tried: an agent that is away for good must not hold up a shutdown. */
const DEREGISTER_TRIES = 3
const DEREGISTER_TIMEOUT_MS = 2_000
const DEREGISTER_PAUSE_MS = 200

/** A registration that is kept alive, made again when the agent has forgotten it, and gone on close. */
export class Registration {
  /** The instance's id on its agent. */
  readonly id: string
  readonly #options: RegistrationOptions
  readonly #closed = new AbortController()
  #closing: Promise<void> | undefined
  #beating: Promise<void> = Promise.resolve()

  constructor(options: RegistrationOptions) {
    this.id = options.definition.ID
    this.#options = options
  }

  /**
   * Registers, and starts the heartbeat.
   * @throws AgentError, AbortError
   */
  async start(signal: AbortSignal): Promise<void> {
    const { agent, definition } = this.#options
    try {
      await registerService(agent, definition, { signal })
      await this.#beat(signal)
    } catch (error) {
      // An agent that said no has nothing to forget; one that fell silent may have registered us.
      if (error instanceof AgentError && error.status !== undefined) this.abandon()
      else await this.close()
      throw error
    }
    this.#beating = this.#run()
  }

  /** Deregisters. Resolves also when the agent is away: what it should know is then in a warning. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#deregister()
    return this.#closing
  }

  /** Ends the heartbeat and leaves the registration to its check. */
  abandon(): void {
    this.#closed.abort()
    this.#closing ??= Promise.resolve()
    this.#options.onClosed()
  }

  async #run(): Promise<void> {
    const { clock, heartbeatMs, agent, definition, onError } = this.#options
    const { signal } = this.#closed
    for (;;) {
      await sleep(clock, heartbeatMs, signal)
      if (isAborted(signal)) return
      try {
        await this.#beat(signal)
      } catch (first) {
        if (isAborted(signal)) return
        // Whatever the agent says of an unknown check or service (404, or 500 before 1.11), registering mends it.
        const error = await registerService(agent, definition, { signal })
          .then(() => this.#beat(signal))
          .then(() => undefined, toError)
        if (isAborted(signal)) return
        if (error === undefined) log.register('%s: registered again%s', this.id, because(first))
        else
          onError(
            new ConnectError(
              'ERR_CONNECT_REGISTER',
              `${this.id} could not be kept registered${because(error)}`,
              { cause: error },
            ),
          )
      }
    }
  }

  async #beat(signal: AbortSignal | undefined): Promise<void> {
    const { agent, definition } = this.#options
    if (definition.Check.TTL === undefined) await findService(agent, this.id, { signal })
    else await passCheck(agent, definition.Check.CheckID, { signal })
  }

  async #deregister(): Promise<void> {
    this.#closed.abort()
    this.#options.onClosed()
    // A heartbeat under way could register again what is being taken away.
    await this.#beating
    const { agent, clock, onError } = this.#options
    for (let tries = 1; ; tries += 1) {
      try {
        await deregisterService(agent, this.id, { timeoutMs: DEREGISTER_TIMEOUT_MS })
        return
      } catch (cause) {
        // Gone already is as good.
        if (cause instanceof AgentError && cause.code === 'ERR_CONNECT_AGENT_NOT_FOUND') return
        if (tries === DEREGISTER_TRIES) {
          onError(
            new ConnectError(
              'ERR_CONNECT_REGISTER',
              `${this.id} could not be deregistered${because(cause)}`,
              { cause },
            ),
          )
          return
        }
        await sleep(clock, DEREGISTER_PAUSE_MS * tries, new AbortController().signal)
      }
    }
  }
}
