import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import type { Intention } from '../src/agent/endpoints/intentions.js'
import { IntentionTable, type Source } from '../src/authorize/intention-table.js'
import { service } from '../src/index.js'
import { startConsul } from '../test/consul/real-agent.js'
import { recordingProxy } from '../test/consul/recording-proxy.js'
import { intend, until } from '../test/consul/service-mesh.js'
import { heapUsed } from './heap.js'
import { withFixtures } from './scope.js'
import { type Benchmark, median, round } from './measure.js'

const SIZES = [10, 1_000, 10_000]
const ROUNDS = 9
const DECISIONS = 1_000_000
const CONNECTIONS = 500

/** Measures decisions in this process, and then connections that a real agent authorizes. */
const benchmark: Benchmark = {
  question:
    'How many authorization decisions per second, how much memory per intention, and how many requests to the agent?',
  async run() {
    return { ...decisions(), ...(await withFixtures(connections)) }
  },
}
export default benchmark

/** Together with `sources()`: a third of the sources matches an exact intention, a third a wildcard, and a third none. */
function intentions(count: number): Intention[] {
  const intention = (name: string, destination: string, i: number): Intention => ({
    source: {
      partition: 'default',
      namespace: 'default',
      name,
      type: 'consul',
      peer: undefined,
      samenessGroup: undefined,
    },
    destination: { namespace: 'default', name: destination },
    action: i % 2 === 0 ? 'allow' : 'deny',
    permissions: [],
    problem: undefined,
  })
  const exact = Array.from({ length: count - 1 }, (_, i) =>
    intention(`source-${i}`, i % 3 === 0 ? '*' : 'api', i),
  )
  const wildcard = intention('*', 'api', 0)
  return [...exact, { ...wildcard, source: { ...wildcard.source, namespace: 'met' } }]
}

function sources(count: number): Source[] {
  return Array.from({ length: 999 }, (_, i) => {
    const namespace = ['default', 'met', 'other'][i % 3] ?? ''
    return { partition: 'default', namespace, service: `source-${(i * 7919) % count}` }
  })
}

function decisions(): Record<string, Record<string, number>> {
  const rows: Record<string, Record<string, number>> = {}
  for (const size of SIZES) {
    const before = heapUsed()
    // From JSON, like an answer of the agent, so that strings are not shared.
    const parsed = JSON.parse(JSON.stringify(intentions(size))) as Intention[]
    const table = new IntentionTable(parsed)
    const bytes = heapUsed() - before
    const peers = sources(size)
    const rates: number[] = []
    for (let round = 0; round <= ROUNDS; round += 1) {
      let allowed = 0
      const begin = performance.now()
      for (let i = 0; i < DECISIONS; i += 1) {
        const source = peers[i % peers.length]
        if (source !== undefined && table.find(source)?.decision.authorized === true) allowed += 1
      }
      const seconds = (performance.now() - begin) / 1000
      if (allowed === 0) throw new Error('no source was allowed')
      if (round > 0) rates.push(DECISIONS / seconds)
    }
    // Keeps the list alive until here, as part of the measured heap.
    if (parsed.length !== size) throw new Error(`expected ${size} intentions`)
    rows[`${size} intentions`] = {
      'decisions/s': round(median(rates), 0),
      // With few intentions, other changes of the heap prevail.
      ...(size >= 1_000 && { 'bytes/intention': round(bytes / size, 0) }),
    }
  }
  return rows
}

async function connections(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const consul = await startConsul(scope)
  const recording = await recordingProxy(scope, consul)
  const agent = { address: recording.address, env: {} }
  await using api = service('api', { agent })
  await using web = service('web', { agent })
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end('x'))
  const upstream = { address: `127.0.0.1:${(listener.address() as AddressInfo).port}`, service: 'api' }
  const dial = async (): Promise<void> => {
    await once((await web.dial(upstream)).resume(), 'close')
  }
  const rows: Record<string, Record<string, number>> = {}
  for (const [basis, count, prepare] of [
    ['default', 0, () => undefined],
    ['intention', 1, () => intend(consul, 'allow', 'web', 'api')],
  ] as const) {
    await prepare()
    await dial()
    await until('the service has the intention', () => api.stats().intentions === count)
    const before = recording.requests.length
    for (let i = 0; i < CONNECTIONS; i += 1) await dial()
    rows[`${CONNECTIONS} connections, allowed by ${basis}`] = {
      'requests to the agent': recording.requests.length - before,
    }
  }
  return rows
}
