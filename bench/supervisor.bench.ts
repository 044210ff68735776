import { connect } from 'node:net'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type RealAgent, startConsul } from '../test/consul/real-agent.js'
import { freePort, freePorts } from '../test/fixtures/free-ports.js'
import { until } from '../test/fixtures/mesh.js'
import { Host, managed } from '../test/supervisor/connect-supervisor.js'
import { type Benchmark, median, round } from './measure.js'
import { cpuSeconds, rssBytes, startProgram } from './process.js'
import { withFixtures } from './scope.js'

const SERVICES = 200
const RUNS = 5
const REST_S = 20
const PROXY_STARTS = 9
const MIB = 1 << 20

const bin = join(import.meta.dirname, '..', 'examples', 'proxy', 'bin.js')
const consul = process.env['CONSUL_BIN'] ?? 'consul'

const benchmark: Benchmark = {
  question: `what ${SERVICES} managed services with a light stand-in cost, and what one proxy of each kind does`,
  run: () =>
    withFixtures(async (scope) => {
      const agent = await startConsul(scope)
      return { [`supervisor of ${SERVICES}`]: await supervise(scope, agent), ...(await startProxies(agent)) }
    }),
}

export default benchmark

/** From nothing to every process running, then at rest, then found again by the next supervisor. */
async function supervise(scope: TestContext, agent: RealAgent): Promise<Record<string, number>> {
  const started: number[] = []
  const found: number[] = []
  const memory: number[] = []
  const cpu: number[] = []
  for (let run = 0; run < RUNS; run++) {
    const [first = 0] = await freePorts(1)
    const names = Array.from({ length: SERVICES }, (_, i) => `s${run}-${i}`)
    const definition = { command: ['sleep', '1000'], config: { disable_tcp_check: true } }
    const host = new Host(scope, {
      agent: agent.address,
      flags: ['-log-level', 'warn'],
      files: {
        'agent.json': {
          bind_addr: '127.0.0.1',
          ports: { proxy_min_port: first, proxy_max_port: first + 2 * SERVICES },
          connect: { proxy: { allow_managed_root: true } },
        },
        ...Object.fromEntries(names.map((name) => [`${name}.json`, managed(name, definition)])),
      },
    })
    const all = async (): Promise<boolean> => {
      const rows = Object.values(await host.rows())
      return rows.filter(({ state }) => state === 'running').length === SERVICES
    }
    const spawned = performance.now()
    const supervisor = host.spawn()
    await until('all run', all, 120_000)
    started.push((performance.now() - spawned) / 1_000)
    await sleep(2_000)
    const before = cpuSeconds(supervisor.pid)
    await sleep(REST_S * 1_000)
    cpu.push(((cpuSeconds(supervisor.pid) - before) / REST_S) * 100)
    memory.push(rssBytes(supervisor.pid) / MIB)
    await supervisor.stop('SIGKILL')
    const again = performance.now()
    const second = host.spawn()
    await until('all are found', all, 120_000)
    found.push((performance.now() - again) / 1_000)
    // The next run has an agent without them.
    for (const name of names) host.write(`${name}.json`, {})
    second.signal('SIGHUP')
    await until('none is registered', async () => (await registered(agent)) === 0, 120_000)
    await until('all are gone', () => host.processes().length === 0, 120_000)
    await second.stop()
  }
  return {
    'all running, s': round(median(started), 2),
    'all found again, s': round(median(found), 2),
    'at rest, % of a core': round(median(cpu), 2),
    'memory, MiB': round(median(memory), 0),
  }
}

async function registered(agent: RealAgent): Promise<number> {
  const response = await agent.http('/v1/agent/services')
  return Object.keys((await response.json()) as object).length
}

/** From the start of the process to the first connection that it accepts, one kind after the other in each run. */
async function startProxies(agent: RealAgent): Promise<Record<string, Record<string, number>>> {
  const kinds = [
    {
      name: 'connect-proxy',
      command: [process.execPath, bin],
      started: [] as number[],
      memory: [] as number[],
    },
    { name: 'built-in proxy', command: [consul, 'connect', 'proxy'], started: [], memory: [] },
  ]
  for (let run = 0; run < PROXY_STARTS; run++) {
    for (const { name, command, started, memory } of kinds) {
      const port = await freePort()
      const service = name.replace(' ', '-')
      const flags = ['-service', service, '-service-addr', '127.0.0.1:9', '-listen', `127.0.0.1:${port}`]
      await withFixtures(async (scope) => {
        const spawned = performance.now()
        const program = await startProgram(scope, [...command, ...flags], {
          env: { CONSUL_HTTP_ADDR: agent.address },
        })
        while (!(await accepts(port))) await sleep(2)
        started.push(performance.now() - spawned)
        await sleep(3_000)
        memory.push(program.rssBytes() / MIB)
      })
    }
  }
  const rows = kinds.map(({ name, started, memory }): [string, Record<string, number>] => [
    name,
    { 'start, ms': round(median(started), 0), 'memory, MiB': round(median(memory), 0) },
  ])
  return Object.fromEntries(rows)
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => {
      resolve(false)
    })
  })
}
