import { freePorts } from '../fixtures/free-ports.js'
// A real Consul agent for tests: one server on the loopback, in a directory of its own, gone when the test ends.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitBound } from '../fixtures/bounds.js'

/** How long an agent may take to elect its leader and to make a CA. */
const READY_MS = waitBound(30_000)

const binary = process.env['CONSUL_BIN'] ?? 'consul'

/** Undefined when there is no binary to run. */
export const consulVersion: string | undefined = readVersion()

/** The `skip` option of a suite that needs the binary: REQUIRE_CONSUL=1 turns a skip into a failure. */
export const skip: string | false =
  consulVersion === undefined && process.env['REQUIRE_CONSUL'] !== '1' ? 'no consul binary' : false

export interface RealAgentOptions {
  acl?: { defaultPolicy: 'allow' | 'deny'; managementToken: string }
  /** What all of it is bound to, so that several agents are as several machines. @default 127.0.0.1 */
  host?: string
  /** Ports that others must know before it is started. @default free ones, and no gossip over the WAN */
  ports?: Partial<AgentPorts>
  /** Whether it answers DNS as well: see `dnsAddress`. */
  dns?: boolean
  /** Merged over the configuration. */
  extraConfig?: Record<string, unknown>
  /** Further arguments of `consul agent`. */
  args?: string[]
}

export interface AgentPorts {
  http: number
  server: number
  serf: number
  wan: number
  /** -1 for none */
  dns: number
}

export interface RealAgent {
  /** `127.0.0.1:port` */
  address: string
  /** `127.0.0.1:port`, over UDP and TCP; without the option `dns` nobody answers there. */
  dnsAddress: string
  url: string
  http(path: string, init?: RequestInit): Promise<Response>
  /** Runs the CLI against this agent and returns what it prints; rejects when it fails. */
  consul(args: string[]): Promise<string>
  /** SIGKILL, as a crash. */
  kill(): Promise<void>
  /** SIGSTOP: it is there, and answers nothing until `thaw`. */
  freeze(): void
  thaw(): void
  /** SIGTERM, and waits for the end. */
  stop(): Promise<void>
  /** Starts again on the same ports with the same data. */
  restart(): Promise<void>
}

export async function startConsul(t: TestContext, options: RealAgentOptions = {}): Promise<RealAgent> {
  if (consulVersion === undefined)
    throw new Error(`REQUIRE_CONSUL is set, and there is no binary '${binary}'`)
  const directory = await mkdtemp(join(tmpdir(), 'consul-connect-'))
  const { host = '127.0.0.1' } = options
  const [http = 0, server = 0, serf = 0, dns = 0] = await freePorts(4, host)
  const ports: AgentPorts = {
    http,
    server,
    serf,
    wan: -1,
    dns: options.dns === true ? dns : -1,
    ...options.ports,
  }
  const address = `${host}:${ports.http}`
  const url = `http://${address}`
  const config = join(directory, 'config.json')
  await writeFile(config, JSON.stringify({ ...baseConfig(directory, ports, options) }))
  let child: ChildProcess | undefined

  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child?.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit')
      child.kill(signal)
      await exited
    }
  }
  const start = async (): Promise<void> => {
    child = await run(
      ['agent', '-config-file', config, ...(options.args ?? [])],
      url,
      options.acl?.managementToken,
    )
  }
  t.after(async () => {
    await end('SIGKILL')
    await rm(directory, { recursive: true, force: true })
  })
  await start()

  return {
    address,
    dnsAddress: `${host}:${ports.dns}`,
    url,
    http: (path, init) => fetch(url + path, init),
    consul: (args) => cli(args, address),
    kill: () => end('SIGKILL'),
    freeze: () => child?.kill('SIGSTOP'),
    thaw: () => child?.kill('SIGCONT'),
    stop: () => end('SIGTERM'),
    restart: async () => {
      await end('SIGTERM')
      await start()
    },
  }
}

function baseConfig(
  directory: string,
  ports: AgentPorts,
  { acl, extraConfig, host = '127.0.0.1' }: RealAgentOptions,
): Record<string, unknown> {
  const [major = 0, minor = 0] = (consulVersion ?? '').split('.').map(Number)
  // 1.11 gave the token its present name.
  const tokenName = major === 1 && minor < 11 ? 'master' : 'initial_management'
  const tokens = { [tokenName]: acl?.managementToken, agent: acl?.managementToken }
  return {
    server: true,
    bootstrap_expect: 1,
    node_name: 'embedded',
    data_dir: join(directory, 'data'),
    bind_addr: host,
    client_addr: host,
    connect: { enabled: true },
    // Otherwise a check's words reach the catalog minutes after its status.
    check_update_interval: '0s',
    disable_update_check: true,
    log_level: 'warn',
    performance: { raft_multiplier: 1 },
    ports: {
      http: ports.http,
      server: ports.server,
      serf_lan: ports.serf,
      serf_wan: ports.wan,
      dns: ports.dns,
      grpc: -1,
    },
    ...(acl ? { acl: { enabled: true, default_policy: acl.defaultPolicy, tokens } } : {}),
    ...extraConfig,
  }
}

/** Starts the agent and waits until it has a leader, its own node in the catalog, roots and tokens. */
async function run(args: string[], url: string, token: string | undefined): Promise<ChildProcess> {
  const child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  const collect = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-4000)
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)
  const deadline = Date.now() + READY_MS
  while (!(await isReady(url, token))) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`consul ended at once:\n${output}`)
    if (Date.now() > deadline) {
      child.kill('SIGKILL')
      throw new Error(`consul was not ready after ${READY_MS} ms:\n${output}`)
    }
    await sleep(50)
  }
  return child
}

async function isReady(url: string, token: string | undefined): Promise<boolean> {
  const get = async (path: string): Promise<string> => {
    const response = await fetch(url + path, {
      signal: AbortSignal.timeout(waitBound(5_000)),
      headers: token === undefined ? {} : { 'X-Consul-Token': token },
    })
    return await response.text()
  }
  try {
    const roots = await get('/v1/connect/ca/roots')
    return (
      (await get('/v1/status/leader')).length > 4 &&
      // Without Connect it has no roots, and is ready all the same.
      (/"ActiveRootID":\s*"\w/.test(roots) || roots.startsWith('Connect must be enabled')) &&
      (await get('/v1/catalog/nodes')).includes('"Node"') &&
      // A new leader runs the ACLs of old for a moment.
      (token === undefined || (await get('/v1/acl/tokens')).includes('AccessorID'))
    )
  } catch {
    return false
  }
}

async function cli(args: string[], address: string): Promise<string> {
  const child = spawn(binary, args, { env: { ...process.env, CONSUL_HTTP_ADDR: address }, stdio: 'pipe' })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  await once(child, 'close')
  if (child.exitCode !== 0) throw new Error(`consul ${args.join(' ')} failed:\n${output}`)
  return output
}

function readVersion(): string | undefined {
  try {
    return /v(\d+\.\d+\.\d+)/.exec(
      execFileSync(binary, ['version'], { encoding: 'utf8', stdio: 'pipe' }),
    )?.[1]
  } catch {
    return undefined
  }
}
