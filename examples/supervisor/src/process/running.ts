import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { type Launch, LAUNCH_VARIABLE, STANDBY_VARIABLE } from './launch.js'
import { type ProcessId, ageMs, currentBoot, identify, isRunning } from './identity.js'

/** How a process ended. */
export interface Exit {
  /** Null after a signal, and for a process that is not our child, whose exit code is unknown. */
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Formats an exit: `exit code 1`, `SIGKILL`, or `unknown`. */
export function describeExit({ code, signal }: Exit): string {
  return signal ?? (code === null ? 'unknown' : `exit code ${code}`)
}

/** A process that was started or adopted. It may have exited. */
export interface RunningProcess {
  readonly id: ProcessId
  /** Start time on the scale of `performance.now()`. */
  readonly since: number
  /** Resolves when the process exits. Never rejects. */
  readonly ended: Promise<Exit>
}

/** A process that waits to take over the listening addresses of its predecessor. */
export interface StandbyProcess extends RunningProcess {
  /**
   * Resolves with true when the process only waits for its addresses; with false when it exits before. Never rejects.
   */
  readonly ready: Promise<boolean>
}

/** File descriptors for standard output and standard error; undefined to discard both. */
export type Outputs = readonly [number, number] | undefined

/**
 * Starts a process in a session of its own, so that it outlives the supervisor.
 * @throws the system's error
 */
export async function startProcess(
  launch: Launch,
  launchId: string,
  outputs: Outputs,
): Promise<RunningProcess> {
  return run(spawnDetached(launch, { [LAUNCH_VARIABLE]: launchId }, outputs, 'ignore'))
}

const STANDBY_DESCRIPTOR = 3

/**
 * Starts a process that gets ready while its predecessor still listens.
 * @throws the system's error
 */
export async function startStandby(
  launch: Launch,
  launchId: string,
  outputs: Outputs,
): Promise<StandbyProcess> {
  const env = { [LAUNCH_VARIABLE]: launchId, [STANDBY_VARIABLE]: String(STANDBY_DESCRIPTOR) }
  const child = spawnDetached(launch, env, outputs, 'pipe')
  const channel = child.stdio[STANDBY_DESCRIPTOR] as Readable | undefined
  const ready = new Promise<boolean>((resolve) => {
    channel?.once('data', () => {
      resolve(true)
      channel.destroy()
    })
    channel?.once('error', () => {
      resolve(false)
    })
    channel?.once('close', () => {
      resolve(false)
    })
  })
  return { ...(await run(child)), ready }
}

function spawnDetached(
  { path, args, logArgs, directory, env }: Launch,
  ownEnv: Readonly<Record<string, string>>,
  outputs: Outputs,
  channel: 'pipe' | 'ignore',
): ChildProcess {
  const streams: StdioOptions = outputs === undefined ? ['ignore', 'ignore'] : [...outputs]
  return spawn(path, [...args, ...logArgs], {
    cwd: directory,
    env: { ...env, ...ownEnv },
    detached: true,
    stdio: ['ignore', ...streams, channel],
  })
}

async function run(child: ChildProcess): Promise<RunningProcess> {
  const ended = new Promise<Exit>((resolve) => {
    child.once('exit', (code, signal) => {
      resolve({ code, signal })
    })
  })
  await once(child, 'spawn')
  child.unref()
  const { pid = 0 } = child
  // The process may have exited already. An impossible start time then matches no process.
  const id = identify(pid) ?? { pid, startedAt: '0', bootId: currentBoot() }
  return { id, since: performance.now(), ended }
}

const POLL_MS = 1_000

/** Takes over a process that is not our child. Polls for its exit, because the kernel notifies only the parent. */
export function adoptProcess(id: ProcessId): RunningProcess {
  const ended = new Promise<Exit>((resolve) => {
    const timer = setInterval(() => {
      if (isRunning(id)) return
      clearInterval(timer)
      resolve({ code: null, signal: null })
    }, POLL_MS)
    timer.unref()
  })
  return { id, since: performance.now() - ageMs(id), ended }
}
