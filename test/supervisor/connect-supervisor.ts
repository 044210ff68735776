// The supervisor as a process of its own, started as a user would, and everything that it leaves behind.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import { control } from '../../examples/supervisor/src/operator/control.js'
import { parseProcess } from './processes.js'
import { TestAgent, type TestAgentOptions } from '../../src/testing/index.js'
import { freePorts } from '../fixtures/free-ports.js'
import { WAIT_MS, until } from '../fixtures/mesh.js'
import { RunningProxy as RunningProgram, temporaryFolder } from '../proxy/connect-proxy.js'

const folder = join(import.meta.dirname, '..', '..', 'examples', 'supervisor')
const bin = join(folder, 'bin.js')

/** As an operator sees it. */
export interface ProxyRow {
  readonly service: string
  readonly proxy: string
  readonly port: number
  readonly pid?: number
  readonly state: string
  readonly restarts: number
  readonly uptimeS?: number
  readonly lastExit?: string
  readonly problem?: string
}

export interface Setup {
  /** `host:port` */
  readonly agent: string
  /** Besides the agent's address. */
  readonly env?: Readonly<Record<string, string>>
  readonly flags?: readonly string[]
  /** Files by name; those that end in `.json` may be objects. */
  readonly files: Readonly<Record<string, string | object>>
}

/** A folder of definitions, a data dir, and supervisors one after the other. */
export class Host {
  readonly #setup: Setup
  readonly configuration: string
  readonly dataDir: string
  /** In the order in which they were started. */
  readonly supervisors: RunningProgram[] = []

  constructor(t: TestContext, setup: Setup) {
    this.#setup = setup
    // Before the folder goes, and so that nobody starts anything meanwhile.
    t.after(async () => {
      for (const supervisor of this.supervisors) await supervisor.stop('SIGKILL')
      // Whoever is here works for this host and nobody else.
      for (const pid of this.processes()) kill(pid)
      await until('all are gone', () => this.processes().length === 0)
    })
    const root = temporaryFolder(t)
    this.configuration = join(root, 'conf')
    this.dataDir = join(root, 'data')
    mkdirSync(this.configuration)
    for (const [name, content] of Object.entries(setup.files)) this.write(name, content)
  }

  write(name: string, content: string | object): void {
    writeFileSync(
      join(this.configuration, name),
      typeof content === 'string' ? content : JSON.stringify(content),
    )
  }

  /** Starts a supervisor and waits until it runs. */
  async start(flags: readonly string[] = []): Promise<RunningProgram> {
    const supervisor = this.spawn(flags)
    await supervisor.logged('supervisor started')
    return supervisor
  }

  /** @param within a command that runs it, with what it is to run behind */
  spawn(flags: readonly string[] = [], within: readonly string[] = []): RunningProgram {
    if (!existsSync(join(folder, 'dist', 'main.js')))
      throw new Error('the supervisor is not built: npm run build')
    const args = ['-config-dir', this.configuration, '-data-dir', this.dataDir, '-log-json']
    const all = [...within, process.execPath, bin, ...args, ...(this.#setup.flags ?? []), ...flags]
    const child = spawn(all[0]!, all.slice(1), {
      env: this.#environment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const supervisor = new RunningProgram(child)
    this.supervisors.push(supervisor)
    return supervisor
  }

  /** One of the commands; rejects when it fails, with what it said. */
  async command(...args: readonly string[]): Promise<string> {
    const { code, out, error } = await this.run(...args)
    if (code !== 0) throw new Error(`${args.join(' ')}: ${code} ${out}${error}`)
    return out
  }

  async run(...args: readonly string[]): Promise<{ code: number | null; out: string; error: string }> {
    const child = spawn(process.execPath, [bin, ...args, '-data-dir', this.dataDir], {
      env: this.#environment(),
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: WAIT_MS,
    })
    const [out, error] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
    return { code: child.exitCode, out, error }
  }

  async status(): Promise<{
    readonly agent: string
    readonly passes: number
    readonly proxies: readonly ProxyRow[]
  }> {
    const answer = await control(join(this.dataDir, 'proxy', 'control.sock'), 'GET', '/status')
    return answer as Awaited<ReturnType<Host['status']>>
  }

  /** What the table shows, by the service's id. */
  async rows(): Promise<Readonly<Record<string, ProxyRow>>> {
    const { proxies } = await this.status()
    return Object.fromEntries(proxies.map((row) => [row.service, row]))
  }

  /** Waits until a proxy is as it should be. */
  async row(service: string, accept: (row: ProxyRow) => boolean, timeoutMs = WAIT_MS): Promise<ProxyRow> {
    return until(
      `the proxy of ${service} is as wanted`,
      async () => {
        const row = (await this.rows())[service]
        if (row !== undefined && accept(row)) return row
        throw new Error(JSON.stringify(row))
      },
      timeoutMs,
    )
  }

  running(service: string): Promise<ProxyRow & { readonly pid: number }> {
    return this.row(service, ({ state, pid }) => state === 'running' && pid !== undefined) as Promise<
      ProxyRow & { readonly pid: number }
    >
  }

  snapshot(): {
    readonly Proxies: Readonly<Record<string, { readonly Config: Readonly<Record<string, unknown>> }>>
  } {
    return JSON.parse(readFileSync(join(this.dataDir, 'proxy', 'snapshot.json'), 'utf8')) as ReturnType<
      Host['snapshot']
    >
  }

  /** The processes that were started here: their working directory is the data dir. */
  processes(): readonly number[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .filter((pid) => parseProcess(pid)?.state !== 'Z' && workingDirectory(pid) === this.dataDir)
  }

  #environment(): Record<string, string> {
    const { PATH = '' } = process.env
    return { PATH, CONSUL_HTTP_ADDR: this.#setup.agent, ...this.#setup.env }
  }
}

/** Agent-level settings for tests: a range of ports that nobody else uses, and the right to start something as root. */
export async function settings(ports = 10): Promise<object> {
  const range = await freePorts(ports)
  return {
    bind_addr: '127.0.0.1',
    ports: { proxy_min_port: range[0], proxy_max_port: range.at(-1) },
    connect: { proxy: { allow_managed_root: true } },
  }
}

/** A definition with a managed proxy. */
export function managed(name: string, proxy: object = {}, others: object = {}): object {
  return { service: { name, port: 6379, connect: { proxy }, ...others } }
}

/** A proxy that does nothing, for a long time. */
export const IDLE: object = { command: ['sleep', '1000'] }

export function kill(pid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function workingDirectory(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return undefined
  }
}

/** An embedded agent, and a host beside it. */
export async function startHost(
  t: TestContext,
  files: Setup['files'],
  setup: Partial<Setup> = {},
  options: TestAgentOptions = {},
): Promise<{ agent: TestAgent; host: Host }> {
  const agent = await TestAgent.start(options)
  t.after(() => agent.close())
  const all = { 'agent.json': await settings(), ...files }
  return { agent, host: new Host(t, { agent: agent.address, files: all, ...setup }) }
}

/** What an agent has registered, by its id. */
export async function servicesOf(agent: TestAgent): Promise<Record<string, Record<string, unknown>>> {
  const response = await fetch(`${agent.url}/v1/agent/services`)
  return (await response.json()) as Record<string, Record<string, unknown>>
}
