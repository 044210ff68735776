import { type Backoff, backoffMs } from '../base/backoff.js'
import { type Bounds, withDeadline, isAborted } from '../base/deadline.js'
import { type Clock, sleep } from '../base/clock.js'
import { AgentError, ConnectError, OptionError, withCause, toError } from '../base/errors.js'
import { log } from '../base/log.js'
import {
  DEFAULTS,
  describe,
  duration,
  expectKeys,
  expectObject,
  expectSignal,
  expectString,
  optional,
} from '../base/validate.js'
import type { AgentClient } from '../agent/client.js'
import { isNoAnswer } from '../agent/agent-errors.js'
import {
  type CallOptions,
  type CheckStatus,
  OWNER_KEY,
  type ServiceDefinition,
  deregisterService,
  findService,
  withDestinationDefaults,
  isInCatalog,
  registerService,
  setMaintenance,
  updateCheck,
} from '../agent/endpoints/services.js'

export interface RegistrationSettings {
  readonly agent: AgentClient
  readonly definition: ServiceDefinition
  /** How often to renew the TTL, or to look whether the agent still has the registration, in milliseconds. */
  readonly heartbeatMs: number
  readonly clock: Clock
  readonly onError: (error: ConnectError) => void
  /** Called when the registration is gone, or abandoned. */
  readonly onClosed: () => void
}

/** Options of a call to the agent. */
export interface AgentCallOptions {
  readonly signal?: AbortSignal | undefined
  /** @default 10000 */
  readonly timeoutMs?: number | undefined
}

/** Options of `setStatus`. */
export interface StatusOptions extends AgentCallOptions {
  /** A line for people, which Consul shows as the output of the check. */
  readonly note?: string | undefined
}

/** Options of `enterMaintenance`. */
export interface MaintenanceOptions extends AgentCallOptions {
  /** Shown by Consul. @default its own text */
  readonly reason?: string | undefined
}

/** How often a deregistration is tried: an agent that is gone must not hold up a shutdown. */
const DEREGISTER_TRIES = 3
const CALL_TIMEOUT_MS = 2_000
const DEREGISTER_PAUSE_MS = 200
/** A heartbeat may be due more often than a request can be expected to take. */
const SHORTEST_BEAT_MS = 1_000
const RETRY: Backoff = { firstMs: 100, longestMs: 5_000 }
/** How long `start` waits for the servers to list the registration. */
const CATALOG_WAIT_MS = 3_000
const CATALOG_PAUSE: Backoff = { firstMs: 10, longestMs: 250 }

/**
 * A registration with the agent: kept alive by heartbeats, made again when the agent has lost it, and removed by
 * `close`. It touches only what it registered itself: when another process has registered the same id since, it warns
 * (ERR_CONNECT_REGISTER) and stops.
 */
export class Registration {
  /** The instance's id on its agent. */
  readonly id: string
  /** The port that is registered. */
  readonly port: number
  readonly #settings: RegistrationSettings
  readonly #closed = new AbortController()
  readonly #abandoned = new AbortController()
  #status: { readonly status: CheckStatus; readonly note: string | undefined }
  /** Undefined outside of maintenance. */
  #maintenance: string | undefined
  #lastError: Error | undefined
  #closing: Promise<void> | undefined
  #beating: Promise<void> = Promise.resolve()

  constructor(settings: RegistrationSettings) {
    this.id = settings.definition.ID
    this.port = settings.definition.Port
    this.#settings = settings
    this.#status = { status: 'passing', note: undefined }
  }

  /** Why the registration has not succeeded yet; undefined when the last try did. */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /**
   * Registers, again and again while the agent gives no answer, waits until the servers list the registration, for at
   * most 3 s, and starts the heartbeat.
   * @throws AgentError when the agent refuses, AbortError
   * @internal
   */
  async start(signal: AbortSignal): Promise<void> {
    try {
      await this.#registerUntilAnswered(signal)
      await this.#waitForCatalog(signal)
    } catch (error) {
      // An agent that refused has registered nothing; one that fell silent may have.
      if (error instanceof AgentError && !isNoAnswer(error)) this.abandon()
      else await this.close()
      throw error
    }
    this.#beating = this.#run()
  }

  /**
   * Sets the status of the TTL check, which the heartbeats then renew. A critical instance gets no connections, and one
   * with a warning those of its weight for warnings.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError also when the agent runs the check itself
   * (`tcp`, `http`)
   * @example
   * ```ts
   * const jobs = connect.service('jobs')
   * const registration = await jobs.register({ port: 7070 })
   * await registration.setStatus('warning', { note: 'the queue is long' })
   * await jobs.close()
   * ```
   */
  async setStatus(status: CheckStatus, options: StatusOptions = {}): Promise<void> {
    const { agent, definition } = this.#settings
    if (!Object.hasOwn(STATUSES, status))
      throw new OptionError('status', 'passing, warning, or critical', describe(status))
    expectKeys('options', expectObject('options', options), ['note', 'signal', 'timeoutMs'])
    const note = optional(expectString)('note', options.note)
    if (definition.Check.TTL === undefined) {
      throw new OptionError('status', 'a registration with a TTL check', 'one whose check the agent runs')
    }
    this.#status = { status, note }
    await this.#call('setStatus', options, (call) =>
      updateCheck(agent, definition.Check.CheckID, this.#status, call),
    )
  }

  /**
   * Takes the instance out of use, whatever its checks say, until `leaveMaintenance`.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError
   */
  async enterMaintenance(options: MaintenanceOptions = {}): Promise<void> {
    const { agent } = this.#settings
    expectKeys('options', expectObject('options', options), ['reason', 'signal', 'timeoutMs'])
    const reason = optional(expectString)('reason', options.reason) ?? ''
    this.#maintenance = reason
    await this.#call('enterMaintenance', options, (call) => setMaintenance(agent, this.id, reason, call))
  }

  /**
   * Ends a maintenance.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError
   */
  async leaveMaintenance(options: AgentCallOptions = {}): Promise<void> {
    const { agent } = this.#settings
    expectKeys('options', expectObject('options', options), ['signal', 'timeoutMs'])
    this.#maintenance = undefined
    await this.#call('leaveMaintenance', options, (call) => setMaintenance(agent, this.id, undefined, call))
  }

  /** Deregisters. Resolves also when the agent gives no answer, with a warning then. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#deregister()
    return this.#closing
  }

  /** Ends the heartbeats and leaves the registration to its check. */
  abandon(): void {
    this.#closed.abort()
    this.#abandoned.abort()
    this.#closing ??= Promise.resolve()
    this.#settings.onClosed()
  }

  #call(
    name: string,
    options: AgentCallOptions,
    call: (options: CallOptions) => Promise<void>,
  ): Promise<void> {
    const bounds: Bounds = {
      signal: optional(expectSignal)('signal', options.signal),
      timeoutMs: duration('timeoutMs', options.timeoutMs, DEFAULTS.agentTimeoutMs),
      closed: this.#closed.signal,
    }
    return withDeadline(name, bounds, (signal) => call({ signal, timeoutMs: bounds.timeoutMs }))
  }

  async #registerUntilAnswered(signal: AbortSignal): Promise<void> {
    const { agent, clock } = this.#settings
    for (let failures = 1; ; failures += 1) {
      try {
        await registerService(agent, await this.#definition({ signal }), { signal })
        this.#lastError = undefined
        return
      } catch (thrown) {
        const error = toError(thrown)
        if (isAborted(signal) || !isNoAnswer(error)) throw error
        this.#lastError = error
        const pauseMs = backoffMs(RETRY, failures)
        log.register('%s: next try in %d ms%s', this.id, pauseMs, withCause(error))
        await sleep(clock, pauseMs, signal)
      }
    }
  }

  /** The definition; a proxy inherits what was not said of it from the service that it stands for. */
  async #definition(call: CallOptions): Promise<ServiceDefinition> {
    const { agent, definition } = this.#settings
    const destination = definition.Proxy?.DestinationServiceID
    if (destination === undefined) return definition
    try {
      return withDestinationDefaults(definition, await findService(agent, destination, call))
    } catch (error) {
      if (error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND') return definition
      throw error
    }
  }

  /** A dial that follows would find no instance otherwise: the agent tells its servers after its answer. */
  async #waitForCatalog(signal: AbortSignal): Promise<void> {
    const { agent, definition, clock } = this.#settings
    const deadline = clock.now() + CATALOG_WAIT_MS
    for (let tries = 1; clock.now() < deadline; tries += 1) {
      try {
        if (await isInCatalog(agent, definition, { signal, timeoutMs: CALL_TIMEOUT_MS })) return
      } catch (error) {
        if (isAborted(signal)) throw error
        log.register('%s: not seen in the catalog yet%s', this.id, withCause(error))
        // The registration itself has succeeded, and the heartbeats look after it.
        if (!isNoAnswer(error)) return
      }
      await sleep(clock, backoffMs(CATALOG_PAUSE, tries), signal)
    }
  }

  async #run(): Promise<void> {
    const { clock, heartbeatMs } = this.#settings
    const { signal } = this.#closed
    for (;;) {
      await sleep(clock, heartbeatMs, signal)
      if (isAborted(signal)) return
      const failure = await this.#beat(signal).then(() => undefined, toError)
      if (failure === undefined) continue
      const error = isAborted(signal) ? undefined : await this.#recover(signal)
      if (isAborted(signal)) return
      if (error === undefined) log.register('%s: registered again%s', this.id, withCause(failure))
      else this.#warn('could not be kept registered', error)
    }
  }

  /**
   * Registers again after a heartbeat that failed, for whatever reason: agents answer an unknown check by 404 or 500.
   */
  async #recover(signal: AbortSignal): Promise<Error | undefined> {
    const { agent } = this.#settings
    const bounds = { timeoutMs: CALL_TIMEOUT_MS, isHeartbeat: true }
    try {
      if ((await this.#owner({ ...bounds, signal })) === 'another process') {
        this.#warn('is no longer kept registered', takenError())
        this.abandon()
        return undefined
      }
      // Not aborted by a close, which could not know then which of the two requests the agent hears last.
      await registerService(agent, await this.#definition(bounds), bounds)
      if (isAborted(signal)) return undefined
      if (this.#maintenance !== undefined) await setMaintenance(agent, this.id, this.#maintenance, bounds)
      if (this.#status.status !== 'passing') await this.#beat(signal)
      return undefined
    } catch (error) {
      return toError(error)
    }
  }

  async #beat(signal: AbortSignal): Promise<void> {
    const { agent, definition, heartbeatMs } = this.#settings
    // A request that hangs must leave time for another one within the TTL.
    const timeoutMs = Math.min(agent.settings.timeoutMs, Math.max(heartbeatMs, SHORTEST_BEAT_MS))
    const call = { signal, timeoutMs, isHeartbeat: true }
    // The id of the check is this registration's own, so that the check of another process is never renewed.
    if (definition.Check.TTL !== undefined)
      await updateCheck(agent, definition.Check.CheckID, this.#status, call)
    else {
      const { owner } = await findService(agent, this.id, call)
      if (owner !== definition.Meta[OWNER_KEY]) throw new Error('the id has another owner')
    }
  }

  /** Whose registration the agent has under this id; another process may have registered it since. */
  async #owner(call: CallOptions): Promise<'this process' | 'another process' | 'none'> {
    const { agent, definition } = this.#settings
    try {
      const { owner } = await findService(agent, this.id, call)
      return owner === definition.Meta[OWNER_KEY] ? 'this process' : 'another process'
    } catch (error) {
      if (error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND') return 'none'
      throw error
    }
  }

  async #deregister(): Promise<void> {
    this.#closed.abort()
    // A heartbeat under way could register again what is being removed.
    await this.#beating
    if (isAborted(this.#abandoned.signal)) return
    const cause = await this.#tryToDeregister()
    if (cause !== undefined) this.#warn('could not be deregistered', cause)
    this.#settings.onClosed()
  }

  #warn(problem: string, cause: Error): void {
    const message = `${this.id} ${problem}${withCause(cause)}`
    this.#settings.onError(new ConnectError('ERR_CONNECT_REGISTER', message, { cause }))
  }

  /** Returns what the last try failed with; undefined when the agent has no such registration of ours any more. */
  async #tryToDeregister(): Promise<Error | undefined> {
    const { agent, clock } = this.#settings
    const { signal } = this.#abandoned
    const call = { signal, timeoutMs: CALL_TIMEOUT_MS }
    for (let tries = 1; ; tries += 1) {
      try {
        const owner = await this.#owner(call)
        if (owner === 'another process') return takenError()
        if (owner === 'this process') await deregisterService(agent, this.id, call)
        return undefined
      } catch (thrown) {
        const error = toError(thrown)
        if (error instanceof AgentError && error.code === 'ERR_CONNECT_AGENT_NOT_FOUND') return undefined
        if (isAborted(signal)) return undefined
        if (tries === DEREGISTER_TRIES) return error
        await sleep(clock, DEREGISTER_PAUSE_MS * tries, signal)
      }
    }
  }
}

function takenError(): Error {
  return new Error('another process has registered this id since; give each process an id of its own')
}

const STATUSES: Readonly<Record<CheckStatus, true>> = { passing: true, warning: true, critical: true }
