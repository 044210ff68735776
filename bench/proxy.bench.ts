import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../test/fixtures/free-ports.js'
import { startConsul } from '../test/consul/real-agent.js'
import { idle, iperf, steady, wrk } from './load.js'
import { type Benchmark, median, round } from './measure.js'
import { descriptorLimit, startProgram } from './process.js'
import { type Backends, type Pair, startBuiltIn, startOurs } from './proxy-pair.js'
import { hasEnvoy, startEnvoyPair } from './envoy.js'
import { startNginx } from './nginx.js'
import { withFixtures } from './scope.js'

const ROUNDS = 5
const SECONDS = 3
const STEADY_PER_SECOND = 1_000
const MIB = 1024 * 1024
/** The pair that the others are compared with. */
const OURS = 'connect-proxy -mux'

/**
 * Transfers bytes by iperf3, and sends requests by wrk to nginx. Everything runs on one machine, so throughput depends on
 * processor time. All pairs run all the time, and are measured in turn.
 */
const benchmark: Benchmark = {
  question: 'How fast is a pair of proxies, compared with a pair of those built into Consul and of Envoys?',
  run: () => withFixtures(compare),
}
export default benchmark

type Row = Record<string, number>

async function compare(scope: TestContext): Promise<Record<string, Row>> {
  const consul = await startConsul(scope)
  const backends = await startBackends(scope)
  // For example, PROXY_FLAGS='-workers auto' on a machine with more than two cores.
  const flags = (process.env['PROXY_FLAGS'] ?? '').split(' ').filter((flag) => flag !== '')
  const pairs = {
    [OURS]: await startOurs(scope, consul, backends, ['-mux', ...flags]),
    'connect-proxy': await startOurs(scope, consul, backends, flags),
    'consul connect proxy': await startBuiltIn(scope, consul, backends),
    ...(hasEnvoy() && {
      Envoys: await startEnvoyPair(scope, { address: consul.address, env: {} }, backends, 'tcp'),
    }),
  }
  const samples = new Map<string, Map<string, number[]>>()
  const add = (figure: string, proxy: string, value: number): void => {
    const byProxy = samples.get(figure) ?? new Map<string, number[]>()
    samples.set(figure, byProxy)
    byProxy.set(proxy, [...(byProxy.get(proxy) ?? []), value])
  }
  for (const [proxy, pair] of Object.entries(pairs))
    add('memory at the start, MiB', proxy, pair.rssBytes() / MIB)
  // Interleaved, so that changes of the machine affect all pairs. The first round is a warm-up.
  for (let i = 0; i <= ROUNDS; i += 1) {
    for (const [proxy, pair] of Object.entries(pairs)) {
      const figures = await measure(pair)
      if (i > 0) for (const [figure, value] of Object.entries(figures)) add(figure, proxy, value)
    }
  }
  for (const [proxy, pair] of Object.entries(pairs))
    for (const [figure, value] of Object.entries(await measureIdle(pair))) add(figure, proxy, value)
  const rows: Record<string, Row> = {}
  for (const [figure, byProxy] of samples) {
    const medians = new Map([...byProxy].map(([proxy, values]) => [proxy, median(values)]))
    const row: Row = (rows[figure] = {})
    for (const [proxy, value] of medians) row[proxy] = round(value, 3)
    for (const [proxy, value] of medians)
      if (proxy !== OURS) row[`vs. ${proxy}`] = round((medians.get(OURS) ?? NaN) / value, 2)
  }
  return rows
}

async function measure(pair: Pair): Promise<Row> {
  const row: Row = {}
  const { bytes, http } = pair.ports
  if (bytes === undefined || http === undefined) throw new Error('backend missing')
  for (const streams of [1, 4]) {
    for (const reverse of [false, true]) {
      const transfer = `${reverse ? 'download' : 'upload'}, ${streams} stream${streams === 1 ? '' : 's'}`
      const cpu = pair.cpuSeconds()
      const { gigabits, gigabytes } = await iperf(bytes, { streams, reverse, seconds: SECONDS })
      row[`${transfer}, Gbit/s`] = gigabits
      row[`${transfer}, CPU s/GB`] = (pair.cpuSeconds() - cpu) / gigabytes
    }
  }
  const cpuOf = async <T extends { readonly count: number }>(
    load: Promise<T>,
  ): Promise<T & { cpu: number }> => {
    const before = pair.cpuSeconds()
    const result = await load
    return { ...result, cpu: ((pair.cpuSeconds() - before) * 1_000) / result.count }
  }
  const kept = await cpuOf(wrk(http, { keepAlive: true, seconds: SECONDS }))
  row['requests/s'] = kept.perSecond
  row['requests p50, ms'] = kept.p50
  row['requests p99, ms'] = kept.p99
  row['CPU s/1000 requests'] = kept.cpu
  const fresh = await cpuOf(wrk(http, { keepAlive: false, seconds: SECONDS }))
  row['new connections/s'] = fresh.perSecond
  row['new connections p50, ms'] = fresh.p50
  row['new connections p99, ms'] = fresh.p99
  row['CPU s/1000 connections'] = fresh.cpu
  const { p50, p99 } = await steady(http, { perSecond: STEADY_PER_SECOND, seconds: SECONDS })
  row[`at ${STEADY_PER_SECOND} requests/s p50, ms`] = p50
  row[`at ${STEADY_PER_SECOND} requests/s p99, ms`] = p99
  return row
}

async function measureIdle(pair: Pair): Promise<Row> {
  const row: Row = {}
  const { echo } = pair.ports
  if (echo === undefined) throw new Error('backend missing')
  await sleep(2_000)
  row['memory after the load, MiB'] = pair.rssBytes() / MIB
  // Each connection needs two descriptors in each proxy. 200 are left for other files.
  const maximum = Math.min(10_000, Math.floor((descriptorLimit() - 200) / 2))
  for (const count of [1_000, maximum]) {
    const before = pair.rssBytes()
    const end = await idle(echo, count)
    await sleep(2_000)
    row[`memory per idle connection of ${count}, KiB`] = (pair.rssBytes() - before) / 1024 / count
    await end()
    await sleep(1_000)
  }
  return row
}

/** Starts iperf3, nginx with one worker, and an echo server. */
async function startBackends(scope: TestContext): Promise<Backends> {
  const backends = { bytes: await freePort(), http: await freePort(), echo: await freePort() }
  const server = ['iperf3', '-s', '-B', '127.0.0.1', '-p', String(backends.bytes), '--forceflush']
  await startProgram(scope, server, { ready: 'Server listening' })
  await startNginx(scope, backends.http)
  const echo = `require('node:net').createServer((s) => s.on('error', () => {}).on('data', (d) => s.write(d)))
.listen(${backends.echo}, '127.0.0.1', 8192, () => console.log('listening'))`
  await startProgram(scope, [process.execPath, '-e', echo], { ready: 'listening' })
  return backends
}
