import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { type Launch, LAUNCH_VARIABLE, STANDBY_VARIABLE } from './launch.js'
import { type ProcessId, ageMs, currentBoot, identify, isRunning } from './identity.js'

/** How a process ended. */
export interface Exit {
  /** Null for one that was ended by a signal, and for one that was not our child. */
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Such as `exit code 1` or `SIGKILL`. */
export function describeExit({ code, signal }: Exit): string {
  return signal ?? (code === null ? 'unknown' : `exit code ${code}`)
}

/** A process that lives, or has ended. */
export interface RunningProcess {
  readonly id: ProcessId
  /** When it was started, by the clock that only goes forward. */
  readonly since: number
  /** Never rejects. */
  readonly ended: Promise<Exit>
}

/** A process that waits for the addresses of its predecessor. */
export interface StandbyProcess extends RunningProcess {
  /** Whether the process has everything but the addresses; false when it ends before that. Never rejects. */
  readonly ready: Promise<boolean>
}

/** Descriptors for the standard output and the standard error; undefined for none. */
export type Outputs = readonly [number, number] | undefined

/**
 * Starts a daemon: in a session of its own, so that it outlives whoever started it.
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
 * The same, while the predecessor still runs.
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
  // One that has ended by now is nobody: no process has been started at this moment.
  const id = identify(pid) ?? { pid, startedAt: '0', bootId: currentBoot() }
  return { id, since: performance.now(), ended }
}

const POLL_MS = 1_000

/** Looks after a process that somebody else has started, and that therefore tells nobody when it ends. */
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
