import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { freePort } from '../test/fixtures/free-ports.js'
import type { RealAgent } from '../test/consul/real-agent.js'
import { instances, until } from '../test/consul/service-mesh.js'
import { type Program, startProgram } from './process.js'

/** Ports of applications by name. */
export type Backends = Readonly<Record<string, number>>

/** A proxy in front of each application, and a proxy that the client connects to. */
export interface Pair {
  /** The local ports of the client's proxy, by application. */
  readonly ports: Backends
  cpuSeconds(): number
  rssBytes(): number
}

const bin = join(import.meta.dirname, '..', 'examples', 'proxy', 'bin.js')
const consul = process.env['CONSUL_BIN'] ?? 'consul'

/** Starts connect-proxy with the Node.js binary of this process. */
export function startOurs(
  scope: TestContext,
  agent: RealAgent,
  backends: Backends,
  flags: string[] = [],
): Promise<Pair> {
  if (!existsSync(join(bin, '..', 'dist', 'main.js'))) throw new Error('dist is missing: npm run build')
  return startPair(scope, agent, backends, {
    prefix: flags.includes('-mux') ? 'ours-mux' : 'ours',
    // The default level is that of the agent, which may hide the awaited lines.
    command: [process.execPath, bin, '-log-level', 'info', ...flags],
    registered: 'registered',
    open: 'upstream is open',
  })
}

/** Starts Consul's proxy, `consul connect proxy`. */
export function startBuiltIn(scope: TestContext, agent: RealAgent, backends: Backends): Promise<Pair> {
  return startPair(scope, agent, backends, {
    prefix: 'theirs',
    command: [consul, 'connect', 'proxy'],
    registered: 'Parsed TLS identity',
    open: 'Parsed TLS identity',
  })
}

interface Kind {
  readonly prefix: string
  readonly command: readonly string[]
  readonly registered: string
  readonly open: string
}

async function startPair(
  scope: TestContext,
  agent: RealAgent,
  backends: Backends,
  kind: Kind,
): Promise<Pair> {
  const env = { CONSUL_HTTP_ADDR: agent.address }
  const programs: Program[] = []
  const ports: Record<string, number> = {}
  const upstreams: string[] = []
  for (const [name, backend] of Object.entries(backends)) {
    const service = `${kind.prefix}-${name}`
    const listen = await freePort()
    const flags = ['-service', service, '-service-addr', `127.0.0.1:${backend}`]
    const inbound = [...kind.command, ...flags, '-listen', `127.0.0.1:${listen}`, '-register']
    programs.push(await startProgram(scope, inbound, { ready: kind.registered, env }))
    await until(`${service} is in the catalog`, async () => (await instances(agent, service)) === 1)
    const port = (ports[name] = await freePort())
    upstreams.push('-upstream', `${service}:127.0.0.1:${port}`)
  }
  const outbound = [...kind.command, '-service', `${kind.prefix}-client`, ...upstreams]
  programs.push(await startProgram(scope, outbound, { ready: kind.open, env }))
  const sum = (figure: (program: Program) => number): number =>
    programs.reduce((total, program) => total + figure(program), 0)
  return {
    ports,
    cpuSeconds: () => sum((program) => program.cpuSeconds()),
    rssBytes: () => sum((program) => program.rssBytes()),
  }
}
