// Envoy as a sidecar proxy or a gateway, configured by Consul, or with a static configuration.
import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { stopChild } from '../consul/child-process.js'
import { type RealAgent, isAtLeast } from '../consul/real-agent.js'
import { until } from '../consul/service-mesh.js'
import { freePort } from '../fixtures/free-ports.js'

const envoyBinary = process.env['ENVOY_BIN'] ?? resolve('test/peers/bin/envoy')
const consulBinary = process.env['CONSUL_BIN'] ?? 'consul'

/** The `skip` option of tests that need Envoy and a Consul that supports it. With REQUIRE_PEERS=1 they fail instead. */
export const skip: string | false =
  process.env['REQUIRE_PEERS'] === '1' || (existsSync(envoyBinary) && isAtLeast('1.14'))
    ? false
    : 'needs Consul 1.14 or later and Envoy: run test/peers/install'

export interface Envoy {
  readonly pid: number
  readonly adminPort: number
  /** Returns the text of an admin endpoint, such as `/clusters`. */
  admin(path: string): Promise<string>
  /** Ends the process at once. */
  kill(): Promise<void>
}

/** Starts the sidecar proxy of a registered service. */
export function startSidecar(
  t: TestContext,
  consul: RealAgent,
  serviceId: string,
  token?: string,
): Promise<Envoy> {
  return start(t, consul, ['-sidecar-for', serviceId, ...(token === undefined ? [] : ['-token', token])])
}

export interface GatewayOptions {
  readonly kind: 'mesh' | 'terminating'
  readonly service: string
  /** `host:port` of the listener. */
  readonly address: string
  /** `host:port` for other datacenters. @default the address */
  readonly wanAddress?: string
}

/** Registers and starts a gateway. */
export function startGateway(t: TestContext, consul: RealAgent, options: GatewayOptions): Promise<Envoy> {
  const { kind, service, address, wanAddress = address } = options
  return start(t, consul, [
    ...[`-gateway=${kind}`, '-register', '-service', service, '-address', address],
    ...(kind === 'mesh' ? ['-wan-address', wanAddress] : []),
  ])
}

/**
 * Starts Envoy with a static configuration, without Consul.
 * @param config - the bootstrap configuration without `admin`
 */
export async function startStaticEnvoy(t: TestContext, config: object): Promise<Envoy> {
  const adminPort = await freePort()
  const admin = { address: { socket_address: { address: '127.0.0.1', port_value: adminPort } } }
  return run(t, adminPort, JSON.stringify({ ...config, admin }))
}

/** Creates the bootstrap configuration with Consul's CLI, and starts Envoy. */
async function start(t: TestContext, consul: RealAgent, args: string[]): Promise<Envoy> {
  const adminPort = await freePort()
  const { stdout } = await promisify(execFile)(consulBinary, [
    ...['connect', 'envoy', '-bootstrap', ...args],
    ...['-http-addr', consul.address, '-grpc-addr', consul.grpcAddress],
    ...['-admin-bind', `127.0.0.1:${adminPort}`],
  ])
  return run(t, adminPort, stdout)
}

/** Starts Envoy with one worker, and waits until it has its configuration. */
async function run(t: TestContext, adminPort: number, bootstrap: string): Promise<Envoy> {
  const folder = await mkdtemp(join(tmpdir(), 'consul-connect-envoy-'))
  const file = join(folder, 'bootstrap.json')
  await writeFile(file, bootstrap, { mode: 0o600 })
  const flags = ['--use-dynamic-base-id', '--concurrency', '1', '--disable-hot-restart', '-l', 'warn']
  const child = spawn(envoyBinary, ['-c', file, ...flags], { stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  child.stderr.on('data', (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-4_000)
  })
  t.after(async () => {
    await stopChild(child)
    await rm(folder, { recursive: true })
  })
  const admin = async (path: string): Promise<string> => {
    const response = await fetch(`http://127.0.0.1:${adminPort}${path}`)
    return response.text()
  }
  await until('Envoy has its configuration', async () => {
    if (child.exitCode !== null) throw new Error(`envoy ended:\n${output}`)
    const ready = await admin('/ready').catch(() => '')
    return ready.startsWith('LIVE')
  })
  return { pid: child.pid ?? 0, adminPort, admin, kill: () => stopChild(child) }
}
