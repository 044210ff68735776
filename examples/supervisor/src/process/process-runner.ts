import { setTimeout as sleep } from 'node:timers/promises'
import { elapsed, within } from '../time.js'
import { type ProcessId, isRunning, killSession, sessionOf, signalProcess } from './identity.js'
import { type Launch, fingerprint } from './launch.js'
import { RestartBackoff } from './restart-backoff.js'
import { type Exit, type RunningProcess, type StandbyProcess, startProcess, startStandby } from './running.js'

export type ProcessState = 'stopped' | 'waiting' | 'running' | 'stopping'

/** Callbacks of a `ProcessRunner`. */
export interface RunnerHooks {
  /**
   * Called before a start: saves the launch id and opens the log files.
   * @param signal - aborted when the launch changes or the process is to stop
   */
  prepare(launch: Launch, signal: AbortSignal): Promise<Prepared>
  /** Called before a standby start: opens the log files. */
  prepareStandby(): Prepared
  /**
   * Called after a start: saves the process id.
   * @param isReplacement - whether the predecessor still listens
   */
  started(running: RunningProcess, launch: Launch, launchId: string, isReplacement: boolean): Promise<void>
  /** Called when the process exits unexpectedly. */
  ended(exit: Exit, aliveMs: number): void
  /** Called when a start or stop fails. */
  failed(error: Error): void
  /** Drain timeout after SIGINT, in milliseconds. */
  drainMs(): number
}

export interface Prepared {
  readonly launchId: string
  readonly outputs: readonly [number, number] | undefined
  /** Closes the log files. Called after the start succeeded or failed. */
  release(): void
}

/** Time for a graceful exit beyond the drain timeout. */
const DRAIN_GRACE_MS = 1_000
/** How long a process may take to exit after SIGKILL, and the remains of a crashed process after SIGINT. */
const KILL_MS = 5_000
/** How long a standby process may take to become ready. */
const STANDBY_MS = 20_000
const RETRY_MS = 5_000
const SWEEP_POLL_MS = 50

/** Runs one process: starts it, restarts it when it exits or its launch changes, and stops it. */
export class ProcessRunner {
  readonly #hooks: RunnerHooks
  readonly #backoff = new RestartBackoff()
  /** Replaced processes that are draining their connections. */
  readonly #draining = new Map<RunningProcess, Promise<void>>()
  #launch: Launch | undefined
  #running: RunningProcess | undefined
  /** Fingerprint of the launch of the running process. */
  #runningFingerprint: string | undefined
  #changed = new AbortController()
  #loop: Promise<void> | undefined
  /** Whether the loop runs. Becomes false in the same turn in which the loop decides to return. */
  #isLooping = false
  #state: ProcessState = 'stopped'
  #mustRestart = false
  #isDetached = false
  #starts = 0
  #lastExit: Exit | undefined
  #problem: Error | undefined

  constructor(hooks: RunnerHooks) {
    this.#hooks = hooks
  }

  get state(): ProcessState {
    return this.#state
  }

  get running(): RunningProcess | undefined {
    return this.#running
  }

  /** Number of restarts. */
  get restarts(): number {
    return Math.max(0, this.#starts - 1)
  }

  get lastExit(): Exit | undefined {
    return this.#lastExit
  }

  /** Upper bound on the duration of `stop()`, in milliseconds. */
  get stopMs(): number {
    // Drain, SIGKILL to the process, and SIGKILL to the rest of its session.
    return this.#drainMs + 3 * KILL_MS
  }

  /** How long a process may take to exit after SIGINT, in milliseconds. */
  get #drainMs(): number {
    return this.#hooks.drainMs() + DRAIN_GRACE_MS
  }

  /** Error of the last failed start or stop; undefined after a success. */
  get problem(): Error | undefined {
    return this.#problem
  }

  /**
   * Takes over a running process of an earlier supervisor.
   * @param launchFingerprint - fingerprint of its launch
   */
  adopt(running: RunningProcess, launchFingerprint: string): void {
    this.#running = running
    this.#runningFingerprint = launchFingerprint
    this.#starts = 1
    this.#state = 'running'
    this.#backoff.started()
  }

  /** Keeps a process with this launch running. Replaces a process that has another launch. */
  run(launch: Launch): void {
    if (this.#launch !== undefined && fingerprint(this.#launch) === fingerprint(launch)) return
    this.#launch = launch
    this.#onChange()
  }

  /** Replaces the running process. If none is running, starts one without a delay. */
  restart(): void {
    this.#mustRestart = this.#running !== undefined
    if (this.#launch !== undefined) this.#onChange()
  }

  /**
   * Stops the process and resolves once its session is empty. Do not call `run` until then.
   * @throws Error when the process does not exit in time; the runner keeps trying
   */
  async stop(): Promise<void> {
    this.#launch = undefined
    this.#onChange()
    const done = new AbortController()
    const ended = Promise.all([this.#loop, ...this.#draining.values()]).then(() => false)
    const isLate = await Promise.race([ended, elapsed(this.stopMs, done.signal)])
    done.abort()
    if (isLate) throw this.#problem ?? new Error('process does not exit')
  }

  /** Kills the process with SIGKILL, without waiting. */
  kill(): void {
    for (const { id } of this.#draining.keys()) killSession(id)
    if (this.#running !== undefined) killSession(this.#running.id)
  }

  /** Stops supervising the process but leaves it running. */
  detach(): void {
    this.#isDetached = true
    this.#onChange()
  }

  #onChange(): void {
    this.#changed.abort()
    this.#changed = new AbortController()
    if (this.#isLooping) return
    this.#isLooping = true
    this.#loop = this.#run()
  }

  async #run(): Promise<void> {
    while (!this.#isDetached) {
      const { signal } = this.#changed
      const launch = this.#launch
      const running = this.#running
      try {
        if (running !== undefined && launch === undefined) {
          await this.#stop(running)
        } else if (launch === undefined) {
          this.#state = 'stopped'
          this.#isLooping = false
          return
        } else if (running === undefined) {
          await this.#start(launch, signal)
        } else if (
          isRunning(running.id) &&
          (this.#mustRestart || fingerprint(launch) !== this.#runningFingerprint)
        ) {
          await this.#replace(running, launch, signal)
        } else {
          await this.#waitForExit(running, signal)
        }
      } catch (error) {
        this.#problem = error as Error
        this.#hooks.failed(error as Error)
        // A failed start waits in #start; a failed stop is retried after this delay.
        if (this.#running !== undefined) await elapsed(RETRY_MS, signal)
      }
    }
  }

  async #start(launch: Launch, signal: AbortSignal): Promise<void> {
    const { waitMs } = this.#backoff
    this.#state = 'waiting'
    if (waitMs > 0 && !(await elapsed(waitMs, signal))) {
      // The change may have fixed the cause of the failures.
      this.#backoff.reset()
      return
    }
    this.#backoff.started()
    const prepared = await this.#hooks.prepare(launch, signal)
    try {
      const running = await startProcess(launch, prepared.launchId, prepared.outputs)
      await this.#onStarted(running, launch, prepared.launchId)
    } finally {
      prepared.release()
    }
  }

  async #onStarted(running: RunningProcess, launch: Launch, launchId: string): Promise<void> {
    const isReplacement = this.#running !== undefined
    this.#running = running
    this.#runningFingerprint = fingerprint(launch)
    this.#mustRestart = false
    this.#starts += 1
    this.#state = 'running'
    this.#problem = undefined
    await this.#hooks.started(running, launch, launchId, isReplacement)
  }

  /** Waits until the process exits or the launch changes. */
  async #waitForExit(running: RunningProcess, signal: AbortSignal): Promise<void> {
    const done = new AbortController()
    const exit = await Promise.race([running.ended, aborted(signal, done.signal)])
    done.abort()
    if (exit === undefined) return
    const aliveMs = performance.now() - running.since
    this.#recordExit(exit)
    this.#state = 'waiting'
    this.#backoff.ended(aliveMs)
    this.#hooks.ended(exit, aliveMs)
    // Processes that remain in its session may hold its port.
    await stopSession(running.id, performance.now() + KILL_MS)
  }

  /**
   * Replaces a running process. If the program supports standby, the new process gets ready first, so that
   * connections are refused only between the close of the old listener and the open of the new one.
   * @throws Error when the new process does not become ready; the running one stays
   */
  async #replace(running: RunningProcess, launch: Launch, signal: AbortSignal): Promise<void> {
    if (!launch.canStandBy) {
      await this.#stop(running)
      return
    }
    const prepared = this.#hooks.prepareStandby()
    try {
      const next = await startStandby(launch, prepared.launchId, prepared.outputs)
      const outcome = await readiness(next, running, signal)
      if (outcome === 'ready') {
        this.#backoff.reset()
        this.#backoff.started()
        // Save before the old process exits: if the supervisor is killed now, the next one adopts the new process.
        await this.#onStarted(next, launch, prepared.launchId)
        this.#drain(running)
        return
      }
      killSession(next.id)
      await within(KILL_MS, next.ended)
      // The next iteration of the loop handles the exit or the change.
      if (outcome === 'crashed') this.#mustRestart = false
      if (outcome === 'late')
        throw new Error('the new process did not become ready; the running process stays')
    } finally {
      prepared.release()
    }
  }

  #drain(running: RunningProcess): void {
    const ending = this.#stopProcess(running)
      .then(
        (exit) => {
          this.#lastExit = exit
        },
        (error: unknown) => {
          this.#hooks.failed(error as Error)
        },
      )
      .finally(() => this.#draining.delete(running))
    this.#draining.set(running, ending)
  }

  async #stop(running: RunningProcess): Promise<void> {
    this.#state = 'stopping'
    this.#recordExit(await this.#stopProcess(running))
    this.#mustRestart = false
    this.#backoff.reset()
  }

  /**
   * Stops a process: SIGINT, and SIGKILL after the drain timeout.
   * @throws Error when the process does not exit
   */
  async #stopProcess(running: RunningProcess): Promise<Exit> {
    const deadline = performance.now() + this.#drainMs
    signalProcess(running.id, 'SIGINT')
    let exit = await within(this.#drainMs, running.ended)
    if (exit === undefined) {
      killSession(running.id)
      exit = await within(KILL_MS, running.ended)
    }
    if (exit === undefined) throw new Error(`process ${running.id.pid} does not exit, even after SIGKILL`)
    // A wrapper script may exit before the proxy that it started, which has the same time to drain.
    await stopSession(running.id, deadline)
    return exit
  }

  #recordExit(exit: Exit): void {
    this.#lastExit = exit
    this.#running = undefined
    this.#runningFingerprint = undefined
  }
}

type Readiness = 'ready' | 'late' | 'crashed' | 'changed'

/** Waits until a standby process is ready, the running process exits, or the launch changes. */
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

/** Stops the processes that remain in a session: SIGINT, and SIGKILL after the deadline. */
async function stopSession(leader: ProcessId, deadline: number): Promise<void> {
  for (const member of sessionOf(leader)) signalProcess(member, 'SIGINT')
  while (sessionOf(leader).length > 0) {
    if (performance.now() > deadline) {
      killSession(leader)
      return
    }
    await sleep(SWEEP_POLL_MS)
  }
}

/** Resolves when `signal` is aborted. `done` removes the listener. */
async function aborted(signal: AbortSignal, done: AbortSignal): Promise<undefined> {
  if (signal.aborted) return undefined
  return new Promise((resolve) => {
    const listener = (): void => {
      resolve(undefined)
    }
    signal.addEventListener('abort', listener, { once: true, signal: done })
  })
}
