import { readFileSync, readdirSync, readlinkSync, statSync } from 'node:fs'

/** A process that cannot be mistaken for another: a number is given out again, a moment of a run of the machine is not. */
export interface ProcessId {
  readonly pid: number
  /** When it was started, in ticks since the machine was; field 22 of `/proc/<pid>/stat`, proc(5). */
  readonly startedAt: string
  /** The run of the machine. */
  readonly bootId: string
}

let bootId: string | undefined

/** @throws Error where there is no /proc */
export function currentBoot(): string {
  try {
    bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    return bootId
  } catch (cause) {
    throw new Error('expected Linux, with /proc: processes cannot be told apart without it', { cause })
  }
}

/** The process that has this number now; undefined when there is none. */
export function identify(pid: number): ProcessId | undefined {
  const stat = readStat(pid)
  return stat && { pid, startedAt: stat.startedAt, bootId: currentBoot() }
}

export function isRunning(id: ProcessId): boolean {
  const now = identify(id.pid)
  return now?.startedAt === id.startedAt && now.bootId === id.bootId
}

/** `sysconf(_SC_CLK_TCK)`: fixed in the interface of the kernel, whatever its own clock does. */
const TICKS_PER_SECOND = 100

/** For how long it has been running, in milliseconds, by the machine's own clock: that of the day may have been set. */
export function ageMs({ startedAt }: ProcessId): number {
  const [uptimeS = '0'] = readFileSync('/proc/uptime', 'utf8').split(' ')
  return Math.max(0, (Number(uptimeS) - Number(startedAt) / TICKS_PER_SECOND) * 1_000)
}

/**
 * Sends a signal to this very process.
 * @returns whether it was there
 */
export function signalProcess(id: ProcessId, signal: NodeJS.Signals): boolean {
  if (!isRunning(id)) return false
  try {
    process.kill(id.pid, signal)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw error
  }
}

/**
 * What lives in the session of a process, that itself included: what it has started, and has not sent away. The number of
 * a session is not given out again as long as anybody is in it.
 */
export function sessionOf(leader: ProcessId): readonly ProcessId[] {
  const now = identify(leader.pid)
  if (leader.bootId !== currentBoot() || (now !== undefined && now.startedAt !== leader.startedAt)) return []
  return (
    [...allProcesses()]
      .filter(({ session }) => session === leader.pid)
      // Those of one that had this number before it are older.
      .filter(({ startedAt }) => Number(startedAt) >= Number(leader.startedAt))
      .map(({ pid, startedAt }) => ({ pid, startedAt, bootId: leader.bootId }))
  )
}

/** Ends it and all that it has started in its session. */
export function killSession(leader: ProcessId): void {
  for (const member of sessionOf(leader)) signalProcess(member, 'SIGKILL')
}

/** The process that was started with this variable in its environment; undefined when there is none. */
export function findByEnvironment(name: string, value: string): ProcessId | undefined {
  return findAllByEnvironment((variables) => variables.get(name) === value)[0]
}

/** The leaders of sessions whose environment is accepted. Processes of other users are left out. */
export function findAllByEnvironment(
  accept: (variables: ReadonlyMap<string, string>) => boolean,
): readonly ProcessId[] {
  const found: ProcessId[] = []
  for (const { pid, session } of allProcesses()) {
    // What a proxy starts has its environment too, but not a session of its own.
    if (session !== pid) continue
    try {
      const id = identify(pid)
      if (id !== undefined && accept(environmentOf(pid))) found.push(id)
    } catch {
      // The process has ended, or belongs to another user.
    }
  }
  return found
}

/** Whether a process runs as our user, and reaches the same addresses as we do. */
export function isNeighbor({ pid }: ProcessId): boolean {
  try {
    // A container may have the same loopback addresses with other programs behind them.
    const isSameNetwork = readlinkSync(`/proc/${pid}/ns/net`) === readlinkSync('/proc/self/ns/net')
    return isSameNetwork && statSync(`/proc/${pid}`).uid === process.geteuid?.()
  } catch {
    return false
  }
}

/** @throws the system's error */
function environmentOf(pid: number): ReadonlyMap<string, string> {
  const entries = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
  return new Map(
    entries
      .filter((entry) => entry.includes('='))
      .map((entry) => {
        const end = entry.indexOf('=')
        return [entry.slice(0, end), entry.slice(end + 1)]
      }),
  )
}

interface Stat {
  readonly pid: number
  readonly session: number
  readonly startedAt: string
}

function* allProcesses(): Generator<Stat> {
  for (const entry of readdirSync('/proc')) {
    const stat = /^\d+$/.test(entry) ? readStat(Number(entry)) : undefined
    if (stat !== undefined) yield stat
  }
}

/** `/proc/<pid>/stat`, proc(5); undefined when there is none, or it has ended and waits to be reaped. */
function readStat(pid: number): Stat | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The name of the program is in parentheses, and may have any character in it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, session, startedAt] = [fields[0], fields[3], fields[19]]
  if (startedAt === undefined || state === 'Z' || state === 'X') return undefined
  return { pid, session: Number(session), startedAt }
}
