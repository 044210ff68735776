import { setTimeout as sleep } from 'node:timers/promises'
import { type AgentApi, type Environment } from 'consul-connect'
import type { Log } from 'consul-connect-proxy/log'
import { Presence } from './agent/presence.js'
import { type Registered, Registry } from './agent/registry.js'
import { Tokens, isAway } from './agent/tokens.js'
import type { Configuration } from './configuration/configuration.js'
import type { Json } from './configuration/parse.js'
import { type Surroundings, ManagedProxy } from './managed-proxy.js'
import { LOG_BOUNDS, type LogBounds, STREAMS, logPath, rotate } from './process/logs.js'
import { RequestedServices } from './requested-services.js'
import { Retirement } from './retirement.js'
import { DefinedService } from './service.js'
import { type StateFolder, fileName } from './state/folder.js'
import type { SavedState } from './state/snapshot.js'
import type { StateFile } from './state/store.js'
import { type ProxyStatus, type SupervisorStatus, proxyStatus } from './operator/status.js'

export interface SupervisorOptions {
  readonly api: AgentApi
  readonly log: Log
  /** Undefined for one that leaves nothing behind. */
  readonly state: { readonly folder: StateFolder; readonly file: StateFile } | undefined
  readonly environment: Environment
  readonly directory: string
  readonly defaultCommand: readonly string[]
  readonly isRoot: boolean
  readonly logBounds?: LogBounds
}

/** How often the agent is asked what it knows. */
const POLL_MS = 2_000
const LOG_CHECK_MS = 10_000
/** How many services are settled at a time. */
const CONCURRENCY = 8
const MAX_RETRY_MS = 30_000
/** How long the pass that is under way may go on when the supervisor ends. */
const CLOSE_MS = 5_000

/** Looks after all services and their proxies. */
export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #registry: Registry
  readonly #tokens: Tokens
  readonly #presence: Presence
  readonly #services = new Map<string, DefinedService>()
  readonly #proxies = new Map<string, ManagedProxy>()
  readonly #retirement: Retirement
  /** Registered once, and not wanted any more. */
  readonly #leftovers = new Set<string>()
  readonly #tokensToRevoke = new Set<string>()
  readonly #requests: RequestedServices
  #configuration: Configuration
  readonly #retries = new Map<
    string,
    { readonly at: number; readonly waitMs: number; readonly problem: string }
  >()
  readonly #closed = new AbortController()
  #wake = new AbortController()
  #working: Promise<void> | undefined
  #passes = 0
  #agentProblem: string | undefined

  constructor(configuration: Configuration, saved: SavedState, options: SupervisorOptions) {
    this.#configuration = configuration
    this.#options = options
    this.#registry = new Registry(options.api)
    this.#tokens = new Tokens(options.api)
    this.#presence = new Presence(options.api)
    this.#retirement = new Retirement(options.log, () => {
      this.#wakeUp()
    })
    for (const accessor of saved.tokensToRevoke) this.#tokensToRevoke.add(accessor)
    this.#requests = new RequestedServices(saved.requests, options.log)
    for (const proxy of saved.proxies) {
      const definition = { id: proxy.serviceId, name: proxy.serviceName }
      this.#proxies.set(proxy.serviceId, new ManagedProxy(this.#surroundings(), definition, proxy))
    }
    for (const id of saved.services) this.#leftovers.add(id)
    this.#define()
  }

  start(): void {
    this.#working ??= this.#work()
  }

  /** Takes what the files say now. Connections of what has not changed live on. */
  apply(configuration: Configuration): void {
    this.#configuration = configuration
    for (const service of this.#services.values()) service.forgive()
    this.#define()
    this.#retries.clear()
    this.#wakeUp()
  }

  /**
   * Ends its work. Proxies run on, unless nothing would find them again.
   * @param stopsProxies ends them too, and takes away what was registered
   */
  async close(stopsProxies: boolean): Promise<void> {
    this.#closed.abort()
    this.#wakeUp()
    this.#presence.close()
    // What is under way is safe to break off, as by a crash.
    await Promise.race([this.#working, sleep(CLOSE_MS, undefined, { ref: false })])
    const proxies = [...this.#proxies.values(), ...this.#retirement.proxies]
    if (!stopsProxies) {
      for (const proxy of proxies) proxy.keeper.leave()
      await this.#save().catch(() => undefined)
      return
    }
    await Promise.all(proxies.map((proxy) => proxy.retire().catch(() => undefined)))
    for (const id of [...this.#services.keys(), ...this.#leftovers]) {
      await this.#registry.deregister(id).catch(() => undefined)
    }
    await this.#revokeTokens().catch(() => undefined)
  }

  status(): SupervisorStatus {
    const proxies: ProxyStatus[] = []
    for (const proxy of this.#proxies.values()) {
      const service = this.#services.get(proxy.serviceId)
      const isDefined = service?.definition.managed !== undefined && !service.isGone
      if (!isDefined) continue
      proxies.push(proxyStatus(proxy, this.#refusal ?? this.#retries.get(proxy.serviceId)?.problem))
    }
    for (const proxy of this.#retirement.proxies)
      proxies.push({ ...proxyStatus(proxy, undefined), state: 'stopping' })
    return {
      agent: this.#agentProblem ?? 'ok',
      passes: this.#passes,
      services: this.#services.size,
      proxies: proxies.sort((a, b) => (a.service < b.service ? -1 : 1)),
    }
  }

  /** @returns whether there is such a proxy */
  async stop(id: string): Promise<boolean> {
    const proxy = this.#find(id)
    if (proxy === undefined) return false
    await proxy.stop().catch((error: unknown) => {
      this.#complain(`${id}: it is stopped, and the agent is told later: ${(error as Error).message}`)
    })
    await this.#save()
    return true
  }

  /** @returns whether there is such a proxy */
  startProxy(id: string): boolean {
    const proxy = this.#find(id)
    if (proxy === undefined) return false
    proxy.start()
    this.#retries.delete(proxy.serviceId)
    this.#wakeUp()
    return true
  }

  /** Why no proxy is started at all. */
  get #refusal(): string | undefined {
    if (!this.#options.isRoot || this.#configuration.allowManagedRoot) return undefined
    return 'nothing is started as root: run the supervisor as another user, or set connect { proxy { allow_managed_root = true } }'
  }

  /** By its own id or that of its service. */
  #find(id: string): ManagedProxy | undefined {
    return [...this.#proxies.values()].find((proxy) => proxy.id === id || proxy.serviceId === id)
  }

  /** Makes of the definitions what is to be there. */
  #define(): void {
    const requested = this.#requests.definitions(this.#configuration)
    const wanted = new Map(
      [...requested, ...this.#configuration.services].map((service) => [service.id, service]),
    )
    for (const id of this.#services.keys()) {
      if (wanted.has(id)) continue
      this.#services.delete(id)
      this.#leftovers.add(id)
    }
    for (const [id, definition] of wanted) {
      this.#leftovers.delete(id)
      const known = this.#services.get(id)
      if (known === undefined) this.#services.set(id, new DefinedService(definition))
      else known.redefine(definition)
    }
    const surroundings = this.#surroundings()
    for (const [id, proxy] of this.#proxies) {
      proxy.surroundings = surroundings
      if (wanted.get(id)?.managed === undefined) this.#retire(proxy)
    }
    for (const [id, definition] of wanted) {
      if (definition.managed === undefined) continue
      if (!this.#proxies.has(id)) this.#proxies.set(id, new ManagedProxy(surroundings, definition))
    }
    this.#resume()
  }

  /** What ran before runs on, whether or not the agent is there. */
  #resume(): void {
    if (this.#refusal !== undefined) return
    for (const [id, proxy] of this.#proxies) {
      const managed = this.#services.get(id)?.definition.managed
      try {
        if (managed !== undefined) proxy.resume(managed)
      } catch (error) {
        this.#options.log.warn(`${proxy.id}: ${(error as Error).message}`)
      }
    }
  }

  #retire(proxy: ManagedProxy): void {
    this.#proxies.delete(proxy.serviceId)
    this.#retirement.add(proxy)
  }

  async #work(): Promise<void> {
    let logsCheckedAt = performance.now()
    while (!this.#closed.signal.aborted) {
      this.#wake = new AbortController()
      await this.#pass()
      this.#passes += 1
      if (performance.now() - logsCheckedAt > LOG_CHECK_MS) {
        logsCheckedAt = performance.now()
        this.#rotateLogs()
      }
      await sleep(POLL_MS, undefined, { signal: this.#wake.signal }).catch(() => undefined)
    }
  }

  #wakeUp(): void {
    this.#wake.abort()
  }

  /** Brings everything one step closer to what is wanted; never throws. */
  async #pass(): Promise<void> {
    const refusal = this.#refusal
    if (refusal !== undefined && this.#proxies.size > 0) {
      this.#options.log.warn(refusal)
      await Promise.all([...this.#proxies.values()].map((proxy) => proxy.refuse()))
    }
    this.#retirement.proceed()
    const run = this.#presence.isThere ? this.#presence.run : undefined
    let known: ReadonlyMap<string, Registered>
    try {
      known = await this.#registry.list(this.#closed.signal)
      if (this.#agentProblem !== undefined) this.#options.log.info('the agent is back')
      this.#agentProblem = undefined
    } catch (error) {
      this.#agentProblem = (error as Error).message
      this.#complain(this.#agentProblem)
      return
    }
    await this.#removeLeftovers(known)
    await inParallel([...this.#services.values()], CONCURRENCY, (service) =>
      this.#settle(service, known, run),
    )
    await this.#revokeTokens().catch((error: unknown) => {
      this.#options.log.warn((error as Error).message)
    })
    await this.#save().catch((error: unknown) => {
      this.#options.log.error(`the state cannot be written: ${(error as Error).message}`)
    })
  }

  async #settle(
    service: DefinedService,
    known: ReadonlyMap<string, Registered>,
    run: number | undefined,
  ): Promise<void> {
    const { definition } = service
    const { id, managed } = definition
    const retry = this.#retries.get(id)
    if (this.#closed.signal.aborted || (retry !== undefined && performance.now() < retry.at)) return
    try {
      const wasGone = service.isGone
      await service.settle(this.#registry, known, run)
      if (service.isGone && !wasGone) this.#giveUp(service)
      const proxy = this.#proxies.get(id)
      const isBusy = [...this.#retirement.proxies].some(({ serviceId }) => serviceId === id)
      const mayRun = !service.isGone && !isBusy && this.#refusal === undefined
      if (managed !== undefined && proxy !== undefined && mayRun) {
        await proxy.settle(definition, managed, known)
      }
      this.#retries.delete(id)
    } catch (error) {
      const { message } = error as Error
      const waitMs = isAway(error) ? POLL_MS : Math.min(MAX_RETRY_MS, (retry?.waitMs ?? 1_000) * 2)
      this.#retries.set(id, { at: performance.now() + waitMs, waitMs, problem: message })
      this.#complain(`${id}: ${message}`)
    }
  }

  /** What is broken off because we end is no news. */
  #complain(message: string): void {
    if (!this.#closed.signal.aborted) this.#options.log.warn(message)
  }

  /** Somebody has deregistered the service: its proxy has nothing to stand for. */
  #giveUp({ definition }: DefinedService): void {
    const { id, managed } = definition
    this.#options.log.warn(
      `${id}: it was deregistered by somebody else: its proxy is stopped; a reload registers it again`,
    )
    this.#requests.remove(id)
    const proxy = this.#proxies.get(id)
    if (proxy === undefined) return
    this.#retire(proxy)
    // For the time when it is asked for again.
    if (managed !== undefined) this.#proxies.set(id, new ManagedProxy(this.#surroundings(), definition))
  }

  async #removeLeftovers(known: ReadonlyMap<string, Registered>): Promise<void> {
    for (const id of this.#leftovers) {
      try {
        if (known.has(id)) await this.#registry.deregister(id)
        this.#leftovers.delete(id)
      } catch (error) {
        this.#options.log.warn(`${id}: ${(error as Error).message}`)
      }
    }
  }

  async #revokeTokens(): Promise<void> {
    for (const accessor of this.#tokensToRevoke) {
      await this.#tokens.revoke(accessor)
      this.#tokensToRevoke.delete(accessor)
    }
  }

  #rotateLogs(): void {
    const { state, log, logBounds = LOG_BOUNDS } = this.#options
    if (state === undefined) return
    for (const { id } of this.#proxies.values()) {
      for (const stream of STREAMS) {
        try {
          rotate(logPath(state.folder.logs, fileName(id), stream), logBounds)
        } catch (error) {
          log.warn(`${id}: its log cannot be rotated: ${(error as Error).message}`)
        }
      }
    }
  }

  /** A definition that came by HTTP, and was registered already: it is looked after from now on. */
  async adopt(request: Json): Promise<void> {
    const id = this.#requests.add(request)
    this.#define()
    await this.#save()
    this.#retries.delete(id)
    this.#wakeUp()
  }

  /** @returns whether it had come by HTTP */
  async release(id: string): Promise<boolean> {
    if (!this.#requests.remove(id)) return false
    this.#define()
    await this.#save()
    this.#wakeUp()
    return true
  }

  get configuration(): Configuration {
    return this.#configuration
  }

  #surroundings(): Surroundings {
    const { log, state, environment, directory, defaultCommand } = this.#options
    const { ports, bindAddress } = this.#configuration
    return {
      registry: this.#registry,
      tokens: this.#tokens,
      log,
      folder: state?.folder,
      environment,
      directory,
      defaultCommand,
      ports,
      bindAddress,
      takenPorts: (proxyId) => this.#takenPorts(proxyId),
      save: () => this.#save(),
      revokeLater: (accessor) => this.#tokensToRevoke.add(accessor),
      keepToken: (accessor) => this.#tokensToRevoke.delete(accessor),
      wake: () => {
        this.#wakeUp()
      },
    }
  }

  #takenPorts(proxyId: string): ReadonlySet<number> {
    const others = [...this.#proxies.values(), ...this.#retirement.proxies].filter(({ id }) => id !== proxyId)
    const applications = [...this.#services.values()].map(({ definition }) => definition.port ?? 0)
    const fixed = [...this.#services.values()]
      .filter(({ definition }) => `${definition.id}-proxy` !== proxyId)
      .map(({ definition }) => definition.managed?.bindPort ?? 0)
    return new Set([...others.map(({ port }) => port), ...applications, ...fixed])
  }

  async #save(): Promise<void> {
    await this.#options.state?.file.save({
      proxies: [...this.#proxies.values(), ...this.#retirement.proxies].map(({ saved }) => saved),
      services: [...this.#services.keys(), ...this.#leftovers],
      tokensToRevoke: [...this.#tokensToRevoke],
      requests: this.#requests.saved,
    })
  }
}

async function inParallel<T>(
  items: readonly T[],
  limit: number,
  act: (item: T) => Promise<void>,
): Promise<void> {
  const rest = items.values()
  const workers = Array.from({ length: limit }, async () => {
    for (const item of rest) await act(item)
  })
  await Promise.all(workers)
}
