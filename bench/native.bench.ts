import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { TestContext } from 'node:test'
import { startConsul } from '../test/consul/real-agent.js'
import { instances, until } from '../test/consul/service-mesh.js'
import { type Benchmark, median, round } from './measure.js'
import { KINDS, type Kind, type Load, type Report } from './native-kinds.js'
import { startProgram } from './process.js'
import { startBuiltIn } from './proxy-pair.js'
import { withFixtures } from './scope.js'

const ROUNDS = 5
const SATURATED: Load = { concurrency: 16, seconds: 4 }
const STEADY: Load = { concurrency: 16, seconds: 4, perSecond: 2_000 }

/**
 * One HTTP application, reached natively, through the pair of proxies that is built into Consul, and over node:https with
 * the same certificates and nothing of this library. Every part is a process of its own, the client is the same, and the
 * processor time is that of all of them together.
 */
const benchmark: Benchmark = {
  question: 'what does a request cost natively, through the built-in pair, and over bare node:https?',
  run: () => withFixtures(compare),
}
export default benchmark

/** A way to the application. */
interface Way {
  readonly port: number
  /** The processor time so far of every process but the client and the agent, in seconds. */
  readonly cpuSeconds: () => number
}

interface Measured {
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
  readonly cpuMs: number
}

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const consul = await startConsul(scope)
  const ways = {} as Record<Kind, Way>
  for (const kind of KINDS) ways[kind] = await openWay(scope, kind)
  const saturated = measures()
  const steady = measures()
  // In turn, so that the machine's moods meet all of them.
  for (let i = 0; i < ROUNDS; i += 1) {
    for (const kind of KINDS) {
      saturated[kind].push(await measure(kind, consul.address, ways[kind], SATURATED))
      steady[kind].push(await measure(kind, consul.address, ways[kind], STEADY))
    }
  }
  return Object.fromEntries(
    KINDS.map((kind) => {
      const of = (all: Record<Kind, Measured[]>, figure: keyof Measured): number =>
        median(all[kind].map((m) => m[figure]))
      const over = (all: Record<Kind, Measured[]>, figure: keyof Measured, base: Kind): number =>
        median(all[kind].map((m, i) => m[figure] / (all[base][i]?.[figure] ?? NaN)))
      return [
        kind,
        {
          'requests/s': round(of(saturated, 'perSecond'), 0),
          'p50 ms': round(of(saturated, 'p50'), 3),
          'p99 ms': round(of(saturated, 'p99'), 3),
          'CPU µs/request, all': round(of(saturated, 'cpuMs') * 1_000, 1),
          'p50 ms at 2000/s': round(of(steady, 'p50'), 3),
          'p99 ms at 2000/s': round(of(steady, 'p99'), 3),
          'requests over pair': round(over(saturated, 'perSecond', 'built-in pair'), 2),
          'p50 over pair': round(over(saturated, 'p50', 'built-in pair'), 2),
          'CPU over pair': round(over(saturated, 'cpuMs', 'built-in pair'), 2),
          'requests over bare': round(over(saturated, 'perSecond', 'bare https'), 2),
        },
      ]
    }),
  )

  async function openWay(scope: TestContext, kind: Kind): Promise<Way> {
    const server = await startProgram(scope, script('native-server.ts', kind, consul.address), {
      ready: 'ready ',
    })
    const port = Number(/ready (\d+)/.exec(server.output())?.[1])
    if (kind === 'native') {
      await until('native-api is known', async () => (await instances(consul, 'native-api')) === 1)
    }
    if (kind !== 'built-in pair') return { port, cpuSeconds: () => server.cpuSeconds() }
    const pair = await startBuiltIn(scope, consul, { http: port })
    return { port: pair.ports['http'] ?? 0, cpuSeconds: () => server.cpuSeconds() + pair.cpuSeconds() }
  }
}

function measures(): Record<Kind, Measured[]> {
  return { native: [], 'bare https': [], 'built-in pair': [] }
}

function script(name: string, ...args: string[]): string[] {
  return [process.execPath, '--import', 'tsx', join(import.meta.dirname, name), ...args]
}

async function measure(kind: Kind, address: string, way: Way, load: Load): Promise<Measured> {
  const [command = '', ...args] = script(
    'native-client.ts',
    kind,
    address,
    String(way.port),
    JSON.stringify(load),
  )
  const client = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let before = NaN
  for await (const line of createInterface(client.stdout)) {
    if (line === 'begin') {
      before = way.cpuSeconds()
      continue
    }
    const { count, seconds, p50, p99, cpuMs } = JSON.parse(line) as Report
    const others = (way.cpuSeconds() - before) * 1_000
    return { perSecond: count / seconds, p50, p99, cpuMs: (cpuMs + others) / count }
  }
  throw new Error(`the client of ${kind} has ended without a word`)
}
