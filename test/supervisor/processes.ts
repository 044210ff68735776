// Facts about processes from /proc, read independently of the code under test.
import { readFileSync } from 'node:fs'

export interface ProcessFacts {
  readonly state: string
  readonly session: number
}

/** Returns undefined when there is no such process. */
export function parseProcess(pid: number): ProcessFacts | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const [, state = ''] = /^State:\s+(\S)/m.exec(status) ?? []
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const session = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3])
    return { state, session }
  } catch {
    return undefined
  }
}

export function isAlive(pid: number): boolean {
  const facts = parseProcess(pid)
  return facts !== undefined && facts.state !== 'Z'
}

/** The environment that the process was started with. */
export function environmentOf(pid: number): Readonly<Record<string, string>> {
  const entries = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').filter(Boolean)
  return Object.fromEntries(
    entries.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]),
  )
}

export function commandLineOf(pid: number): readonly string[] {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1)
}
