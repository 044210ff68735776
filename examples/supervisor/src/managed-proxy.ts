import { randomUUID } from 'node:crypto'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Environment } from 'consul-connect'
import type { Log } from 'consul-connect-proxy/log'
import {
  type PortCheck,
  bindAddressOf,
  portCheck,
  proxyIdOf,
  proxyRegistration,
} from './agent/proxy-registration.js'
import { type Registered, type Registry, registrationPrint } from './agent/registry.js'
import { OwnToken } from './agent/own-token.js'
import type { Tokens } from './agent/tokens.js'
import type { PortRange } from './configuration/configuration.js'
import type { Sender, ServiceDefinition } from './configuration/definition.js'
import { type ManagedBlock, adminArgs } from './configuration/managed.js'
import { type ProcessId, findByEnvironment, isRunning } from './process/identity.js'
import { Keeper, type Prepared } from './process/keeper.js'
import { adminSocketPrefix, removeAdminSocket } from './process/admin-socket.js'
import { endOrphans, findOrphans } from './process/orphans.js'
import {
  ADMIN_SOCKET_VARIABLE,
  LAUNCH_VARIABLE,
  type Launch,
  findProgram,
  fingerprint,
  proxyEnvironment,
} from './process/launch.js'
import { openLogs } from './process/logs.js'
import { accepts, findPort, isFree } from './process/ports.js'
import { type Exit, type RunningProcess, adoptProcess, describeExit } from './process/running.js'
import { type StateFolder, fileName } from './state/folder.js'
import { removePidFile, writePidFile } from './state/pid-file.js'
import type { SavedProcess, SavedProxy } from './state/snapshot.js'
import { elapsed } from './time.js'

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
  readonly defaultCommand: { readonly command: readonly string[]; readonly logArgs: readonly string[] }
  readonly ports: PortRange
  readonly bindAddress: string
  /** One proxy at a time looks for a port. The ports of all others are given. */
  withPorts(proxyId: string, choose: (taken: ReadonlySet<number>) => Promise<void>): Promise<void>
  /** @throws when the state cannot be written */
  save(): Promise<void>
  /** A token is not needed any more. */
  revokeLater(accessor: string): void
  /** The agent could not be told that it is gone. */
  deregisterLater(id: string, sender: Sender): void
  /** Something has to be settled anew, soon. */
  wake(): void
}

/** The default of our own proxy. */
const DEFAULT_DRAIN_TIMEOUT_MS = 10_000

/** What the end of an orphan may take beyond its drain. */
const ORPHAN_GRACE_MS = 1_000

/** How long a process may take until it listens. Later the agent's check notices it. */
const LISTENING_MS = 60_000

/** How long a successor takes at most to listen after its predecessor. */
const TAKEOVER_MS = 1_000

/** How long a port may be held by what is left of the process before. */
const PORT_PATIENCE_MS = 1_000
const PORT_POLL_MS = 100

/** The proxy of one service, from its port to its process. */
export class ManagedProxy {
  readonly id: string
  readonly serviceId: string
  readonly keeper: Keeper
  #surroundings: Surroundings
  #serviceName: string
  #port: number
  readonly #token: OwnToken
  #isRegistered: boolean
  #isStopped: boolean
  #process: SavedProcess | undefined
  #sender: Sender
  /** How long the proxy drains its connections before it ends. */
  #drainTimeoutMs: number
  /** The registration that was sent to the agent last. */
  #sent: string | undefined
  /** Where it listens. */
  #address: string
  #mustMove = false
  #hasNoOrphan = false
  #check: PortCheck | undefined
  #isRetired = false
  /** It is being stopped: nothing is to start it, and nothing waits for that. */
  #isEnding = false
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
    const description = `managed proxy of the service instance ${this.serviceId}, made by connect-supervisor`
    this.#token = new OwnToken(saved?.token, description, {
      save: () => this.#surroundings.save(),
      revokeLater: (accessor) => {
        this.#surroundings.revokeLater(accessor)
      },
      deleted: () => {
        this.#surroundings.log.warn(`${this.id}: somebody has deleted its token: it gets another`)
      },
    })
    this.#sender = saved?.sender ?? { token: undefined, isForeign: false }
    this.#drainTimeoutMs = saved?.drainTimeoutMs ?? DEFAULT_DRAIN_TIMEOUT_MS
    this.#sent = saved?.sent
    this.#address = surroundings.bindAddress
    this.#isRegistered = saved?.isRegistered ?? false
    this.#isStopped = saved?.isStopped ?? false
    this.keeper = new Keeper({
      prepare: (launch, signal) => this.#prepare(launch, signal),
      prepareStandby: () => this.#openOutputs(),
      started: async (running, launch, launchId, isReplacement) => {
        await this.#started(running, launch, launchId)
        // A check of the agent may fall between the listeners of a process and its successor.
        void this.#markPassing(running, isReplacement ? TAKEOVER_MS : 0)
      },
      ended: (exit, aliveMs) => {
        this.#ended(exit, aliveMs)
      },
      failed: (error) => {
        this.#surroundings.log.warn(`${this.id}: ${error.message}`)
      },
      drainMs: () => this.#drainTimeoutMs,
    })
    if (saved?.process !== undefined) this.#adopt(saved.process)
  }

  get port(): number {
    return this.#port
  }

  get tokenState(): OwnToken['state'] {
    return this.#token.state
  }

  /** The socket with the admin pages of a running proxy of our own. */
  get adminSocket(): string | undefined {
    const prefix = this.#adminSocketPrefix
    const pid = this.keeper.running?.id.pid
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
      port: this.#port,
      token: this.#token.saved,
      sender: this.#sender,
      drainTimeoutMs: this.#drainTimeoutMs,
      sent: this.#sent,
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
  resume({ name }: ServiceDefinition, managed: ManagedBlock): void {
    if (!this.#isRegistered || this.#isStopped || this.#isEnding) return
    // A token of another service is no token for this command.
    if (this.#token.isOfOther(name)) return
    this.#address = bindAddressOf(managed, this.#surroundings.bindAddress)
    this.#drainTimeoutMs = drainTimeoutOf(managed)
    this.keeper.run(this.#launch(managed))
  }

  /**
   * Brings the agent and the process to what the definition says.
   * @throws Error
   */
  async settle(
    definition: ServiceDefinition,
    managed: ManagedBlock,
    known: ReadonlyMap<string, Registered>,
  ): Promise<void> {
    if (this.#isRetired || this.#isStopped || this.#isEnding) return
    await this.#inTurn(async () => {
      if (this.#isRetired || this.#isStopped) return
      const { registry, bindAddress } = this.#surroundings
      this.#serviceName = definition.name
      this.#sender = definition.sender
      this.#address = bindAddressOf(managed, bindAddress)
      this.#drainTimeoutMs = drainTimeoutOf(managed)
      await this.#choosePort(managed, known.get(this.id)?.port)
      await this.#token.ensure(this.#surroundings.tokens, definition.name)
      const body = proxyRegistration(definition, managed, this.#port, bindAddress)
      const print = registrationPrint(body, definition.sender)
      const mustRegister = known.get(this.id)?.port !== this.#port || print !== this.#sent
      if (mustRegister) {
        // Its port must not be another's after a crash.
        await this.#surroundings.save()
        await registry.register(body, definition.sender)
        this.#sent = print
      }
      this.#isRegistered = true
      this.#check = portCheck(definition, managed, this.#port, bindAddress)
      this.keeper.run(this.#launch(managed))
      if (mustRegister) this.reportListening()
    })
  }

  /**
   * An operator wants it to be stopped, until it is started again.
   * @throws Error when its process does not end
   */
  stop(): Promise<void> {
    this.#isStopped = true
    return this.#takeAway()
  }

  start(): void {
    this.#isStopped = false
  }

  /** Replaces the process by a new one, and keeps the registration. A proxy that was stopped is started. */
  restart(): void {
    this.#isStopped = false
    this.keeper.restart()
  }

  /**
   * Reports a running process to the agent as soon as it listens: after a restart of the agent, and in a new
   * registration, the check of the port is critical until the agent runs it.
   */
  reportListening(): void {
    const { running } = this.keeper
    if (running !== undefined) void this.#markPassing(running, 0)
  }

  /** Deregisters with the supervisor's own token from now on: that of the registrant was deleted. */
  disown(): void {
    this.#sender = { token: undefined, isForeign: false }
  }

  /**
   * Ends the process, and takes away what was made for it. It is of no use afterwards.
   * @throws Error when its process does not end: it is to be called again
   */
  retire(): Promise<void> {
    this.#isRetired = true
    return this.#takeAway()
  }

  /**
   * Ends the process. The registration, the port, and the token stay.
   * @throws Error when it does not end
   */
  endProcess(): Promise<void> {
    if (this.keeper.running === undefined || this.#isEnding) return Promise.resolve()
    return this.#ending(async () => {
      await this.keeper.stop()
      this.#forgetProcess()
    })
  }

  #takeAway(): Promise<void> {
    return this.#ending(async () => {
      const { registry, log } = this.#surroundings
      // Nobody is to be sent here while it ends; but an agent that is away holds up nothing.
      await registry.deregister(this.id, this.#sender).catch((error: unknown) => {
        log.warn(`${this.id}: ${(error as Error).message}`)
        this.#surroundings.deregisterLater(this.id, this.#sender)
      })
      this.#isRegistered = false
      this.#sent = undefined
      if (this.keeper.running !== undefined) log.info(`${this.id}: is stopped`)
      await this.keeper.stop()
      this.#forgetProcess()
      this.#token.giveUp()
    })
  }

  async #ending(act: () => Promise<void>): Promise<void> {
    this.#isEnding = true
    try {
      await this.#inTurn(act)
    } finally {
      this.#isEnding = false
    }
  }

  /** One after the other: what is being registered must not be taken away meanwhile, and come after it. */
  async #inTurn(act: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(act)
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  /** @param registered - the port of an earlier registration, which is kept when the state is lost */
  async #choosePort(managed: ManagedBlock, registered = 0): Promise<void> {
    if (managed.bindPort !== undefined) {
      this.#port = managed.bindPort
      return
    }
    const { ports, log } = this.#surroundings
    await this.#surroundings.withPorts(this.id, async (taken) => {
      // One that runs listens there, whoever wants the port besides.
      const isHeld = this.keeper.running !== undefined || (!this.#mustMove && !taken.has(this.#port))
      if (this.#port !== 0 && isHeld) return
      const isUsable = registered >= ports.min && registered <= ports.max && !taken.has(registered)
      if (this.#port === 0 && isUsable) {
        this.#port = registered
        return
      }
      const before = this.#port
      const others = before === 0 ? taken : new Set([...taken, before])
      this.#port = await findPort({ range: ports, taken: others, address: this.#address })
      this.#mustMove = false
      if (before !== 0)
        log.warn(`${this.id}: port ${before} is somebody else’s now: it moves to ${this.#port}`)
    })
  }

  #launch(managed: ManagedBlock): Launch {
    const { defaultCommand, environment, directory } = this.#surroundings
    const [program = '', ...args] = managed.command ?? defaultCommand.command
    const isDefault = managed.command === undefined
    const socket = isDefault ? this.#adminSocketPrefix : undefined
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

  /** Undefined where nothing is left behind, and where the path would be too long for a unix socket. */
  get #adminSocketPrefix(): string | undefined {
    const { folder } = this.#surroundings
    return folder === undefined ? undefined : adminSocketPrefix(folder.pids, this.id)
  }

  #adopt(process: SavedProcess): void {
    const { log } = this.#surroundings
    const id = process.id ?? findByEnvironment(LAUNCH_VARIABLE, process.launchId)
    if (id !== undefined && isRunning(id)) {
      log.info(`${this.id}: found again`, { process: id.pid })
      this.#process = { ...process, id }
      this.keeper.adopt(adoptProcess(id), process.fingerprint)
      this.#endOthers(id)
    } else if (process.id !== undefined) {
      log.warn(`${this.id}: process ${process.id.pid} has ended meanwhile`)
    }
  }

  async #prepare(launch: Launch, signal: AbortSignal): Promise<Prepared> {
    await this.#expectNoOrphan(launch, signal)
    await this.#expectPort()
    const prepared = this.#openOutputs()
    try {
      this.#process = savedProcess(launch, prepared.launchId, undefined)
      await this.#surroundings.save()
      return prepared
    } catch (error) {
      prepared.release()
      throw error
    }
  }

  #openOutputs(): Prepared {
    const { folder } = this.#surroundings
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

  /** Once is enough: what this supervisor starts is in its state. */
  async #expectNoOrphan({ env }: Launch, signal: AbortSignal): Promise<void> {
    if (this.#hasNoOrphan) return
    const orphans = findOrphans(this.id, env, undefined)
    if (orphans.length > 0) {
      const pids = orphans.map(({ pid }) => pid).join(', ')
      this.#surroundings.log.warn(
        `${this.id}: ends a process of an earlier supervisor that is not in the state: ${pids}`,
      )
    }
    if (!(await endOrphans(orphans, this.#drainTimeoutMs + ORPHAN_GRACE_MS, signal))) {
      throw new Error('its start was interrupted, or an orphan does not end')
    }
    this.#hasNoOrphan = true
  }

  /** Another program may have taken the port while ours did not run. */
  async #expectPort(): Promise<void> {
    const deadline = performance.now() + PORT_PATIENCE_MS
    while (!(await isFree(this.#port, this.#address))) {
      if (performance.now() > deadline) {
        this.#mustMove = true
        this.#surroundings.wake()
        throw new Error(`port ${this.#port} is taken by another program`)
      }
      await sleep(PORT_POLL_MS)
    }
  }

  /** A supervisor that was killed during a restart leaves two processes: one is in the state, and stays. */
  #endOthers(own: ProcessId): void {
    const { environment, log } = this.#surroundings
    const others = findOrphans(this.id, environment, own)
    if (others.length === 0) return
    log.warn(`${this.id}: ends a second process: ${others.map(({ pid }) => pid).join(', ')}`)
    const { signal } = new AbortController()
    void endOrphans(others, this.#drainTimeoutMs + ORPHAN_GRACE_MS, signal)
  }

  async #started(running: RunningProcess, launch: Launch, launchId: string): Promise<void> {
    const { log, folder } = this.#surroundings
    log.info(`${this.id}: started`, { process: running.id.pid, port: this.#port, command: launch.path })
    this.#process = savedProcess(launch, launchId, running.id)
    try {
      if (folder !== undefined) writePidFile(this.#pidFile(folder), running.id.pid)
      await this.#surroundings.save()
    } catch (error) {
      // It would be found by its launch, which is written down; and it is written with the next change.
      log.warn(`${this.id}: its process could not be written down: ${(error as Error).message}`)
    }
  }

  /**
   * Reports a process that listens to the agent. The agent's check runs every 10 s, and calls the proxy critical until
   * then: callers would be refused although the proxy is there.
   * @param delayMs - how long to wait before the first look
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
      await this.#inTurn(async () => {
        const isSame = this.#check?.port === check.port && this.#check.host === check.host
        if (this.keeper.running !== running || !isSame || !this.#isRegistered) return
        const { registry } = this.#surroundings
        if (await registry.isPassing(String(check.body['CheckID']), this.#sender)) return
        // If the second of two requests fails, the check is missing, and the next pass registers everything again.
        const sent = this.#sent
        this.#sent = undefined
        await registry.registerPassing(this.id, check.body, this.#sender)
        this.#sent = sent
      })
    } catch (error) {
      this.#surroundings.log.debug(`${this.id}: the agent's check decides alone: ${(error as Error).message}`)
    } finally {
      done.abort()
    }
  }

  #ended(exit: Exit, aliveMs: number): void {
    const aliveS = Math.round(aliveMs / 100) / 10
    this.#surroundings.log.warn(`${this.id}: it ended by itself`, { how: describeExit(exit), aliveS })
    this.#forgetProcess()
  }

  #forgetProcess(): void {
    const { folder, log } = this.#surroundings
    const pid = this.#process?.id?.pid
    this.#process = undefined
    if (folder === undefined) return
    try {
      removeAdminSocket(this.#adminSocketPrefix, pid)
      removePidFile(this.#pidFile(folder))
    } catch (error) {
      log.warn(`${this.id}: its pid file cannot be removed: ${(error as Error).message}`)
    }
  }

  #pidFile(folder: StateFolder): string {
    return join(folder.pids, `${fileName(this.id)}.pid`)
  }
}

function drainTimeoutOf({ config }: ManagedBlock): number {
  const value = config['drain_timeout_ms']
  return typeof value === 'number' && value > 0 ? value : DEFAULT_DRAIN_TIMEOUT_MS
}

function savedProcess(launch: Launch, launchId: string, id: ProcessId | undefined): SavedProcess {
  const { path, args, directory } = launch
  return { launchId, fingerprint: fingerprint(launch), id, path, args, directory }
}
