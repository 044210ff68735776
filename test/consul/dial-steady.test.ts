import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fleet } from './fleet.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'
import { recordingProxy } from './recording-proxy.js'
import { agentJson, agentOptions, joiner } from './service-mesh.js'
import { type Outcome, assertNoneFailed, dialOnce, shares } from './steady-dials.js'

const DIALS = 2_000
/** As many at a time as keep the process busy. */
const AT_A_TIME = 8
/** Consul sums up its telemetry over so long. */
const INTERVAL_MS = 10_000

test('a dial costs the agent nothing, however many there are', { skip }, async (t) => {
  const consul = await startConsul(t)
  const proxy = await recordingProxy(t, consul)
  const join = joiner(t, consul)
  const agent = agentOptions(consul, { address: proxy.address })
  const web = join('web', { agent })
  // The other end decides by itself, and its intentions are not asked for.
  await fleet(t, consul, join('api', { agent, authorize: () => ({ authorized: true, reason: 'test' }) }), 3)
  await dialOnce(web, 'api')

  // Whatever came before is over, and its interval too.
  await sleep(INTERVAL_MS - (Date.now() % INTERVAL_MS) + 500)
  const startedAt = Date.now()
  const before = proxy.requests.length
  const connectionsBefore = proxy.connections()
  const span: Span = { from: startedAt }
  const counting = httpRequests(consul, span)
  const outcomes: Outcome[] = []
  const work = Array.from({ length: AT_A_TIME }, async (_, i) => {
    for (let n = i; n < DIALS; n += AT_A_TIME) outcomes.push(await dialOnce(web, 'api'))
  })
  await Promise.all(work)
  // One that goes by, to see that the agent counts.
  await agentJson(consul, '/v1/status/leader')
  span.to = Date.now()
  const ms = span.to - startedAt
  const requests = proxy.requests.slice(before).map(({ request }) => request)
  const connections = proxy.connections() - connectionsBefore

  await t.test('all of them arrive', () => {
    assertNoneFailed(outcomes)
    assert.equal(outcomes.length, DIALS)
    assert.deepEqual(Object.keys(shares(outcomes)).toSorted(), ['api-1', 'api-2', 'api-3'])
  })

  await t.test('not a request has come by', () => {
    t.diagnostic(JSON.stringify({ dials: outcomes.length, ms, requests, connections }))
    assert.deepEqual(requests, [])
    assert.equal(connections, 0)
  })

  await t.test('and the agent has counted none', async () => {
    const counted = await counting
    t.diagnostic(JSON.stringify(counted))
    // Those that ask for the telemetry itself.
    const { 'consul.http.GET.v1.agent.metrics': own, ...others } = counted
    assert.ok(own !== undefined)
    assert.deepEqual(others, { 'consul.http.GET.v1.status.leader': 1 })
  })
})

/** By `Date.now`. */
interface Span {
  readonly from: number
  /** Undefined while it lasts. */
  to?: number
}

/** What the agent counts of requests in all intervals that a span has a part in. */
async function httpRequests(consul: RealAgent, span: Span): Promise<Record<string, number>> {
  interface Metrics {
    readonly Timestamp: string
    readonly Samples: readonly { readonly Name: string; readonly Count: number }[]
  }
  const total: Record<string, number> = {}
  let next = span.from - (span.from % INTERVAL_MS)
  for (;;) {
    // It tells of the last interval that is over, and of none before.
    const { Timestamp, Samples } = await agentJson<Metrics>(consul, '/v1/agent/metrics')
    const at = Date.parse(Timestamp.replace(' +0000 UTC', 'Z').replace(' ', 'T'))
    assert.ok(at <= next, `the telemetry before ${Timestamp} was missed`)
    if (at === next) {
      if (span.to !== undefined && at > span.to) return total
      for (const { Name, Count } of Samples) {
        if (Name.startsWith('consul.http.')) total[Name] = (total[Name] ?? 0) + Count
      }
      next += INTERVAL_MS
    }
    await sleep(INTERVAL_MS / 20)
  }
}
