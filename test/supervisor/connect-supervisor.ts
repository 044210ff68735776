// Runs connect-supervisor as a separate process, with its configuration and data directories.
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

/** A row of `status -json`. */
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
  /** Variables besides the address of the agent. */
  readonly env?: Readonly<Record<string, string>>
  readonly flags?: readonly string[]
  /** Configuration files by name. Objects are written as JSON. */
  readonly files: Readonly<Record<string, string | object>>
}

/** A configuration directory, a data directory, and the supervisors that a test starts on them. */
export class Host {
  readonly #setup: Setup
  readonly configuration: string
  readonly dataDir: string
  /** Every started supervisor, in order. */
  readonly supervisors: RunningProgram[] = []

  constructor(t: TestContext, setup: Setup) {
    this.#setup = setup
    // First, since hooks run in order: a running supervisor would restart the proxies that are killed here.
    t.after(async () => {
      for (const supervisor of this.supervisors) await supervisor.stop('SIGKILL')
      for (const pid of this.processes()) kill(pid)
      await until('all processes have ended', () => this.processes().length === 0)
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

  /** Starts a supervisor, and waits until it has logged its start. */
  async start(flags: readonly string[] = []): Promise<RunningProgram> {
    const supervisor = this.spawn(flags)
    await supervisor.logged('supervisor started')
    return supervisor
  }

  /** @param within - a command that runs the command line that follows, such as `['bash', '-c', 'exec "$@"', 'bash']` */
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

  /** Runs a command of the supervisor and returns its output. Rejects when the command fails. */
  async command(...args: readonly string[]): Promise<string> {
    const { code, out, error } = await this.run(...args)
    if (code !== 0) throw new Error(`${args.join(' ')}: ${code} ${out}${error}`)
    return out
  }

  /** Runs a command of the supervisor, which may fail. */
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

  /** The rows of the status by service ID. */
  async rows(): Promise<Readonly<Record<string, ProxyRow>>> {
    const { proxies } = await this.status()
    return Object.fromEntries(proxies.map((row) => [row.service, row]))
  }

  /** Waits until `accept` returns true for the row of a service. */
  async row(service: string, accept: (row: ProxyRow) => boolean, timeoutMs = WAIT_MS): Promise<ProxyRow> {
    return until(
      `the expected state of the proxy of ${service}`,
      async () => {
        const row = (await this.rows())[service]
        if (row !== undefined && accept(row)) return row
        throw new Error(JSON.stringify(row))
      },
      timeoutMs,
    )
  }

  /** Waits until the proxy of a service runs. */
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

  /** What the proxies and supervisors have logged, for the error of a test. */
  logs(): string {
    const folder = join(this.dataDir, 'proxy', 'logs')
    const ofProxies = readdirSync(folder).map(
      (name) => `${name}:\n${readFileSync(join(folder, name), 'utf8')}`,
    )
    const ofSupervisors = this.supervisors.map(
      ({ pid, lines, text }) =>
        `supervisor ${pid}:\n${text}${lines.map((line) => JSON.stringify(line)).join('\n')}`,
    )
    return [...ofProxies, ...ofSupervisors].join('\n')
  }

  /** The IDs of all proxy processes: the supervisor starts them in its data directory. */
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

/** Settings for tests: a range of free ports, and permission to start proxies as root. */
export async function settings(): Promise<object> {
  return settingsFor(await freePorts(10))
}

/** Settings with the port range from the first to the last of these ports. */
export function settingsFor(range: readonly number[]): object {
  return {
    bind_addr: '127.0.0.1',
    ports: { proxy_min_port: range[0], proxy_max_port: range.at(-1) },
    connect: { proxy: { allow_managed_root: true } },
  }
}

/** The definition of a service with a managed proxy. */
export function managed(name: string, proxy: object = {}, service: object = {}): object {
  return { service: { name, port: 6379, connect: { proxy }, ...service } }
}

/** A proxy that only sleeps. */
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

/** Starts an embedded agent, and creates a host that uses it. */
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

interface RunningIdle {
  readonly agent: TestAgent
  readonly host: Host
  readonly supervisor: RunningProgram
  readonly row: ProxyRow & { readonly pid: number }
  readonly pid: number
  readonly port: number
}

/** Starts a host with the service `a` and a proxy that sleeps, and waits until the proxy runs. */
export async function startIdle(t: TestContext, flags: readonly string[] = []): Promise<RunningIdle> {
  const { agent, host } = await startHost(t, { 'a.json': managed('a', IDLE) }, { flags })
  const supervisor = await host.start()
  const row = await host.running('a')
  return { agent, host, supervisor, row, pid: row.pid, port: row.port }
}

/** The registered services of an agent by ID. */
export async function servicesOf(agent: TestAgent): Promise<Record<string, Record<string, unknown>>> {
  const response = await fetch(`${agent.url}/v1/agent/services`)
  return (await response.json()) as Record<string, Record<string, unknown>>
}
