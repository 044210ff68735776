import { randomUUID } from 'node:crypto'
import { closeSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { AgentError, type Environment } from 'consul-connect'
import type { Log } from 'consul-connect-proxy/log'
import { bindAddressOf, proxyIdOf, proxyRegistration } from './agent/proxy-registration.js'
import type { Registered, Registry } from './agent/registry.js'
import type { ProxyToken, Tokens } from './agent/tokens.js'
import type { PortRange } from './configuration/configuration.js'
import type { ServiceDefinition } from './configuration/definition.js'
import type { ManagedBlock } from './configuration/managed.js'
import type { Json } from './configuration/parse.js'
import { type ProcessId, findByEnvironment, isRunning } from './process/identity.js'
import { Keeper, type Prepared } from './process/keeper.js'
import { LAUNCH_VARIABLE, type Launch, findProgram, fingerprint, proxyEnvironment } from './process/launch.js'
import { openLogs } from './process/logs.js'
import { findPort, isFree } from './process/ports.js'
import { type Exit, type RunningProcess, adoptProcess } from './process/running.js'
import { type StateFolder, fileName } from './state/folder.js'
import type { SavedProcess, SavedProxy } from './state/snapshot.js'

/** What all proxies have in common. */
export interface Surroundings {
  readonly registry: Registry
  readonly tokens: Tokens
  readonly log: Log
  /** Undefined for those that leave nothing behind. */
  readonly folder: StateFolder | undefined
  /** The environment that they get, besides what is their own. */
  readonly environment: Environment
  /** The working directory that they get. */
  readonly directory: string
  /** For those whose definition has no command. */
  readonly defaultCommand: readonly string[]
  readonly ports: PortRange
  readonly bindAddress: string
  /** The ports of all others. */
  takenPorts(proxyId: string): ReadonlySet<number>
  /** @throws when the state cannot be written */
  save(): Promise<void>
  /** A token is about to be made, or not needed any more: unless it is kept, it is to be revoked. */
  revokeLater(accessor: string): void
  /** It is needed after all. */
  keepToken(accessor: string): void
  /** Something has to be settled anew, soon. */
  wake(): void
}

/** How long a port may be held by what is left of the process before. */
const PORT_PATIENCE_MS = 1_000
const PORT_POLL_MS = 100
/** How often it is asked whether a token is still known. */
const TOKEN_CHECK_MS = 300_000

/** The proxy of one service, from its port to its process. */
export class ManagedProxy {
  readonly id: string
  readonly serviceId: string
  readonly keeper: Keeper
  #surroundings: Surroundings
  #serviceName: string
  #port: number
  #token: ProxyToken | undefined
  #tokenCheckedAt: number | undefined
  #isRegistered: boolean
  #isStopped: boolean
  #process: SavedProcess | undefined
  /** What was sent to the agent last in this life of the supervisor. */
  #sent: Json | undefined
  #mustMove = false
  #isRetired = false
  #turn: Promise<unknown> = Promise.resolve()

  constructor(
    surroundings: Surroundings,
    definition: { readonly id: string; readonly name: string },
    saved?: SavedProxy,
  ) {
    this.#surroundings = surroundings
    this.serviceId = definition.id
    this.id = proxyIdOf(definition.id)
    this.#serviceName = definition.name
    this.#port = saved?.port ?? 0
    this.#token = saved?.token
    this.#isRegistered = saved?.isRegistered ?? false
    this.#isStopped = saved?.isStopped ?? false
    this.keeper = new Keeper({
      prepare: (launch) => this.#prepare(launch),
      started: (running, launch) => this.#started(running, launch),
      ended: (exit, aliveMs) => {
        this.#ended(exit, aliveMs)
      },
      failed: (error) => {
        this.#surroundings.log.warn(`${this.id}: it cannot be started: ${error.message}`)
      },
    })
    if (saved?.process !== undefined) this.#adopt(saved.process)
  }

  get port(): number {
    return this.#port
  }

  get isStopped(): boolean {
    return this.#isStopped
  }

  get saved(): SavedProxy {
    return {
      proxyId: this.id,
      serviceId: this.serviceId,
      serviceName: this.#serviceName,
      port: this.#port,
      token: this.#token,
      isRegistered: this.#isRegistered,
      isStopped: this.#isStopped,
      process: this.#process,
    }
  }

  /** Takes the settings that hold from now on. */
  set surroundings(surroundings: Surroundings) {
    this.#surroundings = surroundings
  }

  /**
   * Keeps it running with what is known already: for a time in which the agent is away.
   * @throws Error when its command cannot be found
   */
  resume(managed: ManagedBlock): void {
    if (this.#isRegistered && !this.#isStopped) this.keeper.run(this.#launch(managed))
  }

  /**
   * Brings the agent and the process to what the definition says.
   * @throws Error
   */
  settle(
    definition: ServiceDefinition,
    managed: ManagedBlock,
    known: ReadonlyMap<string, Registered>,
  ): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#isRetired) return
      if (this.#isStopped) {
        // An agent that was away then has to be told still.
        if (this.#isRegistered) await this.#takeAway()
        return
      }
      this.#serviceName = definition.name
      const { registry, bindAddress } = this.#surroundings
      await this.#choosePort(managed)
      await this.#ensureToken()
      const body = proxyRegistration(definition, managed, this.#port, bindAddress)
      if (!known.has(this.id) || !isDeepStrictEqual(body, this.#sent)) {
        // Its port must not be another's after a crash.
        await this.#surroundings.save()
        await registry.register(body, definition.token)
        this.#sent = body
      }
      this.#isRegistered = true
      this.keeper.run(this.#launch(managed))
    })
  }

  /** An operator wants it to be stopped, until it is started again. */
  stop(): Promise<void> {
    this.#isStopped = true
    return this.#inTurn(() => this.#takeAway())
  }

  start(): void {
    this.#isStopped = false
  }

  /**
   * Ends the process, and takes away what was made for it. It is of no use afterwards.
   * @throws Error when the agent could not be told: it is to be called again
   */
  retire(): Promise<void> {
    this.#isRetired = true
    return this.#inTurn(() => this.#takeAway())
  }

  async #takeAway(): Promise<void> {
    const { registry, log } = this.#surroundings
    // Nobody is to be sent here while it ends; but an agent that is away holds up nothing.
    const problem = await registry.deregister(this.id).catch((error: unknown) => error as Error)
    if (this.keeper.running !== undefined) log.info(`${this.id}: stopped`)
    await this.keeper.stop()
    this.#forgetProcess()
    if (this.#token !== undefined) this.#surroundings.revokeLater(this.#token.accessor)
    this.#token = undefined
    this.#tokenCheckedAt = undefined
    this.#sent = undefined
    if (problem !== undefined) throw problem
    this.#isRegistered = false
  }

  /** One after the other: what is being registered must not be taken away meanwhile, and come after it. */
  async #inTurn(act: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(act)
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  /** Ends the process and nothing else. */
  async refuse(): Promise<void> {
    await this.keeper.stop()
    this.#forgetProcess()
  }

  async #choosePort(managed: ManagedBlock): Promise<void> {
    const { ports } = this.#surroundings
    const address = bindAddressOf(managed, this.#surroundings.bindAddress)
    if (managed.bindPort !== undefined) {
      this.#port = managed.bindPort
      return
    }
    const taken = this.#surroundings.takenPorts(this.id)
    if (this.#port !== 0 && !this.#mustMove && !taken.has(this.#port)) return
    const before = this.#port
    this.#port = await findPort({
      range: ports,
      taken: before === 0 ? taken : new Set([...taken, before]),
      address,
    })
    this.#mustMove = false
    if (before !== 0)
      this.#surroundings.log.warn(
        `${this.id}: port ${before} is another program’s now: it moves to ${this.#port}`,
      )
  }

  async #ensureToken(): Promise<void> {
    const { tokens } = this.#surroundings
    const now = performance.now()
    if (this.#token !== undefined) {
      const isDue = this.#tokenCheckedAt === undefined || now - this.#tokenCheckedAt >= TOKEN_CHECK_MS
      if (!isDue) return
      const exists = await tokens.exists(this.#token)
      this.#tokenCheckedAt = now
      if (exists) return
    } else if (this.#tokenCheckedAt !== undefined && now - this.#tokenCheckedAt < TOKEN_CHECK_MS) {
      // ACLs are off; they may be turned on.
      return
    }
    this.#token = undefined
    // A token that nobody remembers is one that nobody revokes.
    const accessor = randomUUID()
    this.#surroundings.revokeLater(accessor)
    await this.#surroundings.save()
    const description = `managed proxy of the service instance ${this.serviceId}, made by connect-supervisor`
    try {
      this.#token = await tokens.create(accessor, this.#serviceName, description)
      this.#surroundings.keepToken(accessor)
    } catch (error) {
      // Where the agent has answered, none was made; without an answer there may be one.
      if (!(error instanceof AgentError)) this.#surroundings.keepToken(accessor)
      throw error
    }
    this.#tokenCheckedAt = now
    await this.#surroundings.save()
  }

  #launch(managed: ManagedBlock): Launch {
    const { defaultCommand, environment, directory } = this.#surroundings
    const [program = '', ...args] = managed.command ?? defaultCommand
    return {
      proxyId: this.id,
      path: findProgram(program, managed.folder, environment['PATH']),
      args,
      directory,
      env: proxyEnvironment(environment, this.id, this.#token?.secret),
    }
  }

  #adopt(process: SavedProcess): void {
    const { log } = this.#surroundings
    const id = process.id ?? findByEnvironment(LAUNCH_VARIABLE, process.launchId)
    if (id !== undefined && isRunning(id)) {
      log.info(`${this.id}: found again`, { process: id.pid })
      this.#process = { ...process, id }
      this.keeper.adopt(adoptProcess(id), process.fingerprint)
    } else if (process.id !== undefined) {
      log.warn(`${this.id}: process ${process.id.pid} has ended meanwhile`)
    }
  }

  async #prepare(launch: Launch): Promise<Prepared> {
    await this.#expectPort()
    const launchId = randomUUID()
    const { path, args, directory } = launch
    this.#process = { launchId, fingerprint: fingerprint(launch), id: undefined, path, args, directory }
    await this.#surroundings.save()
    const { folder } = this.#surroundings
    const outputs = folder === undefined ? undefined : openLogs(folder.logs, fileName(this.id))
    return {
      launchId,
      outputs,
      release: () => {
        for (const file of outputs ?? []) closeSync(file)
      },
    }
  }

  /** Another program may have taken the port while ours did not run. */
  async #expectPort(): Promise<void> {
    const deadline = performance.now() + PORT_PATIENCE_MS
    while (!(await isFree(this.#port, this.#sentAddress))) {
      if (performance.now() > deadline) {
        this.#mustMove = true
        this.#surroundings.wake()
        throw new Error(`port ${this.#port} is taken by another program`)
      }
      await sleep(PORT_POLL_MS)
    }
  }

  get #sentAddress(): string {
    const config = (this.#sent?.['Proxy'] as Json | undefined)?.['Config'] as Json | undefined
    const address = config?.['bind_address']
    return typeof address === 'string' ? address : this.#surroundings.bindAddress
  }

  async #started(running: RunningProcess, { path }: Launch): Promise<void> {
    const { log, folder } = this.#surroundings
    log.info(`${this.id}: started`, { process: running.id.pid, port: this.#port, command: path })
    this.#remember(running.id)
    try {
      if (folder !== undefined) writeFileSync(this.#pidFile(folder), `${running.id.pid}\n`, { mode: 0o600 })
      await this.#surroundings.save()
    } catch (error) {
      // It would be found by its launch, which is written down; and it is written with the next change.
      log.warn(`${this.id}: its process could not be written down: ${(error as Error).message}`)
    }
  }

  #remember(id: ProcessId): void {
    if (this.#process !== undefined) this.#process = { ...this.#process, id }
  }

  #ended({ code, signal }: Exit, aliveMs: number): void {
    const how = signal ?? (code === null ? 'unknown' : `exit code ${code}`)
    this.#surroundings.log.warn(`${this.id}: it ended by itself`, {
      how,
      aliveS: Math.round(aliveMs / 100) / 10,
    })
    this.#forgetProcess()
  }

  #forgetProcess(): void {
    const { folder } = this.#surroundings
    this.#process = undefined
    if (folder !== undefined) rmSync(this.#pidFile(folder), { force: true })
  }

  #pidFile(folder: StateFolder): string {
    return join(folder.pids, `${fileName(this.id)}.pid`)
  }
}
