import type { TestContext } from 'node:test'
import { startConsul } from '../test/consul/real-agent.js'
import { instances, until } from '../test/consul/service-mesh.js'
import { hasEnvoy, startEnvoyPair } from './envoy.js'
import { type Benchmark, median, round } from './measure.js'
import { KINDS, type Kind, type Load } from './native-kinds.js'
import { type Measured, type Server, measure, script } from './native-run.js'
import { startProgram } from './process.js'
import { startBuiltIn } from './proxy-pair.js'
import { withFixtures } from './scope.js'

const ROUNDS = 5
const SATURATED: Load = { concurrency: 16, seconds: 4 }
const STEADY: Load = { concurrency: 16, seconds: 4, perSecond: 2_000 }

/**
 * Sends requests to one HTTP application with this library, through pairs of proxies, and over node:https with
 * certificates of the same mesh. Client, server, and proxies are separate processes; their processor time is summed.
 */
const benchmark: Benchmark = {
  question: "How fast are HTTP requests, compared with Consul's proxies, Envoys, and node:https?",
  run: () => withFixtures(compare),
}
export default benchmark

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const consul = await startConsul(scope)
  const kinds = hasEnvoy() ? KINDS : KINDS.filter((kind) => !isEnvoy(kind))
  const servers = {} as Record<Kind, Server>
  for (const kind of kinds) servers[kind] = await startServer(scope, kind)
  const saturated = measures()
  const steady = measures()
  // Interleaved, so that changes of the machine affect all kinds.
  for (let i = 0; i < ROUNDS; i += 1) {
    for (const kind of kinds) {
      saturated[kind].push(await measure(kind, consul.address, servers[kind], SATURATED))
      steady[kind].push(await measure(kind, consul.address, servers[kind], STEADY))
    }
  }
  return Object.fromEntries(
    kinds.map((kind) => {
      const medianOf = (all: Record<Kind, Measured[]>, figure: keyof Measured): number =>
        median(all[kind].map((m) => m[figure]))
      const relative = (all: Record<Kind, Measured[]>, figure: keyof Measured, base: Kind): number =>
        median(all[kind].map((m, i) => m[figure] / (all[base][i]?.[figure] ?? NaN)))
      return [
        kind,
        {
          'requests/s': round(medianOf(saturated, 'perSecond'), 0),
          'p50 ms': round(medianOf(saturated, 'p50'), 3),
          'p99 ms': round(medianOf(saturated, 'p99'), 3),
          'CPU µs/request': round(medianOf(saturated, 'cpuMs') * 1_000, 1),
          'p50 ms at 2000/s': round(medianOf(steady, 'p50'), 3),
          'p99 ms at 2000/s': round(medianOf(steady, 'p99'), 3),
          'requests/s vs. Consul': round(relative(saturated, 'perSecond', 'Consul proxies'), 2),
          'p50 vs. Consul': round(relative(saturated, 'p50', 'Consul proxies'), 2),
          'CPU vs. Consul': round(relative(saturated, 'cpuMs', 'Consul proxies'), 2),
          'requests/s vs. node:https': round(relative(saturated, 'perSecond', 'node:https'), 2),
        },
      ]
    }),
  )

  async function startServer(scope: TestContext, kind: Kind): Promise<Server> {
    const server = await startProgram(scope, script('native-server.ts', kind, consul.address), {
      ready: 'ready ',
    })
    const port = Number(/ready (\d+)/.exec(server.output())?.[1])
    if (kind === 'native') {
      await until('native-api is in the catalog', async () => (await instances(consul, 'native-api')) === 1)
    }
    if (kind === 'Consul proxies') {
      const pair = await startBuiltIn(scope, consul, { http: port })
      return { port: pair.ports['http'] ?? 0, cpuSeconds: () => server.cpuSeconds() + pair.cpuSeconds() }
    }
    if (!isEnvoy(kind)) return { port, cpuSeconds: () => server.cpuSeconds() }
    const agent = { address: consul.address, env: {} }
    const pair = await startEnvoyPair(scope, agent, { http: port }, kind === 'Envoy, http' ? 'http' : 'tcp')
    return { port: pair.ports['http'] ?? 0, cpuSeconds: () => server.cpuSeconds() + pair.cpuSeconds() }
  }
}

function measures(): Record<Kind, Measured[]> {
  return Object.fromEntries(KINDS.map((kind) => [kind, [] as Measured[]])) as Record<Kind, Measured[]>
}

function isEnvoy(kind: Kind): boolean {
  return kind === 'Envoy, tcp' || kind === 'Envoy, http'
}
