import type { ConsulApi, Environment } from 'consul-connect'
import type { Log } from 'consul-connect-proxy/log'
import { BindAddress } from './agent/bind-address.js'
import { TOKEN_CHECK_MS } from './agent/managed-token.js'
import { RestartDetector } from './agent/restart-detector.js'
import { type Registered, Registry } from './agent/registry.js'
import { Tokens, isAway } from './agent/tokens.js'
import { Cleanup } from './cleanup.js'
import { SerialQueue, forEachConcurrently } from './concurrency.js'
import type { Configuration } from './configuration/configuration.js'
import type { ServiceDefinition } from './configuration/definition.js'
import type { Json } from './configuration/parse.js'
import { ManagedProxy } from './services/managed-proxy.js'
import type { ProxyContext } from './services/proxy-context.js'
import type { MetricsSource } from './operator/proxy-metrics.js'
import { type ProxyStatus, type SupervisorStatus, goneStatus, proxyStatus } from './operator/status.js'
import type { LogBounds } from './process/logs.js'
import { LogRotation } from './log-rotation.js'
import { RequestedServices } from './services/requested-services.js'
import { ProxyRemovals } from './services/proxy-removals.js'
import { RetrySchedule } from './retry-schedule.js'
import { RegisteredService } from './services/registered-service.js'
import type { StateFolder } from './state/folder.js'
import type { SavedState } from './state/snapshot.js'
import type { StateFile } from './state/store.js'
import { elapsed, within } from './time.js'

export interface SupervisorOptions {
  readonly api: ConsulApi
  /** Client without a token, for services that were registered by HTTP. */
  readonly anonymous: ConsulApi
  readonly log: Log
  /** Undefined with `-dev`: nothing is persisted. */
  readonly state: { readonly folder: StateFolder; readonly file: StateFile } | undefined
  readonly environment: Environment
  readonly directory: string
  readonly defaultCommand: ProxyContext['defaultCommand']
  readonly isRoot: boolean
  readonly logBounds: LogBounds
}

/** Pause between two passes. */
const POLL_MS = 2_000
/**
 * Pause while the agent is unreachable. Shorter, because a restarted agent reports every proxy as critical until the
 * supervisor updates the checks.
 */
const AWAY_POLL_MS = 500
const LOG_CHECK_MS = 10_000
/** Number of parallel requests to the agent. */
const CONCURRENCY = 8
/** How long `close()` waits for a pass in progress, and for the last save. */
const CLOSE_MS = 5_000
/** How long `close()` waits for deregistrations when proxies stop with the supervisor. */
const DEREGISTER_MS = 10_000
/** How long the `stop` command waits for a proxy. Must be below the timeout of the control client. */
const STOP_ANSWER_MS = 25_000
/** A supervisor whose last pass ended longer ago counts as stalled. */
const STALLED_MS = 60_000

/**
 * Keeps all configured services registered and their proxies running.
 *
 * Runs reconciliation passes: each pass lists the registrations of the agent, compares them with the configuration,
 * and takes the next step for every service. A pass never waits for a process.
 */
export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #registry: Registry
  readonly #tokens: Tokens
  readonly #bindAddress: BindAddress
  readonly #portSelections = new SerialQueue()
  readonly #restartDetector: RestartDetector
  readonly #services = new Map<string, RegisteredService>()
  readonly #proxies = new Map<string, ManagedProxy>()
  readonly #removals: ProxyRemovals
  readonly #cleanup: Cleanup
  readonly #logs: LogRotation | undefined
  readonly #requests: RequestedServices
  readonly #retries = new RetrySchedule()
  readonly #closed = new AbortController()
  #configuration: Configuration
  #wake = new AbortController()
  #loop: Promise<void> | undefined
  #passes = 0
  #lastPassAt = performance.now()
  #agentProblem: string | undefined
  /** Generation of the agent to which the listening proxies were last reported. */
  #reportedGeneration: number | undefined
  #registrantsCheckedAt = 0

  constructor(configuration: Configuration, saved: SavedState, options: SupervisorOptions) {
    this.#configuration = configuration
    this.#options = options
    this.#registry = new Registry(options.api, options.anonymous)
    this.#tokens = new Tokens(options.api)
    this.#bindAddress = new BindAddress(options.api, (message) => {
      this.#warn(message)
    })
    this.#restartDetector = new RestartDetector(options.api, () => {
      this.#wakeUp()
    })
    this.#removals = new ProxyRemovals(options.log, () => {
      this.#wakeUp()
    })
    const { state, logBounds } = options
    this.#logs =
      state &&
      new LogRotation(state.folder.logs, logBounds, (message) => {
        this.#warn(message)
      })
    const toCleanUp = { services: saved.services, accessors: saved.tokensToRevoke }
    this.#cleanup = new Cleanup(this.#registry, this.#tokens, toCleanUp, (message) => {
      this.#warn(message)
    })
    this.#requests = new RequestedServices(saved.requests, options.log, {
      ownerOf: (proxyId) => [...this.#proxies.values()].find(({ id }) => id === proxyId)?.serviceId,
      isService: (id) => this.#services.has(id),
    })
    for (const proxy of saved.proxies) {
      const definition = { id: proxy.serviceId, name: proxy.serviceName }
      this.#proxies.set(proxy.serviceId, new ManagedProxy(this.#proxyContext(), definition, proxy))
    }
    this.#updateServices(new Map(saved.services.map(({ id, sent }) => [id, sent])))
  }

  get configuration(): Configuration {
    return this.#configuration
  }

  start(): void {
    this.#loop ??= this.#runPasses()
  }

  /** Applies a new configuration. Proxies whose definition is unchanged keep their processes and connections. */
  apply(configuration: Configuration): void {
    this.#configuration = configuration
    for (const service of this.#services.values()) service.allowReregistration()
    this.#updateServices()
    this.#retries.clear()
    this.#wakeUp()
  }

  /**
   * Stops supervising and saves the state.
   * @param stopsProxies - stops the proxies as well and removes their registrations and tokens; without a data
   * directory, no later supervisor could find them
   */
  async close(stopsProxies: boolean): Promise<void> {
    this.#closed.abort()
    this.#wakeUp()
    this.#restartDetector.close()
    // Interrupting a pass is safe: the state on disk covers a crash at any point.
    await within(CLOSE_MS, this.#loop)
    const proxies = [...this.#proxies.values(), ...this.#removals.proxies]
    if (stopsProxies) {
      const stopMs = Math.max(0, ...proxies.map(({ runner }) => runner.stopMs))
      await within(stopMs + DEREGISTER_MS, this.#removeAll(proxies))
      this.kill()
    } else {
      for (const proxy of proxies) proxy.runner.detach()
      await within(
        CLOSE_MS,
        this.#save().catch(() => undefined),
      )
    }
  }

  /** Kills all proxies with SIGKILL. */
  kill(): void {
    for (const { runner } of [...this.#proxies.values(), ...this.#removals.proxies]) runner.kill()
  }

  status(): SupervisorStatus {
    const proxies: ProxyStatus[] = []
    for (const service of this.#services.values()) {
      const { id, managed } = service.definition
      const proxy = this.#proxies.get(id)
      if (managed === undefined || proxy === undefined) continue
      const problem = this.#refusal ?? this.#retries.problem(id)
      proxies.push(service.isGone ? goneStatus(proxy) : proxyStatus(proxy, problem))
    }
    for (const proxy of this.#removals.proxies) {
      proxies.push({ ...proxyStatus(proxy, undefined), state: 'stopping' })
    }
    return {
      agent: this.#agentProblem ?? 'ok',
      isWorking: performance.now() - this.#lastPassAt < STALLED_MS,
      passes: this.#passes,
      services: this.#services.size,
      proxies: proxies.sort((a, b) => (a.service < b.service ? -1 : 1)),
    }
  }

  /**
   * Stops a proxy until `startProxy()`, and waits for its process to exit.
   * @returns whether the id is known
   * @throws Error when the process does not exit in time, or the state cannot be saved
   */
  async stop(id: string): Promise<boolean> {
    const proxy = this.#find(id)
    if (proxy === undefined) return false
    const stopping = proxy.stop().finally(() => this.#save())
    // Log a failure that arrives after the wait below has timed out.
    stopping.catch((error: unknown) => {
      this.#warn(`${proxy.id}: ${(error as Error).message}`)
    })
    const isStopped = await within(
      STOP_ANSWER_MS,
      stopping.then(() => true),
    )
    if (isStopped === true) return true
    const atMostS = Math.ceil(proxy.runner.stopMs / 1_000)
    throw new Error(`${proxy.id}: still draining its connections; it exits within ${atMostS} s`)
  }

  /** @returns whether there is such a proxy */
  startProxy(id: string): boolean {
    return this.#startAgain(id, (proxy) => {
      proxy.start()
    })
  }

  /**
   * Replaces the process of a proxy and keeps its registration. Starts a stopped proxy.
   * @returns whether the id is known
   */
  restartProxy(id: string): boolean {
    return this.#startAgain(id, (proxy) => {
      proxy.restart()
    })
  }

  #startAgain(id: string, act: (proxy: ManagedProxy) => void): boolean {
    const proxy = this.#find(id)
    if (proxy === undefined) return false
    act(proxy)
    this.#services.get(proxy.serviceId)?.allowReregistration()
    this.#retries.succeeded(proxy.serviceId)
    this.#wakeUp()
    return true
  }

  /**
   * Parses and validates a definition that was sent by HTTP, before it is registered.
   * @throws ConfigurationError
   */
  readRequest(request: Json): ServiceDefinition {
    return this.#requests.read(request, this.#configuration, this.#options.environment['PATH'])
  }

  /**
   * Checks that clients may register or deregister this id by HTTP.
   * @throws ConfigurationError
   */
  expectFree(id: string): void {
    this.#requests.expectFree(id, this.#configuration)
  }

  /** Adds a definition that was registered by HTTP, and starts its proxy with the next pass. */
  async addRequest({ id }: ServiceDefinition, request: Json): Promise<void> {
    this.#requests.add(id, request)
    this.#services.get(id)?.allowReregistration()
    await this.#requestsChanged(id)
  }

  /** Removes a definition that was deregistered by HTTP, or registered again without a proxy. */
  async removeRequest(id: string): Promise<void> {
    if (!this.#requests.remove(id)) return
    this.#services.delete(id)
    await this.#requestsChanged(id)
  }

  /** The token with which a service was registered by HTTP; undefined for none and for an unknown id. */
  tokenOfRequest(id: string): string | undefined {
    return this.#requests.tokenOf(id)
  }

  /** Running proxies that serve metrics on an admin socket. */
  metricsSources(): readonly MetricsSource[] {
    return [...this.#proxies.values()].flatMap(({ id, adminSocket }) =>
      adminSocket === undefined ? [] : [{ proxyId: id, socketPath: adminSocket }],
    )
  }

  isManagedProxy(proxyId: string): boolean {
    return [...this.#proxies.values()].some(({ id }) => id === proxyId)
  }

  /** Resolves at the next registration of a proxy, or when the signal is aborted. */
  nextRegistration(proxyId: string, signal: AbortSignal): Promise<void> {
    return this.#registry.nextRegistration(proxyId, signal)
  }

  async #requestsChanged(id: string): Promise<void> {
    this.#updateServices()
    this.#retries.succeeded(id)
    this.#wakeUp()
    await this.#save()
  }

  /** Why no proxy may be started; undefined if proxies may run. */
  get #refusal(): string | undefined {
    if (!this.#options.isRoot || this.#configuration.allowManagedRoot) return undefined
    return 'no proxy is started as root; run the supervisor as another user, or set connect { proxy { allow_managed_root = true } }'
  }

  /** Finds a proxy by its own id or by the id of its service. */
  #find(id: string): ManagedProxy | undefined {
    return [...this.#proxies.values()].find((proxy) => proxy.id === id || proxy.serviceId === id)
  }

  /**
   * Updates the sets of services and proxies from the configuration and the HTTP requests.
   * @param sent - fingerprints of saved registrations, by service id
   */
  #updateServices(sent: ReadonlyMap<string, string | undefined> = new Map()): void {
    const requested = this.#requests.definitions(this.#configuration)
    const wanted = new Map(
      [...requested, ...this.#configuration.services].map((service) => [service.id, service]),
    )
    for (const [id, { saved }] of this.#services) {
      if (wanted.has(id)) continue
      this.#services.delete(id)
      this.#cleanup.deregister(id, saved.sender)
    }
    for (const [id, definition] of wanted) {
      this.#cleanup.cancel(id)
      const known = this.#services.get(id)
      if (known === undefined) this.#services.set(id, new RegisteredService(definition, sent.get(id)))
      else known.redefine(definition)
    }
    const context = this.#proxyContext()
    for (const [id, proxy] of this.#proxies) {
      proxy.context = context
      if (wanted.get(id)?.managed === undefined) this.#remove(proxy)
    }
    for (const [id, definition] of wanted) {
      if (definition.managed === undefined || this.#proxies.has(id)) continue
      this.#proxies.set(id, new ManagedProxy(context, definition))
    }
    this.#resume()
  }

  /** Restarts registered proxies without waiting for the agent, which may be unreachable. */
  #resume(): void {
    if (this.#refusal !== undefined) return
    for (const [id, proxy] of this.#proxies) {
      const definition = this.#services.get(id)?.definition
      try {
        if (definition?.managed !== undefined) proxy.resume(definition, definition.managed)
      } catch (error) {
        this.#warn(`${proxy.id}: ${(error as Error).message}`)
      }
    }
  }

  #remove(proxy: ManagedProxy): void {
    this.#proxies.delete(proxy.serviceId)
    this.#removals.add(proxy)
  }

  async #runPasses(): Promise<void> {
    let logsCheckedAt = performance.now()
    while (!this.#closed.signal.aborted) {
      this.#wake = new AbortController()
      await this.#pass().catch((error: unknown) => {
        this.#warn((error as Error).message)
      })
      this.#passes += 1
      this.#lastPassAt = performance.now()
      if (this.#lastPassAt - logsCheckedAt > LOG_CHECK_MS) {
        logsCheckedAt = this.#lastPassAt
        this.#logs?.rotate([...this.#proxies.values()].map(({ id }) => id))
      }
      await elapsed(this.#agentProblem === undefined ? POLL_MS : AWAY_POLL_MS, this.#wake.signal)
    }
  }

  #wakeUp(): void {
    this.#wake.abort()
  }

  /** Runs one reconciliation pass. Never waits for a process. */
  async #pass(): Promise<void> {
    this.#stopIfRefused()
    this.#removals.retryFailed()
    const generation = this.#restartDetector.isConnected ? this.#restartDetector.generation : undefined
    const known = await this.#listRegistrations()
    if (known !== undefined) {
      if (await this.#bindAddress.update(this.#configuration, generation, this.#closed.signal)) {
        this.#updateContext()
      }
      await this.#forEach(this.#services.values(), (service) => this.#reconcile(service, known, generation))
      await this.#forEach(this.#cleanup.steps(known), (step) => step())
      this.#reportAfterRestart(generation)
    }
    if (known !== undefined) await this.#checkRegistrants()
    await this.#save().catch((error: unknown) => {
      const where = this.#options.state?.folder.path ?? ''
      this.#warn(`cannot write the state to ${where}: ${(error as Error).message}`)
    })
  }

  #updateContext(): void {
    const context = this.#proxyContext()
    for (const proxy of this.#proxies.values()) proxy.context = context
  }

  /**
   * Reports listening proxies after a restart of the agent, which marks each of them critical until it has checked
   * the port.
   */
  #reportAfterRestart(generation: number | undefined): void {
    if (generation === undefined || generation === this.#reportedGeneration) return
    this.#reportedGeneration = generation
    for (const proxy of this.#proxies.values()) proxy.reportListening()
  }

  /** Lists the registrations of the agent; undefined if it is unreachable. */
  async #listRegistrations(): Promise<ReadonlyMap<string, Registered> | undefined> {
    try {
      const known = await this.#registry.list(this.#closed.signal)
      if (this.#agentProblem !== undefined) this.#options.log.info('agent is reachable again')
      this.#agentProblem = undefined
      return known
    } catch (error) {
      this.#agentProblem = (error as Error).message
      this.#warn(this.#agentProblem)
      return undefined
    }
  }

  #stopIfRefused(): void {
    const refusal = this.#refusal
    if (refusal === undefined || this.#proxies.size === 0) return
    this.#warn(refusal)
    for (const proxy of this.#proxies.values()) {
      proxy.endProcess().catch((error: unknown) => {
        this.#warn(`${proxy.id}: ${(error as Error).message}`)
      })
    }
  }

  async #reconcile(
    service: RegisteredService,
    known: ReadonlyMap<string, Registered>,
    generation: number | undefined,
  ): Promise<void> {
    const { definition } = service
    const { id, managed } = definition
    if (!this.#retries.isDue(id)) return
    try {
      const wasGone = service.isGone
      await service.reconcile(this.#registry, known, generation)
      if (service.isGone && !wasGone) this.#stopDeregistered(definition)
      const proxy = this.#proxies.get(id)
      // The previous proxy with this id must have exited first.
      const mayRun = !service.isGone && !this.#removals.has(id) && this.#refusal === undefined
      if (managed !== undefined && proxy !== undefined && mayRun) {
        this.#bindAddress.expectKnown(this.#configuration)
        await proxy.reconcile(definition, managed, known)
        this.#cleanup.cancel(proxy.id)
      }
      this.#retries.succeeded(id)
    } catch (error) {
      const { message } = error as Error
      this.#retries.failed(id, message, isAway(error))
      this.#warn(`${id}: ${message}`)
    }
  }

  /** Removes services that were registered by HTTP once the token that registered them is deleted. */
  async #checkRegistrants(): Promise<void> {
    const now = performance.now()
    if (now - this.#registrantsCheckedAt < TOKEN_CHECK_MS) return
    this.#registrantsCheckedAt = now
    await this.#forEach(this.#services.values(), async ({ definition: { id, sender } }) => {
      if (!sender.isForeign || sender.token === undefined) return
      try {
        if ((await this.#tokens.state({ secret: sender.token })) === 'unknown') {
          await this.#removeRevoked(id, sender.token)
        }
      } catch (error) {
        this.#warn(`${id}: cannot check the token that registered the service: ${(error as Error).message}`)
      }
    })
  }

  async #removeRevoked(id: string, token: string): Promise<void> {
    // The service may have been registered again with another token in the meantime.
    if (this.#services.get(id)?.definition.sender.token !== token) return
    this.#options.log.warn(`${id}: the token that registered the service was deleted; stopping its proxy`)
    this.#proxies.get(id)?.useSupervisorToken()
    await this.removeRequest(id)
  }

  /** Logs a warning. Silent during shutdown, when interrupted requests fail as expected. */
  #warn(message: string): void {
    if (!this.#closed.signal.aborted) this.#options.log.warn(message)
  }

  /** Stops the proxy of a service that another client deregistered. */
  #stopDeregistered(definition: ServiceDefinition): void {
    const { id, managed } = definition
    this.#options.log.warn(
      `${id}: deregistered by another client; stopping its proxy; reload to register the service again`,
    )
    this.#requests.remove(id)
    const proxy = this.#proxies.get(id)
    if (proxy === undefined) return
    this.#remove(proxy)
    // Keep an idle proxy, which starts if the service is registered again.
    if (managed !== undefined) this.#proxies.set(id, new ManagedProxy(this.#proxyContext(), definition))
  }

  async #removeAll(proxies: readonly ManagedProxy[]): Promise<void> {
    await Promise.all(proxies.map((proxy) => proxy.remove().catch(() => undefined)))
    for (const [id, { saved }] of this.#services) this.#cleanup.deregister(id, saved.sender)
    await this.#cleanup.finish()
  }

  #proxyContext(): ProxyContext {
    const { log, state, environment, directory, defaultCommand } = this.#options
    const { ports } = this.#configuration
    return {
      registry: this.#registry,
      tokens: this.#tokens,
      log,
      folder: state?.folder,
      environment,
      directory,
      defaultCommand,
      ports,
      bindAddress: this.#bindAddress.resolve(this.#configuration),
      // Two parallel selections could choose the same port.
      withPorts: (proxyId, choose) => this.#portSelections.run(() => choose(this.#takenPorts(proxyId))),
      save: () => this.#save(),
      revokeLater: (accessor) => {
        this.#cleanup.revoke(accessor)
      },
      deregisterLater: (id, sender) => {
        this.#cleanup.deregister(id, sender)
      },
      wake: () => {
        this.#wakeUp()
      },
    }
  }

  #takenPorts(proxyId: string): ReadonlySet<number> {
    const others = [...this.#proxies.values(), ...this.#removals.proxies].filter(({ id }) => id !== proxyId)
    const definitions = [...this.#services.values()].map(({ definition }) => definition)
    // Only applications on this host occupy one of its ports.
    const applications = definitions.filter(({ address }) => address === undefined)
    const fixed = definitions.filter(({ id }) => this.#proxies.get(id)?.id !== proxyId)
    return new Set([
      ...others.map(({ port }) => port),
      ...applications.map(({ port }) => port ?? 0),
      ...fixed.map(({ managed }) => managed?.bindPort ?? 0),
    ])
  }

  async #save(): Promise<void> {
    await this.#options.state?.file.save({
      proxies: [...this.#proxies.values(), ...this.#removals.proxies].map(({ saved }) => saved),
      services: [...[...this.#services.values()].map(({ saved }) => saved), ...this.#cleanup.services],
      tokensToRevoke: this.#cleanup.accessors,
      requests: this.#requests.saved,
    })
  }

  /** Runs an action for each item, in parallel. Skips the rest once the supervisor closes. */
  #forEach<T>(items: Iterable<T>, act: (item: T) => Promise<void>): Promise<void> {
    return forEachConcurrently(items, CONCURRENCY, act, this.#closed.signal)
  }
}
