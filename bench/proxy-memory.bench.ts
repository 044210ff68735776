import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startConsul } from '../test/consul/real-agent.js'
import { freePort } from '../test/fixtures/free-ports.js'
import { wrk } from './load.js'
import { type Benchmark, round } from './measure.js'
import { startNginx } from './nginx.js'
import { type Pair, startBuiltIn, startOurs } from './proxy-pair.js'
import { withFixtures } from './scope.js'

const STAGES = [5_000, 20_000]
const REST_MS = 30_000
const MIB = 1024 * 1024

/** Sends requests on new connections through a pair of proxies. */
const benchmark: Benchmark = {
  question: 'How much memory, in MiB, does a pair of proxies use after many short connections?',
  run: () => withFixtures(compare),
}
export default benchmark

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  const consul = await startConsul(scope)
  const port = await freePort()
  await startNginx(scope, port)
  const pairs = {
    'connect-proxy': await startOurs(scope, consul, { http: port }),
    'consul connect proxy': await startBuiltIn(scope, consul, { http: port }),
  }
  const rows: Record<string, Record<string, number>> = {}
  for (const [name, pair] of Object.entries(pairs)) {
    for (const [stage, bytes] of Object.entries(await measure(pair))) {
      rows[stage] = { ...rows[stage], [name]: round(bytes / MIB, 0) }
    }
  }
  return rows
}

async function measure(pair: Pair): Promise<Record<string, number>> {
  const stages: Record<string, number> = { 'after the start': pair.rssBytes() }
  let count = 0
  for (const stage of STAGES) {
    while (count < stage)
      count += (await wrk(pair.ports['http'] ?? 0, { keepAlive: false, seconds: 1 })).count
    stages[`after ${stage} connections`] = pair.rssBytes()
  }
  await sleep(REST_MS)
  stages[`${REST_MS / 1_000} s later`] = pair.rssBytes()
  return stages
}
