import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fleet } from './fleet.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'
import { recordingProxy } from './recording-proxy.js'
import { ALLOW_ALL, agentJson, agentOptions, joiner } from './service-mesh.js'
import { type Outcome, assertNoneFailed, dialOnce, instanceNames } from './steady-dials.js'

const DIALS = 2_000
const CONCURRENCY = 8
/** The aggregation interval of Consul's telemetry. */
const INTERVAL_MS = 10_000

test('dials of a known upstream send no requests to the agent', { skip }, async (t) => {
  const consul = await startConsul(t)
  const proxy = await recordingProxy(t, consul)
  const join = joiner(t, consul)
  const agent = agentOptions(consul, { address: proxy.address })
  const web = join('web', { agent })
  // The authorizer avoids requests for intentions.
  await fleet(t, consul, join('api', { agent, authorize: ALLOW_ALL }), 3)
  await dialOnce(web, 'api')

  // Wait for the next telemetry interval.
  await sleep(INTERVAL_MS - (Date.now() % INTERVAL_MS) + 500)
  const startedAt = Date.now()
  const before = proxy.requests.length
  const connectionsBefore = proxy.connections()
  const span: Span = { from: startedAt }
  const counting = httpRequests(consul, span)
  const outcomes: Outcome[] = []
  const work = Array.from({ length: CONCURRENCY }, async (_, i) => {
    for (let n = i; n < DIALS; n += CONCURRENCY) outcomes.push(await dialOnce(web, 'api'))
  })
  await Promise.all(work)
  // A request outside of the proxy, to prove that the agent counts requests.
  await agentJson(consul, '/v1/status/leader')
  span.to = Date.now()
  const ms = span.to - startedAt
  const requests = proxy.requests.slice(before).map(({ request }) => request)
  const connections = proxy.connections() - connectionsBefore

  await t.test('all dials succeed', () => {
    assertNoneFailed(outcomes)
    assert.equal(outcomes.length, DIALS)
    assert.deepEqual(instanceNames(outcomes), ['api-1', 'api-2', 'api-3'])
  })

  await t.test('the proxy saw no request', () => {
    t.diagnostic(JSON.stringify({ dials: outcomes.length, ms, requests, connections }))
    assert.deepEqual(requests, [])
    assert.equal(connections, 0)
  })

  await t.test('the agent counted no request', async () => {
    const counted = await counting
    t.diagnostic(JSON.stringify(counted))
    // Without the requests for the telemetry.
    const { 'consul.http.GET.v1.agent.metrics': own, ...others } = counted
    assert.ok(own !== undefined)
    assert.deepEqual(others, { 'consul.http.GET.v1.status.leader': 1 })
  })
})

/** By `Date.now`. */
interface Span {
  readonly from: number
  /** Undefined until the end. */
  to?: number
}

/** The number of requests by name in all telemetry intervals that overlap with a span. */
async function httpRequests(consul: RealAgent, span: Span): Promise<Record<string, number>> {
  interface Metrics {
    readonly Timestamp: string
    readonly Samples: readonly {
      readonly Name: string
      readonly Count: number
      readonly Labels?: { readonly method?: string; readonly path?: string }
    }[]
  }
  const total: Record<string, number> = {}
  let next = span.from - (span.from % INTERVAL_MS)
  for (;;) {
    // The agent returns only the last complete interval.
    const { Timestamp, Samples } = await agentJson<Metrics>(consul, '/v1/agent/metrics')
    const at = Date.parse(Timestamp.replace(' +0000 UTC', 'Z').replace(' ', 'T'))
    assert.ok(at <= next, `the telemetry before ${Timestamp} was missed`)
    if (at === next) {
      if (span.to !== undefined && at > span.to) return total
      for (const { Name, Count, Labels: { method = '', path = '' } = {} } of Samples) {
        // Consul 1.9 and later put the path into labels.
        const name = Name === 'consul.api.http' ? `consul.http.${method}.${path.replaceAll('_', '.')}` : Name
        if (name.startsWith('consul.http.')) total[name] = (total[name] ?? 0) + Count
      }
      next += INTERVAL_MS
    }
    await sleep(INTERVAL_MS / 20)
  }
}
