import { readFileSync, readdirSync, readlinkSync, statSync } from 'node:fs'

/** Identifies a process uniquely. The kernel reuses a pid, but not together with the same start time and boot id. */
export interface ProcessId {
  readonly pid: number
  /** Start time in clock ticks since boot; field 22 of `/proc/<pid>/stat`, proc(5). */
  readonly startedAt: string
  /** Boot id of the machine; changes with each boot. */
  readonly bootId: string
}

let bootId: string | undefined

/**
 * Returns the boot id of the machine.
 * @throws Error when /proc is missing
 */
export function currentBoot(): string {
  try {
    bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    return bootId
  } catch (cause) {
    throw new Error('/proc is not readable; Linux is required', { cause })
  }
}

/** Returns the identity of the process that has a pid now; undefined if there is none. */
export function identify(pid: number): ProcessId | undefined {
  const stat = readStat(pid)
  return stat && { pid, startedAt: stat.startedAt, bootId: currentBoot() }
}

export function isRunning(id: ProcessId): boolean {
  const now = identify(id.pid)
  return now?.startedAt === id.startedAt && now.bootId === id.bootId
}

/** `sysconf(_SC_CLK_TCK)`: part of the kernel's interface, independent of the actual timer frequency. */
const TICKS_PER_SECOND = 100

/**
 * Returns the age of a process in milliseconds. Uses the uptime of the machine, because the wall clock may have been
 * changed.
 */
export function ageMs({ startedAt }: ProcessId): number {
  const [uptimeS = '0'] = readFileSync('/proc/uptime', 'utf8').split(' ')
  return Math.max(0, (Number(uptimeS) - Number(startedAt) / TICKS_PER_SECOND) * 1_000)
}

/**
 * Sends a signal to a process, unless its pid was reused.
 * @returns whether the process was running
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
 * Lists the processes in the session that a process leads, including the process itself. Processes that created a
 * session of their own are not included. The kernel does not reuse the id of a session that has members.
 */
export function sessionOf(leader: ProcessId): readonly ProcessId[] {
  const now = identify(leader.pid)
  if (leader.bootId !== currentBoot() || (now !== undefined && now.startedAt !== leader.startedAt)) return []
  return (
    [...allProcesses()]
      .filter(({ session }) => session === leader.pid)
      // Members of an earlier session with the same id are older.
      .filter(({ startedAt }) => Number(startedAt) >= Number(leader.startedAt))
      .map(({ pid, startedAt }) => ({ pid, startedAt, bootId: leader.bootId }))
  )
}

/** Kills a process and all members of its session. */
export function killSession(leader: ProcessId): void {
  for (const member of sessionOf(leader)) signalProcess(member, 'SIGKILL')
}

/** Finds the process that was started with a variable in its environment; undefined if there is none. */
export function findByEnvironment(name: string, value: string): ProcessId | undefined {
  return findAllByEnvironment((variables) => variables.get(name) === value)[0]
}

/** Lists session leaders whose environment is accepted. Skips processes of other users. */
export function findAllByEnvironment(
  accept: (variables: ReadonlyMap<string, string>) => boolean,
): readonly ProcessId[] {
  const found: ProcessId[] = []
  for (const { pid, session } of allProcesses()) {
    // Child processes inherit the environment but do not lead a session.
    if (session !== pid) continue
    try {
      const id = identify(pid)
      if (id !== undefined && accept(environmentOf(pid))) found.push(id)
    } catch {
      // The process has exited, or belongs to another user.
    }
  }
  return found
}

/** Whether a process runs as the same user and in the same network namespace as the supervisor. */
export function sharesUserAndNetwork({ pid }: ProcessId): boolean {
  try {
    // In another network namespace, the same loopback addresses lead to other programs.
    const isSameNetwork = readlinkSync(`/proc/${pid}/ns/net`) === readlinkSync('/proc/self/ns/net')
    return isSameNetwork && statSync(`/proc/${pid}`).uid === process.geteuid?.()
  } catch {
    return false
  }
}

/**
 * Reads the environment with which a process was started.
 * @throws the system's error
 */
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

/** Reads `/proc/<pid>/stat`, proc(5); undefined if the process does not exist or is a zombie. */
function readStat(pid: number): Stat | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The program name is in parentheses and may contain any character.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, session, startedAt] = [fields[0], fields[3], fields[19]]
  if (startedAt === undefined || state === 'Z' || state === 'X') return undefined
  return { pid, session: Number(session), startedAt }
}
