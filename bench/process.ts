import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { TestContext } from 'node:test'

const TICKS_PER_SECOND = 100
const PAGE_BYTES = 4_096
const READY_MS = 60_000

export interface Program {
  readonly pid: number
  /** The end of its output. */
  output(): string
  /** Processor time since the start, including child processes, user and system, in seconds. */
  cpuSeconds(): number
  /** Resident memory, including child processes. */
  rssBytes(): number
}

/** Starts a program until the end of the scope. Waits until its output contains `ready`. */
export async function startProgram(
  scope: TestContext,
  [command = '', ...args]: readonly string[],
  { ready, env = {} }: { readonly ready?: string; readonly env?: Record<string, string> },
): Promise<Program> {
  // 10,000 connections through a proxy are 20,000 descriptors.
  const child = spawn('bash', ['-c', 'ulimit -n $(ulimit -Hn); exec "$@"', 'bash', command, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  scope.after(() => end(child))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new Error(`${command} is not ready:\n${output}`))
    }, READY_MS)
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-16_000)
      if (ready === undefined || !output.includes(ready)) return
      clearTimeout(timer)
      resolve()
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    child.once('exit', () => {
      reject(new Error(`${command} ended:\n${output}`))
    })
    if (ready !== undefined) return
    clearTimeout(timer)
    child.once('spawn', resolve)
  })
  const pid = child.pid ?? 0
  const family = (): number[] => [pid, ...childrenOf(pid)]
  return {
    pid,
    output: () => output,
    cpuSeconds: () => family().reduce((sum, each) => sum + cpuSeconds(each), 0),
    rssBytes: () => family().reduce((sum, each) => sum + rssBytes(each), 0),
  }
}

/** The maximum number of descriptors of a process on this machine. */
export function descriptorLimit(): number {
  return Number(execFileSync('bash', ['-c', 'ulimit -Hn'], { encoding: 'utf8' }))
}

/** Runs a command, and returns its output. */
export async function run([command = '', ...args]: readonly string[]): Promise<string> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  await once(child, 'close')
  if (child.exitCode !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${output}`)
  return output
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  // SIGTERM first: nginx then ends its workers, which would otherwise keep the pipes open.
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), 5_000)
  await exited
  clearTimeout(timer)
}

function childrenOf(pid: number): number[] {
  const list = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return list === '' ? [] : list.split(' ').map(Number)
}

/** See proc(5): the fields follow the name, which may contain spaces. */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}

export function rssBytes(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * PAGE_BYTES
}
