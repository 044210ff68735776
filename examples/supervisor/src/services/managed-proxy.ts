import { randomUUID } from 'node:crypto'
import { closeSync } from 'node:fs'
import {
  type PortCheck,
  bindAddressOf,
  portCheck,
  proxyIdOf,
  proxyRegistration,
} from '../agent/proxy-registration.js'
import { type Registered, registrationFingerprint } from '../agent/registry.js'
import { ManagedToken } from '../agent/managed-token.js'
import { SerialQueue } from '../concurrency.js'
import type { Sender, ServiceDefinition } from '../configuration/definition.js'
import { type ManagedBlock, adminArgs } from '../configuration/managed.js'
import { type ProcessId, findByEnvironment, isRunning } from '../process/identity.js'
import { ProcessRunner, type Prepared } from '../process/process-runner.js'
import { ProcessRecord } from '../process/process-record.js'
import { endOrphans, findOrphans } from '../process/orphans.js'
import {
  ADMIN_SOCKET_VARIABLE,
  LAUNCH_VARIABLE,
  type Launch,
  findProgram,
  proxyEnvironment,
} from '../process/launch.js'
import { openLogs } from '../process/logs.js'
import { accepts } from '../process/ports.js'
import type { ProxyContext } from './proxy-context.js'
import { ProxyPort } from './proxy-port.js'
import { type Exit, type RunningProcess, adoptProcess, describeExit } from '../process/running.js'
import { fileName } from '../state/folder.js'
import type { SavedProcess, SavedProxy } from '../state/snapshot.js'
import { elapsed } from '../time.js'

/** Default `drain_timeout_ms` of `connect-proxy`. */
const DEFAULT_DRAIN_TIMEOUT_MS = 10_000

/** Time beyond its drain timeout that an orphaned process has to exit. */
const ORPHAN_GRACE_MS = 1_000

/** How long to wait for a new process to listen. After that, the check of the agent detects it. */
const LISTENING_MS = 60_000

/** Upper bound on the time between the predecessor closing its listener and the successor opening it. */
const TAKEOVER_MS = 1_000

/** Manages the proxy of one service: its port, token, registration, and process. */
export class ManagedProxy {
  readonly id: string
  readonly serviceId: string
  readonly runner: ProcessRunner
  #context: ProxyContext
  #serviceName: string
  readonly #port: ProxyPort
  readonly #token: ManagedToken
  #isRegistered: boolean
  #isStopped: boolean
  readonly #process: ProcessRecord
  #sender: Sender
  /** Drain timeout of the proxy, in milliseconds. */
  #drainTimeoutMs: number
  /** Fingerprint of the last registration that the agent accepted. */
  #sentFingerprint: string | undefined
  /** Bind address. */
  #address: string
  #orphansChecked = false
  #check: PortCheck | undefined
  #isRemoved = false
  /** Set while the process is being stopped: passes skip the proxy meanwhile. */
  #isStopping = false
  /** Serializes registration and removal, so that a late registration cannot undo a removal. */
  readonly #queue = new SerialQueue()

  constructor(
    context: ProxyContext,
    definition: { readonly id: string; readonly name: string },
    saved?: SavedProxy,
  ) {
    this.#context = context
    this.serviceId = definition.id
    this.id = proxyIdOf(definition.id)
    this.#serviceName = definition.name
    this.#process = new ProcessRecord(this.id, context.folder)
    this.#port = new ProxyPort(this.id, saved?.port ?? 0)
    const description = `managed proxy of service instance ${this.serviceId}, created by connect-supervisor`
    this.#token = new ManagedToken(saved?.token, description, {
      save: () => this.#context.save(),
      revokeLater: (accessor) => {
        this.#context.revokeLater(accessor)
      },
      deleted: () => {
        this.#context.log.warn(`${this.id}: ACL token was deleted; creating another one`)
      },
    })
    this.#sender = saved?.sender ?? { token: undefined, isForeign: false }
    this.#drainTimeoutMs = saved?.drainTimeoutMs ?? DEFAULT_DRAIN_TIMEOUT_MS
    this.#sentFingerprint = saved?.sent
    this.#address = context.bindAddress
    this.#isRegistered = saved?.isRegistered ?? false
    this.#isStopped = saved?.isStopped ?? false
    this.runner = new ProcessRunner({
      prepare: (launch, signal) => this.#prepare(launch, signal),
      prepareStandby: () => this.#openOutputs(),
      started: async (running, launch, launchId, isReplacement) => {
        await this.#onStarted(running, launch, launchId)
        // The agent may have checked the port after the old listener closed and before the new one opened.
        void this.#markPassing(running, isReplacement ? TAKEOVER_MS : 0)
      },
      ended: (exit, aliveMs) => {
        this.#onExit(exit, aliveMs)
      },
      failed: (error) => {
        this.#context.log.warn(`${this.id}: ${error.message}`)
      },
      drainMs: () => this.#drainTimeoutMs,
    })
    if (saved?.process !== undefined) this.#adopt(saved.process)
  }

  get port(): number {
    return this.#port.number
  }

  get tokenState(): ManagedToken['state'] {
    return this.#token.state
  }

  /** Path of the admin socket of a running `connect-proxy`; undefined without one. */
  get adminSocket(): string | undefined {
    const prefix = this.#process.adminSocketPrefix
    const pid = this.runner.running?.id.pid
    return prefix === undefined || pid === undefined ? undefined : `${prefix}.${pid}`
  }

  get isStopped(): boolean {
    return this.#isStopped
  }

  get saved(): SavedProxy {
    return {
      proxyId: this.id,
      serviceId: this.serviceId,
      serviceName: this.#serviceName,
      port: this.#port.number,
      token: this.#token.saved,
      sender: this.#sender,
      drainTimeoutMs: this.#drainTimeoutMs,
      sent: this.#sentFingerprint,
      isRegistered: this.#isRegistered,
      isStopped: this.#isStopped,
      process: this.#process.saved,
    }
  }

  /** Replaces the shared settings, after a reload. */
  set context(context: ProxyContext) {
    this.#context = context
  }

  /**
   * Restarts a registered proxy from its saved state, without the agent.
   * @throws Error when its command is not found
   */
  resume({ name }: ServiceDefinition, managed: ManagedBlock): void {
    if (!this.#isRegistered || this.#isStopped || this.#isStopping) return
    // The service was renamed, and the token carries the identity of the old name.
    if (this.#token.isForOtherService(name)) return
    this.#address = bindAddressOf(managed, this.#context.bindAddress)
    this.#drainTimeoutMs = drainTimeoutOf(managed)
    this.runner.run(this.#launch(managed))
  }

  /**
   * Registers the proxy if it is missing or has changed, and keeps its process running.
   * @throws Error
   */
  async reconcile(
    definition: ServiceDefinition,
    managed: ManagedBlock,
    known: ReadonlyMap<string, Registered>,
  ): Promise<void> {
    if (this.#isRemoved || this.#isStopped || this.#isStopping) return
    await this.#queue.run(async () => {
      if (this.#isRemoved || this.#isStopped) return
      const { registry, bindAddress } = this.#context
      this.#serviceName = definition.name
      this.#sender = definition.sender
      this.#address = bindAddressOf(managed, bindAddress)
      this.#drainTimeoutMs = drainTimeoutOf(managed)
      await this.#port.select(this.#context, {
        fixed: managed.bindPort,
        registered: known.get(this.id)?.port,
        isRunning: this.runner.running !== undefined,
        address: this.#address,
      })
      await this.#token.ensure(this.#context.tokens, definition.name)
      const body = proxyRegistration(definition, managed, this.#port.number, bindAddress)
      const newFingerprint = registrationFingerprint(body, definition.sender)
      const mustRegister =
        known.get(this.id)?.port !== this.#port.number || newFingerprint !== this.#sentFingerprint
      if (mustRegister) {
        // Save the port before registering it, so that no other proxy takes the port after a crash.
        await this.#context.save()
        await registry.register(body, definition.sender)
        this.#sentFingerprint = newFingerprint
      }
      this.#isRegistered = true
      this.#check = portCheck(definition, managed, this.#port.number, bindAddress)
      this.runner.run(this.#launch(managed))
      if (mustRegister) this.reportListening()
    })
  }

  /**
   * Stops the proxy until `start()` or `restart()`.
   * @throws Error when its process does not exit
   */
  stop(): Promise<void> {
    this.#isStopped = true
    return this.#deregisterAndStop()
  }

  start(): void {
    this.#isStopped = false
  }

  /** Replaces the process and keeps the registration. Starts a stopped proxy. */
  restart(): void {
    this.#isStopped = false
    this.runner.restart()
  }

  /**
   * Sets the check of the agent to passing once the process listens. In a new registration, and after a restart of
   * the agent, the check is critical until its first run.
   */
  reportListening(): void {
    const { running } = this.runner
    if (running !== undefined) void this.#markPassing(running, 0)
  }

  /** Uses the supervisor's token for the deregistration, because the token that registered the service was deleted. */
  useSupervisorToken(): void {
    this.#sender = { token: undefined, isForeign: false }
  }

  /**
   * Stops the process, deregisters the proxy, and revokes its token. Permanent. Call again after a failure.
   * @throws Error when the process does not exit
   */
  remove(): Promise<void> {
    this.#isRemoved = true
    return this.#deregisterAndStop()
  }

  /**
   * Stops the process. Keeps the registration, port, and token.
   * @throws Error when the process does not exit
   */
  endProcess(): Promise<void> {
    if (this.runner.running === undefined || this.#isStopping) return Promise.resolve()
    return this.#whileStopping(async () => {
      await this.runner.stop()
      this.#clearRecord()
    })
  }

  #deregisterAndStop(): Promise<void> {
    return this.#whileStopping(async () => {
      const { registry, log } = this.#context
      // Deregister first, so that clients stop connecting while the process drains. An unreachable agent does not
      // delay the stop.
      await registry.deregister(this.id, this.#sender).catch((error: unknown) => {
        log.warn(`${this.id}: ${(error as Error).message}`)
        this.#context.deregisterLater(this.id, this.#sender)
      })
      this.#isRegistered = false
      this.#sentFingerprint = undefined
      if (this.runner.running !== undefined) log.info(`${this.id}: stopping`)
      await this.runner.stop()
      this.#clearRecord()
      this.#token.release()
    })
  }

  async #whileStopping(act: () => Promise<void>): Promise<void> {
    this.#isStopping = true
    try {
      await this.#queue.run(act)
    } finally {
      this.#isStopping = false
    }
  }

  #launch(managed: ManagedBlock): Launch {
    const { defaultCommand, environment, directory } = this.#context
    const [program = '', ...args] = managed.command ?? defaultCommand.command
    const isDefault = managed.command === undefined
    const socket = isDefault ? this.#process.adminSocketPrefix : undefined
    return {
      proxyId: this.id,
      path: findProgram(program, managed.folder, environment['PATH']),
      args: [...args, ...(isDefault ? adminArgs(managed) : [])],
      logArgs: isDefault ? defaultCommand.logArgs : [],
      directory,
      env: {
        ...proxyEnvironment(environment, this.id, this.#token.secret),
        ...(socket !== undefined && { [ADMIN_SOCKET_VARIABLE]: socket }),
      },
      canStandBy: isDefault,
    }
  }

  #adopt(process: SavedProcess): void {
    const { log } = this.#context
    const id = process.id ?? findByEnvironment(LAUNCH_VARIABLE, process.launchId)
    if (id !== undefined && isRunning(id)) {
      log.info(`${this.id}: adopted running process`, { process: id.pid })
      this.#process.adopted(process, id)
      this.runner.adopt(adoptProcess(id), process.fingerprint)
      this.#stopDuplicates(id)
    } else if (process.id !== undefined) {
      log.warn(`${this.id}: process ${process.id.pid} exited while no supervisor was running`)
    }
  }

  async #prepare(launch: Launch, signal: AbortSignal): Promise<Prepared> {
    await this.#stopOrphans(launch, signal)
    await this.#port.waitUntilFree(this.#context, this.#address)
    const prepared = this.#openOutputs()
    try {
      this.#process.launching(launch, prepared.launchId)
      await this.#context.save()
      return prepared
    } catch (error) {
      prepared.release()
      throw error
    }
  }

  #openOutputs(): Prepared {
    const { folder } = this.#context
    const launchId = randomUUID()
    const outputs = folder === undefined ? undefined : openLogs(folder.logs, fileName(this.id))
    return {
      launchId,
      outputs,
      release: () => {
        for (const file of outputs ?? []) closeSync(file)
      },
    }
  }

  /** Stops orphans before the first start. Once is enough: later processes are in the state. */
  async #stopOrphans({ env }: Launch, signal: AbortSignal): Promise<void> {
    if (this.#orphansChecked) return
    const orphans = findOrphans(this.id, env, undefined)
    if (orphans.length > 0) {
      const pids = orphans.map(({ pid }) => pid).join(', ')
      this.#context.log.warn(
        `${this.id}: stopping a process of an earlier supervisor that is missing from the state: ${pids}`,
      )
    }
    if (!(await endOrphans(orphans, this.#drainTimeoutMs + ORPHAN_GRACE_MS, signal))) {
      throw new Error('start aborted: interrupted, or a process of an earlier supervisor does not exit')
    }
    this.#orphansChecked = true
  }

  /**
   * Stops a duplicate process. A supervisor that is killed during a restart leaves two processes, and only one is in
   * the state.
   */
  #stopDuplicates(own: ProcessId): void {
    const { environment, log } = this.#context
    const others = findOrphans(this.id, environment, own)
    if (others.length === 0) return
    log.warn(`${this.id}: stopping a duplicate process: ${others.map(({ pid }) => pid).join(', ')}`)
    const { signal } = new AbortController()
    void endOrphans(others, this.#drainTimeoutMs + ORPHAN_GRACE_MS, signal)
  }

  async #onStarted(running: RunningProcess, launch: Launch, launchId: string): Promise<void> {
    const { log } = this.#context
    log.info(`${this.id}: started`, {
      process: running.id.pid,
      port: this.#port.number,
      command: launch.path,
    })
    try {
      this.#process.started(launch, launchId, running.id)
      await this.#context.save()
    } catch (error) {
      // Not fatal: the launch id in the state identifies the process, and the next save records it.
      log.warn(`${this.id}: cannot record its process: ${(error as Error).message}`)
    }
  }

  /**
   * Sets the check of the agent to passing once a process listens. The agent runs the check every 10 s and reports a
   * new proxy as critical until then, so that clients would not use it.
   * @param delayMs - delay before the first connection attempt
   */
  async #markPassing(running: RunningProcess, delayMs: number): Promise<void> {
    const done = new AbortController()
    void Promise.race([running.ended, elapsed(LISTENING_MS, done.signal)]).then(() => {
      done.abort()
    })
    try {
      if (delayMs > 0) await elapsed(delayMs, done.signal)
      const check = this.#check
      if (check === undefined || !(await accepts(check.port, check.host, done.signal))) return
      await this.#queue.run(async () => {
        const isSame = this.#check?.port === check.port && this.#check.host === check.host
        if (this.runner.running !== running || !isSame || !this.#isRegistered) return
        const { registry } = this.#context
        if (await registry.isPassing(String(check.body['CheckID']), this.#sender)) return
        // If the second of the two requests fails, the check is missing. A cleared fingerprint makes the next pass
        // register everything again.
        const sent = this.#sentFingerprint
        this.#sentFingerprint = undefined
        await registry.registerPassing(this.id, check.body, this.#sender)
        this.#sentFingerprint = sent
      })
    } catch (error) {
      this.#context.log.debug(
        `${this.id}: cannot report to the agent that it listens; its check will: ${(error as Error).message}`,
      )
    } finally {
      done.abort()
    }
  }

  #onExit(exit: Exit, aliveMs: number): void {
    const aliveS = Math.round(aliveMs / 100) / 10
    this.#context.log.warn(`${this.id}: exited unexpectedly`, { how: describeExit(exit), aliveS })
    this.#clearRecord()
  }

  #clearRecord(): void {
    try {
      this.#process.clear()
    } catch (error) {
      this.#context.log.warn(`${this.id}: cannot remove its pid file: ${(error as Error).message}`)
    }
  }
}

function drainTimeoutOf({ config }: ManagedBlock): number {
  const value = config['drain_timeout_ms']
  return typeof value === 'number' && value > 0 ? value : DEFAULT_DRAIN_TIMEOUT_MS
}
