import { type Backoff, backoffMs } from '../base/backoff.js'
import { type Bounds, withDeadline, isAborted } from '../base/deadline.js'
import { type Clock, sleep } from '../base/clock.js'
import { AgentError, ConnectError, OptionError, withCause, toError } from '../base/errors.js'
import { log } from '../base/log.js'
import {
  DEFAULTS,
  describe,
  expectDuration,
  expectSignal,
  expectString,
  optional,
  readOptions,
  withDefault,
} from '../base/options/validate.js'
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
  /** How often to renew the TTL, or to check that the agent still has the registration, in milliseconds. */
  readonly heartbeatMs: number
  readonly clock: Clock
  readonly onError: (error: ConnectError) => void
  /** Called when the registration was removed or abandoned. */
  readonly onClosed: () => void
}

/** Options of a request to the agent. */
export interface AgentCallOptions {
  readonly signal?: AbortSignal | undefined
  /** @default 10000 */
  readonly timeoutMs?: number | undefined
}

/** Options of `setStatus`. */
export interface StatusOptions extends AgentCallOptions {
  /** A text that Consul shows as the output of the check. */
  readonly note?: string | undefined
}

/** Options of `enterMaintenance`. */
export interface MaintenanceOptions extends AgentCallOptions {
  /** Shown by Consul. @default the text that Consul uses without a reason */
  readonly reason?: string | undefined
}

const CALL_CHECKS = {
  signal: optional(expectSignal),
  timeoutMs: withDefault<number>(expectDuration, DEFAULTS.agentTimeoutMs),
}

/** Upper bound on tries to deregister: an agent that does not answer must not delay a shutdown. */
const DEREGISTER_TRIES = 3
const CALL_TIMEOUT_MS = 2_000
const DEREGISTER_PAUSE_MS = 200
/** Minimum timeout of a heartbeat. */
const MIN_HEARTBEAT_TIMEOUT_MS = 1_000
const RETRY: Backoff = { firstMs: 100, longestMs: 5_000 }
/** How long `start` waits for the servers to list the registration. */
const CATALOG_WAIT_MS = 3_000
const CATALOG_PAUSE: Backoff = { firstMs: 10, longestMs: 250 }

/**
 * A registration with the agent. Heartbeats keep it alive, and `close` removes it. If the agent has lost the
 * registration, it is made again. If another process registers the same ID, a warning (ERR_CONNECT_REGISTER) is reported,
 * and the heartbeats end.
 */
export class Registration {
  /** The ID of the instance at its agent. */
  readonly id: string
  /** The registered port. */
  readonly port: number
  readonly #settings: RegistrationSettings
  readonly #closed = new AbortController()
  readonly #abandoned = new AbortController()
  #status: { readonly status: CheckStatus; readonly note: string | undefined }
  /** The reason of the maintenance; undefined without one. */
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

  /**
   * The last error of `start` while the agent does not answer. Failed heartbeats are reported by `onError`.
   * @internal
   */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /**
   * Registers, with retries while the agent does not answer, waits at most 3 s until the servers list the registration,
   * and starts the heartbeat.
   * @throws AgentError if the agent rejects the registration, AbortError
   * @internal
   */
  async start(signal: AbortSignal): Promise<void> {
    try {
      await this.#registerUntilAnswered(signal)
      await this.#waitForCatalog(signal)
    } catch (error) {
      // Without an answer, the agent may have registered the instance.
      if (error instanceof AgentError && !isNoAnswer(error)) this.abandon()
      else await this.close()
      throw error
    }
    this.#beating = this.#run()
  }

  /**
   * Sets the status of the TTL check. Later heartbeats repeat this status. A critical instance gets no connections, and an
   * instance with the status `warning` has its `warning` weight.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError (also for a `tcp` or `http` check)
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
    const { note, ...call } = readOptions(options, { note: optional(expectString), ...CALL_CHECKS })
    if (definition.Check.TTL === undefined) {
      throw new OptionError('status', 'a registration with a TTL check', 'a tcp or http check')
    }
    this.#status = { status, note }
    await this.#call('setStatus', call, (within) =>
      updateCheck(agent, definition.Check.CheckID, this.#status, within),
    )
  }

  /**
   * Makes the instance critical, independent of its checks, until `leaveMaintenance`.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError
   */
  async enterMaintenance(options: MaintenanceOptions = {}): Promise<void> {
    const { agent } = this.#settings
    const { reason, ...call } = readOptions(options, {
      reason: withDefault(expectString, ''),
      ...CALL_CHECKS,
    })
    this.#maintenance = reason
    await this.#call('enterMaintenance', call, (within) => setMaintenance(agent, this.id, reason, within))
  }

  /**
   * Ends a maintenance.
   * @throws AgentError, TimeoutError, AbortError, ClosedError, OptionError
   */
  async leaveMaintenance(options: AgentCallOptions = {}): Promise<void> {
    const { agent } = this.#settings
    const call = readOptions(options, CALL_CHECKS)
    this.#maintenance = undefined
    await this.#call('leaveMaintenance', call, (within) => setMaintenance(agent, this.id, undefined, within))
  }

  /** Deregisters the instance. If the agent does not answer, warns and resolves. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#deregister()
    return this.#closing
  }

  /** Ends the heartbeats, and leaves the registration to its check. */
  abandon(): void {
    this.#closed.abort()
    this.#abandoned.abort()
    this.#closing ??= Promise.resolve()
    this.#settings.onClosed()
  }

  #call(
    name: string,
    { signal, timeoutMs }: Pick<Bounds, 'signal' | 'timeoutMs'>,
    call: (options: CallOptions) => Promise<void>,
  ): Promise<void> {
    const bounds = { signal, timeoutMs, closed: this.#closed.signal }
    return withDeadline(name, bounds, (within) => call({ signal: within, timeoutMs }))
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
        log.register('%s: registration failed; next try in %d ms%s', this.id, pauseMs, withCause(error))
        await sleep(clock, pauseMs, signal)
      }
    }
  }

  /** Returns the definition. For a proxy, adds defaults from its destination service. */
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

  /**
   * Waits for the catalog, so that the next dial finds the instance: the agent updates its servers after its answer.
   */
  async #waitForCatalog(signal: AbortSignal): Promise<void> {
    const { agent, definition, clock } = this.#settings
    const deadline = clock.now() + CATALOG_WAIT_MS
    for (let tries = 1; clock.now() < deadline; tries += 1) {
      try {
        if (await isInCatalog(agent, definition, { signal, timeoutMs: CALL_TIMEOUT_MS })) return
      } catch (error) {
        if (isAborted(signal)) throw error
        log.register('%s: not seen in the catalog yet%s', this.id, withCause(error))
        // The registration has succeeded, and the heartbeats maintain it.
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
   * Registers again after a failed heartbeat: agents answer 404 or 500 for an unknown check.
   */
  async #recover(signal: AbortSignal): Promise<Error | undefined> {
    const { agent } = this.#settings
    const bounds = { timeoutMs: CALL_TIMEOUT_MS, isHeartbeat: true }
    try {
      if ((await this.#owner({ ...bounds, signal })) === 'another process') {
        this.#warn('gets no more heartbeats', takenError())
        this.abandon()
        return undefined
      }
      // Not aborted by close(): the agent could process this request after the deregistration.
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
    const timeoutMs = Math.min(agent.settings.timeoutMs, Math.max(heartbeatMs, MIN_HEARTBEAT_TIMEOUT_MS))
    const call = { signal, timeoutMs, isHeartbeat: true }
    // The ID of the check is unique to this registration, so that the check of another process is never renewed.
    if (definition.Check.TTL !== undefined)
      await updateCheck(agent, definition.Check.CheckID, this.#status, call)
    else {
      const { owner } = await findService(agent, this.id, call)
      if (owner !== definition.Meta[OWNER_KEY]) throw new Error('the id has another owner')
    }
  }

  /** Returns the owner of the registration at the agent. */
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
    // A pending heartbeat could register the instance again.
    await this.#beating
    if (isAborted(this.#abandoned.signal)) return
    const cause = await this.#tryToDeregister()
    if (cause !== undefined) this.#warn('could not be deregistered', cause)
    this.#settings.onClosed()
  }

  #warn(problem: string, cause: Error): void {
    const message = `${this.id}: ${problem}${withCause(cause)}`
    this.#settings.onError(new ConnectError('ERR_CONNECT_REGISTER', message, { cause }))
  }

  /** @returns the error of the last try; undefined if the registration is gone */
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
  return new Error('another process registered the same ID; use a unique ID for each process')
}

const STATUSES: Readonly<Record<CheckStatus, true>> = { passing: true, warning: true, critical: true }
