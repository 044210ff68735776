// A real Consul agent: one server on loopback with a temporary data directory, which ends with the test.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitBound } from '../fixtures/bounds.js'
import { freePorts } from '../fixtures/free-ports.js'
import { stopChild } from './child-process.js'

/** The bound for the election of a leader and the creation of the CA. */
const READY_MS = waitBound(30_000)

const binary = process.env['CONSUL_BIN'] ?? 'consul'

/** The version of the binary; undefined without a binary. */
export const consulVersion: string | undefined = readVersion()

/** Whether the binary is of a version, such as `1.11`, or of a later one. */
export function isAtLeast(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const [ownMajor = 0, ownMinor = 0] = (consulVersion ?? '').split('.').map(Number)
  return ownMajor > major || (ownMajor === major && ownMinor >= minor)
}

/** The `skip` option of tests that need the binary. With REQUIRE_CONSUL=1 they fail instead. */
export const skip: string | false =
  consulVersion === undefined && process.env['REQUIRE_CONSUL'] !== '1' ? 'no consul binary' : false

export interface RealAgentOptions {
  acl?: { defaultPolicy: 'allow' | 'deny'; managementToken: string }
  /** The address of all ports, so that several agents behave like several machines. @default 127.0.0.1 */
  host?: string
  /** Ports that other agents must know before the start. @default free ports, without gossip over the WAN */
  ports?: Partial<AgentPorts>
  /** Enables DNS at `dnsAddress`. */
  dns?: boolean
  /** Enables gRPC at `grpcAddress`, from which Envoy gets its configuration. */
  grpc?: boolean
  /** Overrides keys of the configuration. */
  extraConfig?: Record<string, unknown>
  /** Further arguments of `consul agent`. */
  args?: string[]
}

export interface AgentPorts {
  http: number
  server: number
  serf: number
  wan: number
  /** -1 disables DNS. */
  dns: number
  /** -1 disables gRPC. */
  grpc: number
}

export interface RealAgent {
  /** `127.0.0.1:port` */
  address: string
  /** `127.0.0.1:port`, over UDP and TCP. Requires the option `dns`. */
  dnsAddress: string
  /** `127.0.0.1:port`. Requires the option `grpc`. */
  grpcAddress: string
  url: string
  http(path: string, init?: RequestInit): Promise<Response>
  /** Runs the CLI with this agent. Returns its output; rejects if it fails. */
  consul(args: string[]): Promise<string>
  /** Kills the agent with SIGKILL. */
  kill(): Promise<void>
  /** Stops the process with SIGSTOP: connections open, but get no answer until `thaw`. */
  freeze(): void
  thaw(): void
  /** Ends the agent with SIGTERM. */
  stop(): Promise<void>
  /** Starts the agent again with the same ports and data. */
  restart(): Promise<void>
}

export async function startConsul(t: TestContext, options: RealAgentOptions = {}): Promise<RealAgent> {
  if (consulVersion === undefined)
    throw new Error(`REQUIRE_CONSUL is set, but the binary '${binary}' does not exist`)
  const directory = await mkdtemp(join(tmpdir(), 'consul-connect-'))
  const { host = '127.0.0.1' } = options
  const [http = 0, server = 0, serf = 0, dns = 0, grpc = 0] = await freePorts(5, host)
  const ports: AgentPorts = {
    http,
    server,
    serf,
    wan: -1,
    dns: options.dns === true ? dns : -1,
    grpc: options.grpc === true ? grpc : -1,
    ...options.ports,
  }
  const address = `${host}:${ports.http}`
  const url = `http://${address}`
  const config = join(directory, 'config.json')
  await writeFile(config, JSON.stringify({ ...baseConfig(directory, ports, options) }))
  let child: ChildProcess | undefined

  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child !== undefined) await stopChild(child, signal)
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
    grpcAddress: `${host}:${ports.grpc}`,
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
  // Consul 1.11 renamed the token.
  const tokenName = isAtLeast('1.11') ? 'initial_management' : 'master'
  const tokens = { [tokenName]: acl?.managementToken, agent: acl?.managementToken }
  return {
    server: true,
    bootstrap_expect: 1,
    node_name: 'embedded',
    data_dir: join(directory, 'data'),
    bind_addr: host,
    client_addr: host,
    connect: { enabled: true },
    // By default the output of a check reaches the catalog minutes after its status.
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
      grpc: ports.grpc,
      // Enabled by default from 1.14 on, and unknown before.
      ...(isAtLeast('1.14') && { grpc_tls: -1 }),
    },
    ...(acl ? { acl: { enabled: true, default_policy: acl.defaultPolicy, tokens } } : {}),
    ...extraConfig,
  }
}

/** Starts the agent and waits for a leader, the node in the catalog, roots, and tokens. */
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
      // Without Connect the agent has no roots.
      (/"ActiveRootID":\s*"\w/.test(roots) || roots.startsWith('Connect must be enabled')) &&
      (await get('/v1/catalog/nodes')).includes('"Node"') &&
      // A new leader uses the legacy ACLs for a moment.
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
