import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { freePort } from '../test/fixtures/free-ports.js'
import type { RealAgent } from '../test/consul/real-agent.js'
import { instances, until } from '../test/consul/service-mesh.js'
import { type Program, startProgram } from './process.js'

/** An application behind a pair of proxies, by its name. */
export type Backends = Readonly<Record<string, number>>

/** Two proxies: one before each application, and one that the client dials. */
export interface Pair {
  /** The local port that leads to an application. */
  readonly ports: Backends
  cpuSeconds(): number
  rssBytes(): number
}

const bin = join(import.meta.dirname, '..', 'examples', 'proxy', 'bin.js')
const consul = process.env['CONSUL_BIN'] ?? 'consul'

/** Ours, by the Node.js that runs this. */
export function startOurs(
  scope: TestContext,
  agent: RealAgent,
  backends: Backends,
  flags: string[] = [],
): Promise<Pair> {
  if (!existsSync(join(bin, '..', 'dist', 'main.js'))) throw new Error('npm run build first')
  return startPair(scope, agent, backends, {
    prefix: 'ours',
    // By default the level is the agent's, which may hide the lines that are waited for.
    command: [process.execPath, bin, '-log-level', 'info', ...flags],
    registered: 'registered',
    open: 'upstream is open',
  })
}

/** The one that comes with Consul. */
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
    await until(`${service} is known`, async () => (await instances(agent, service)) === 1)
    const port = (ports[name] = await freePort())
    upstreams.push('-upstream', `${service}:127.0.0.1:${port}`)
  }
  const outbound = [...kind.command, '-service', `${kind.prefix}-client`, ...upstreams]
  programs.push(await startProgram(scope, outbound, { ready: kind.open, env }))
  const sum = (of: (program: Program) => number): number =>
    programs.reduce((total, one) => total + of(one), 0)
  return {
    ports,
    cpuSeconds: () => sum((one) => one.cpuSeconds()),
    rssBytes: () => sum((one) => one.rssBytes()),
  }
}
