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
  /** Called when it is gone, or abandoned. */
  readonly onClosed: () => void
}

/** How often a deregistration is tried: an agent that is away for good must not hold up a shutdown. */
const DEREGISTER_TRIES = 3
const CALL_TIMEOUT_MS = 2_000
const DEREGISTER_PAUSE_MS = 200
/** A heartbeat may be asked for more often than a request can be expected to take. */
const SHORTEST_BEAT_MS = 1_000

/** A registration that is kept alive, made again when the agent has forgotten it, and gone on close. */
export class Registration {
  /** The instance's id on its agent. */
  readonly id: string
  /** The port that is registered. */
  readonly port: number
  readonly #options: RegistrationOptions
  readonly #closed = new AbortController()
  readonly #abandoned = new AbortController()
  #closing: Promise<void> | undefined
  #beating: Promise<void> = Promise.resolve()

  constructor(options: RegistrationOptions) {
    this.id = options.definition.ID
    this.port = options.definition.Port
    this.#options = options
  }

  /**
   * Registers, and starts the heartbeat.
   * @throws AgentError, AbortError
   */
  async start(signal: AbortSignal): Promise<void> {
    const { agent, definition } = this.#options
    let refused = true
    try {
      await registerService(agent, definition, { signal })
      refused = false
      await this.#beat(signal)
    } catch (error) {
      // An agent that said no has nothing to forget; one that fell silent may have registered us.
      if (refused && error instanceof AgentError && error.status !== undefined) this.abandon()
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
    this.#abandoned.abort()
    this.#closing ??= Promise.resolve()
    this.#options.onClosed()
  }

  async #run(): Promise<void> {
    const { clock, heartbeatMs, onError } = this.#options
    const { signal } = this.#closed
    for (;;) {
      await sleep(clock, heartbeatMs, signal)
      if (isAborted(signal)) return
      const lost = await this.#beat(signal).then(() => undefined, toError)
      if (lost === undefined) continue
      const error = isAborted(signal) ? undefined : await this.#registerAgain(signal)
      if (isAborted(signal)) return
      if (error === undefined) log.register('%s: registered again%s', this.id, because(lost))
      else {
        const message = `${this.id} could not be kept registered${because(error)}`
        onError(new ConnectError('ERR_CONNECT_REGISTER', message, { cause: error }))
      }
    }
  }

  /** Whatever the agent says of an unknown check or service (404, or 500 before 1.11), registering mends it. */
  async #registerAgain(signal: AbortSignal): Promise<Error | undefined> {
    const { agent, definition } = this.#options
    try {
      // It is not cut short by a close, which could not know then which of the two the agent hears last.
      await registerService(agent, definition, { timeoutMs: CALL_TIMEOUT_MS })
      if (!isAborted(signal)) await this.#beat(signal)
      return undefined
    } catch (error) {
      return toError(error)
    }
  }

  async #beat(signal: AbortSignal): Promise<void> {
    const { agent, definition, heartbeatMs } = this.#options
    // A request that hangs must leave time for another one within the TTL.
    const timeoutMs = Math.min(agent.settings.timeoutMs, Math.max(heartbeatMs, SHORTEST_BEAT_MS))
    if (definition.Check.TTL === undefined) await findService(agent, this.id, { signal, timeoutMs })
    else await passCheck(agent, definition.Check.CheckID, { signal, timeoutMs })
  }

  async #deregister(): Promise<void> {
    const { onError, onClosed } = this.#options
    this.#closed.abort()
    // A heartbeat under way could register again what is being taken away.
    await this.#beating
    const cause = await this.#tryToDeregister()
    if (cause !== undefined) {
      const message = `${this.id} could not be deregistered${because(cause)}`
      onError(new ConnectError('ERR_CONNECT_REGISTER', message, { cause }))
    }
    onClosed()
  }

  /** Returns what the last try failed with; undefined when the agent knows us no longer, or we do not care. */
  async #tryToDeregister(): Promise<Error | undefined> {
    const { agent, clock } = this.#options
    const { signal } = this.#abandoned
    for (let tries = 1; ; tries += 1) {
      try {
        await deregisterService(agent, this.id, { signal, timeoutMs: CALL_TIMEOUT_MS })
        return undefined
      } catch (thrown) {
        const error = toError(thrown)
        // Gone already is as good.
        if (error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND') return undefined
        if (isAborted(signal)) return undefined
        if (tries === DEREGISTER_TRIES) return error
        await sleep(clock, DEREGISTER_PAUSE_MS * tries, signal)
      }
    }
  }
}
