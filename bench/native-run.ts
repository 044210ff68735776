// Runs the programs of the native benchmarks: a server, and a client that sends requests to it.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Kind, Load, Report } from './native-kinds.js'

/** A running server, with its proxies. */
export interface Server {
  readonly port: number
  /** The processor time of the server and its proxies, in seconds. */
  readonly cpuSeconds: () => number
}

export interface Measured {
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
  readonly cpuMs: number
}

/** The command line of a program of this folder, with the compiled library. */
export function script(name: string, ...args: string[]): string[] {
  const imports = ['--import', 'tsx', '--import', join(import.meta.dirname, 'published.ts')]
  return [process.execPath, ...imports, join(import.meta.dirname, name), ...args]
}

/** Runs a client, and adds up the processor time of all programs. */
export async function measure(kind: Kind, address: string, server: Server, load: Load): Promise<Measured> {
  const [command = '', ...args] = script(
    'native-client.ts',
    kind,
    address,
    String(server.port),
    JSON.stringify(load),
  )
  const client = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let before = NaN
  for await (const line of createInterface(client.stdout)) {
    if (line === 'begin') {
      before = server.cpuSeconds()
      continue
    }
    const { count, seconds, p50, p99, cpuMs } = JSON.parse(line) as Report
    const serverMs = (server.cpuSeconds() - before) * 1_000
    return { perSecond: count / seconds, p50, p99, cpuMs: (cpuMs + serverMs) / count }
  }
  throw new Error(`the client of ${kind} ended without a report`)
}
