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
const STEP_MS = 600_000

const bin = join(import.meta.dirname, '..', 'examples', 'proxy', 'bin.js')
const consul = process.env['CONSUL_BIN'] ?? 'consul'

const benchmark: Benchmark = {
  question: `How fast and large is a supervisor of ${SERVICES} minimal proxies, and how fast does one proxy start?`,
  run: () =>
    withFixtures(async (scope) => {
      const agent = await startConsul(scope)
      return { [`supervisor of ${SERVICES}`]: await supervise(scope, agent), ...(await startProxies(agent)) }
    }),
}

export default benchmark

/** Measures the start of all proxies, the idle supervisor, and the adoption of the proxies by the next supervisor. */
async function supervise(scope: TestContext, agent: RealAgent): Promise<Record<string, number>> {
  const started: number[] = []
  const adopted: number[] = []
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
    const allRun = async (): Promise<boolean> => {
      const rows = Object.values(await host.rows())
      return rows.filter(({ state }) => state === 'running').length === SERVICES
    }
    const spawned = performance.now()
    const supervisor = host.spawn()
    await until('all proxies run', allRun, STEP_MS)
    started.push((performance.now() - spawned) / 1_000)
    await sleep(2_000)
    const before = cpuSeconds(supervisor.pid)
    await sleep(REST_S * 1_000)
    cpu.push(((cpuSeconds(supervisor.pid) - before) / REST_S) * 100)
    memory.push(rssBytes(supervisor.pid) / MIB)
    await supervisor.stop('SIGKILL')
    const again = performance.now()
    const second = host.spawn()
    await until('all proxies are adopted', allRun, STEP_MS)
    adopted.push((performance.now() - again) / 1_000)
    // Clean up for the next run on the same agent.
    for (const name of names) host.write(`${name}.json`, {})
    second.signal('SIGHUP')
    await until('no service is registered', async () => (await registered(agent)) === 0, STEP_MS)
    await until('all processes have ended', () => host.processes().length === 0, STEP_MS)
    await second.stop()
  }
  return {
    'start of all proxies, s': round(median(started), 2),
    'adoption of all proxies, s': round(median(adopted), 2),
    'idle CPU, % of a core': round(median(cpu), 2),
    'memory, MiB': round(median(memory), 0),
  }
}

async function registered(agent: RealAgent): Promise<number> {
  const response = await agent.http('/v1/agent/services')
  return Object.keys((await response.json()) as object).length
}

/** Measures the time from the start of a proxy to its first accepted connection. */
async function startProxies(agent: RealAgent): Promise<Record<string, Record<string, number>>> {
  const kinds = [
    {
      name: 'connect-proxy',
      command: [process.execPath, bin],
      started: [] as number[],
      memory: [] as number[],
    },
    { name: 'consul connect proxy', command: [consul, 'connect', 'proxy'], started: [], memory: [] },
  ]
  for (let run = 0; run < PROXY_STARTS; run++) {
    for (const { name, command, started, memory } of kinds) {
      const port = await freePort()
      const service = name.replaceAll(' ', '-')
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
