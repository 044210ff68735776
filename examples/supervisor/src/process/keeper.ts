import { setTimeout as sleep } from 'node:timers/promises'
import { elapsed, within } from '../time.js'
import { type ProcessId, isRunning, killSession, sessionOf, signalProcess } from './identity.js'
import { type Launch, fingerprint } from './launch.js'
import { Restarts } from './restarts.js'
import { type Exit, type RunningProcess, type StandbyProcess, startProcess, startStandby } from './running.js'

export type KeeperState = 'stopped' | 'waiting' | 'running' | 'stopping'

/** What a keeper calls. */
export interface KeeperHooks {
  /**
   * Before a start: records in the state that it will be tried, and opens the files for the output.
   * @param signal - aborted when the process is to be another, or none
   */
  prepare(launch: Launch, signal: AbortSignal): Promise<Prepared>
  /** Before the start of a process that is to replace a running one: opens the files for the output. */
  prepareStandby(): Prepared
  /**
   * The process is running: records it in the state.
   * @param isReplacement - whether its predecessor still listens
   */
  started(running: RunningProcess, launch: Launch, launchId: string, isReplacement: boolean): Promise<void>
  /** The process has ended without being asked to. */
  ended(exit: Exit, aliveMs: number): void
  /** The process could not be started, or ended. */
  failed(error: Error): void
  /** How long the process may take to drain its connections after SIGINT, in milliseconds. */
  drainMs(): number
}

export interface Prepared {
  readonly launchId: string
  readonly outputs: readonly [number, number] | undefined
  /** Called when the process has what it needs, or was not started. */
  release(): void
}

/** What an orderly end takes beyond the drain. */
const DRAIN_GRACE_MS = 1_000
/** How long a process may take to end after SIGKILL, and what a crashed process left in its session after SIGINT. */
const KILL_MS = 5_000
/** How long the successor of a running process may take to get ready. */
const STANDBY_MS = 20_000
const RETRY_MS = 5_000
const SWEEP_POLL_MS = 50

/** Keeps one process running: starts it, starts it again when it ends or is to be another, and stops it. */
export class Keeper {
  readonly #hooks: KeeperHooks
  readonly #restarts = new Restarts()
  /** Processes that were replaced, and drain their connections. */
  readonly #draining = new Map<RunningProcess, Promise<void>>()
  #launch: Launch | undefined
  #running: RunningProcess | undefined
  /** Of the process that is running. */
  #print: string | undefined
  #changed = new AbortController()
  #loop: Promise<void> | undefined
  /** False from the very moment in which the loop has seen that there is nothing to keep. */
  #isKeeping = false
  #state: KeeperState = 'stopped'
  #mustRestart = false
  #hasLeft = false
  #starts = 0
  #exit: Exit | undefined
  #problem: Error | undefined

  constructor(hooks: KeeperHooks) {
    this.#hooks = hooks
  }

  get state(): KeeperState {
    return this.#state
  }

  get running(): RunningProcess | undefined {
    return this.#running
  }

  /** How often the process was started again. */
  get restarts(): number {
    return Math.max(0, this.#starts - 1)
  }

  get lastExit(): Exit | undefined {
    return this.#exit
  }

  /** The longest that `stop` takes, in milliseconds. */
  get stopMs(): number {
    // The drain, SIGKILL, and SIGKILL to the rest of the session.
    return this.#drainMs + 3 * KILL_MS
  }

  /** How long a process may take to end after SIGINT, in milliseconds. */
  get #drainMs(): number {
    return this.#hooks.drainMs() + DRAIN_GRACE_MS
  }

  /** Why the process could not be started or ended, the last time. */
  get problem(): Error | undefined {
    return this.#problem
  }

  /** Takes on a process that runs already, with the fingerprint of its launch. */
  adopt(running: RunningProcess, print: string): void {
    this.#running = running
    this.#print = print
    this.#starts = 1
    this.#state = 'running'
    this.#restarts.started()
  }

  /** Keeps the process running in this way; another way than the present one is a restart. */
  run(launch: Launch): void {
    if (this.#launch !== undefined && fingerprint(this.#launch) === fingerprint(launch)) return
    this.#launch = launch
    this.#change()
  }

  /** Replaces the running process by a new one. Without one, the next start does not wait. */
  restart(): void {
    this.#mustRestart = this.#running !== undefined
    if (this.#launch !== undefined) this.#change()
  }

  /**
   * Resolves when nothing of the process runs any more. `run` is not to be called meanwhile.
   * @throws Error when the process does not end; the keeper goes on trying
   */
  async stop(): Promise<void> {
    this.#launch = undefined
    this.#change()
    const done = new AbortController()
    const ended = Promise.all([this.#loop, ...this.#draining.values()]).then(() => false)
    const isLate = await Promise.race([ended, elapsed(this.stopMs, done.signal)])
    done.abort()
    if (isLate) throw this.#problem ?? new Error('its process does not end')
  }

  /** Ends the process at once, when nothing can be waited for. */
  kill(): void {
    for (const { id } of this.#draining.keys()) killSession(id)
    if (this.#running !== undefined) killSession(this.#running.id)
  }

  /** Stops keeping the process, and leaves it running. */
  leave(): void {
    this.#hasLeft = true
    this.#change()
  }

  #change(): void {
    this.#changed.abort()
    this.#changed = new AbortController()
    if (this.#isKeeping) return
    this.#isKeeping = true
    this.#loop = this.#keep()
  }

  async #keep(): Promise<void> {
    while (!this.#hasLeft) {
      const { signal } = this.#changed
      const launch = this.#launch
      const running = this.#running
      try {
        if (running !== undefined && launch === undefined) {
          await this.#end(running)
        } else if (launch === undefined) {
          this.#state = 'stopped'
          this.#isKeeping = false
          return
        } else if (running === undefined) {
          await this.#start(launch, signal)
        } else if (isRunning(running.id) && (this.#mustRestart || fingerprint(launch) !== this.#print)) {
          await this.#replace(running, launch, signal)
        } else {
          await this.#attend(running, signal)
        }
      } catch (error) {
        this.#problem = error as Error
        this.#hooks.failed(error as Error)
        // A start waits by its own schedule; what cannot be ended is tried again like this.
        if (this.#running !== undefined) await elapsed(RETRY_MS, signal)
      }
    }
  }

  async #start(launch: Launch, signal: AbortSignal): Promise<void> {
    const { waitMs } = this.#restarts
    this.#state = 'waiting'
    if (waitMs > 0 && !(await elapsed(waitMs, signal))) {
      // Something was changed, and may have been mended.
      this.#restarts.reset()
      return
    }
    this.#restarts.started()
    const prepared = await this.#hooks.prepare(launch, signal)
    try {
      const running = await startProcess(launch, prepared.launchId, prepared.outputs)
      await this.#started(running, launch, prepared.launchId)
    } finally {
      prepared.release()
    }
  }

  async #started(running: RunningProcess, launch: Launch, launchId: string): Promise<void> {
    const isReplacement = this.#running !== undefined
    this.#running = running
    this.#print = fingerprint(launch)
    this.#mustRestart = false
    this.#starts += 1
    this.#state = 'running'
    this.#problem = undefined
    await this.#hooks.started(running, launch, launchId, isReplacement)
  }

  /** Until the process ends, or something is changed. */
  async #attend(running: RunningProcess, signal: AbortSignal): Promise<void> {
    const done = new AbortController()
    const exit = await Promise.race([running.ended, aborted(signal, done.signal)])
    done.abort()
    if (exit === undefined) return
    const aliveMs = performance.now() - running.since
    this.#gone(exit)
    this.#state = 'waiting'
    this.#restarts.ended(aliveMs)
    this.#hooks.ended(exit, aliveMs)
    // What it has left behind may hold its port.
    await sweep(running.id, performance.now() + KILL_MS)
  }

  /**
   * Puts a new process in the place of a running one. Where its program can, the new one gets ready first, so that
   * connections are refused only for the moment between the two listeners.
   * @throws Error when the new process does not get ready; the running one stays
   */
  async #replace(running: RunningProcess, launch: Launch, signal: AbortSignal): Promise<void> {
    if (!launch.canStandBy) {
      await this.#end(running)
      return
    }
    const prepared = this.#hooks.prepareStandby()
    try {
      const next = await startStandby(launch, prepared.launchId, prepared.outputs)
      const outcome = await readiness(next, running, signal)
      if (outcome === 'ready') {
        this.#restarts.reset()
        this.#restarts.started()
        // Recorded before the other one ends: a supervisor that is killed now finds the process that stays.
        await this.#started(next, launch, prepared.launchId)
        this.#drain(running)
        return
      }
      killSession(next.id)
      await within(KILL_MS, next.ended)
      // The next turn of the loop looks at the running process, or at the change.
      if (outcome === 'crashed') this.#mustRestart = false
      if (outcome === 'late') throw new Error('its successor does not get ready; the running process stays')
    } finally {
      prepared.release()
    }
  }

  #drain(running: RunningProcess): void {
    const ending = this.#finish(running)
      .then(
        (exit) => {
          this.#exit = exit
        },
        (error: unknown) => {
          this.#hooks.failed(error as Error)
        },
      )
      .finally(() => this.#draining.delete(running))
    this.#draining.set(running, ending)
  }

  async #end(running: RunningProcess): Promise<void> {
    this.#state = 'stopping'
    this.#gone(await this.#finish(running))
    this.#mustRestart = false
    this.#restarts.reset()
  }

  /** @throws Error when the process does not end */
  async #finish(running: RunningProcess): Promise<Exit> {
    const deadline = performance.now() + this.#drainMs
    signalProcess(running.id, 'SIGINT')
    let exit = await within(this.#drainMs, running.ended)
    if (exit === undefined) {
      killSession(running.id)
      exit = await within(KILL_MS, running.ended)
    }
    if (exit === undefined) throw new Error(`process ${running.id.pid} does not end, even by SIGKILL`)
    // A wrapper may end before the proxy that it started: that has the same time to drain.
    await sweep(running.id, deadline)
    return exit
  }

  #gone(exit: Exit): void {
    this.#exit = exit
    this.#running = undefined
    this.#print = undefined
  }
}

type Readiness = 'ready' | 'late' | 'crashed' | 'changed'

/** Waits until a process is ready to take over, or the running one ends, or something is changed. */
async function readiness(
  next: StandbyProcess,
  running: RunningProcess,
  signal: AbortSignal,
): Promise<Readiness> {
  const done = new AbortController()
  const first = await Promise.race([
    within(STANDBY_MS, next.ready).then((isReady): Readiness => (isReady === true ? 'ready' : 'late')),
    running.ended.then((): Readiness => 'crashed'),
    aborted(signal, done.signal).then((): Readiness => 'changed'),
  ])
  done.abort()
  return first
}

/** Ends what a process has left behind in its session, with SIGKILL after the deadline. */
async function sweep(leader: ProcessId, deadline: number): Promise<void> {
  for (const member of sessionOf(leader)) signalProcess(member, 'SIGINT')
  while (sessionOf(leader).length > 0) {
    if (performance.now() > deadline) {
      killSession(leader)
      return
    }
    await sleep(SWEEP_POLL_MS)
  }
}

/** Until the signal is given, or nobody waits for it any more. */
async function aborted(signal: AbortSignal, done: AbortSignal): Promise<undefined> {
  if (signal.aborted) return undefined
  return new Promise((resolve) => {
    const listener = (): void => {
      resolve(undefined)
    }
    signal.addEventListener('abort', listener, { once: true, signal: done })
  })
}
