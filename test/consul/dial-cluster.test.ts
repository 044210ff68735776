import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ServiceOptions } from '../../src/index.js'
import { type Cluster, type Member, startCluster } from './cluster.js'
import { fleet } from './fleet.js'
import { skip } from './real-agent.js'
import { recordingProxy } from './recording-proxy.js'
import { ALLOW_ALL, agentJson, agentOptions, createQuery, instances, joiner, until } from './service-mesh.js'
import { type Outcome, SteadyDials, assertNoneFailed, dialOnce } from './steady-dials.js'

const PER_SECOND = 100
/** A little longer than the servers wait for a leader before they report that there is none. */
const ELECTION_MS = 20_000
/** The bound of dials: stale reads need no leader. */
const AT_ONCE_MS = 2_000

test('a cluster of three servers and two clients', { skip }, async (t) => {
  const cluster = await startCluster(t)
  const [here, there] = cluster.clients as [Member, Member]
  // Clients use one agent, and servers the other.
  const [joinHere, joinThere] = [joiner(t, here), joiner(t, there)]
  const proxy = await recordingProxy(t, here)
  const web = joinHere('web', { agent: agentOptions(here, { address: proxy.address }) })
  const startFleet = async (name: string, count: number, options?: ServiceOptions): Promise<void> => {
    await fleet(t, there, joinThere(name, options), count)
    await until(`web's agent knows ${name}`, async () => (await instances(here, name)) === count)
  }
  await startFleet('api', 3)
  // Without requests for intentions: the first one of an agent needs a leader.
  for (const name of ['quiet', 'silent', 'still']) await startFleet(name, 1, { authorize: ALLOW_ALL })
  for (const [Name, Service] of [
    ['to-api', 'api'],
    ['to-still', 'still'],
  ]) {
    await createQuery(here, { Name, Service: { Service }, DNS: { TTL: '1s' } })
  }

  const byName = new SteadyDials(t, web, 'api', { perSecond: PER_SECOND })
  const byQuery = new SteadyDials(t, web, { query: 'to-api' }, { perSecond: PER_SECOND / 5 })
  await byName.answeredBy(3)
  await byQuery.answeredBy(3)

  await t.test('without its leader, until it has elected another', async (t) => {
    const first = await until('a leader', () => cluster.leader())
    const killedAt = performance.now()
    await first.kill()
    const survivors = cluster.servers.filter((server) => server !== first)
    const quiet = await dialOnce(web, 'quiet')
    const wasLeaderless = (await newLeader(cluster, survivors, first)) === undefined
    const second = await until('another leader', () => newLeader(cluster, survivors, first), ELECTION_MS)
    const electedAt = performance.now()

    await t.test('serves dials by name', async (t) => {
      await until(
        'dials after the election',
        () => (byName.outcomes.at(-1)?.startedAt ?? 0) > electedAt + 2_000,
      )
      const { figures } = between(byName.outcomes, killedAt, electedAt)
      t.diagnostic(
        JSON.stringify({ electionMs: electedAt - killedAt, ...figures, from: first.name, to: second.name }),
      )
      assertNoneFailed(byName.outcomes)
      assert.ok(figures.slowestMs < AT_ONCE_MS, `a dial took ${figures.slowestMs} ms`)
    })

    await t.test('serves dials by query', async (t) => {
      await until(
        'dials after the election',
        () => (byQuery.outcomes.at(-1)?.startedAt ?? 0) > electedAt + 2_000,
      )
      const { figures } = between(byQuery.outcomes, killedAt, electedAt)
      t.diagnostic(JSON.stringify(figures))
      assertNoneFailed(byQuery.outcomes)
      assert.ok(figures.slowestMs < AT_ONCE_MS, `a dial took ${figures.slowestMs} ms`)
    })

    await t.test('serves the first dial of a service without a leader', (t) => {
      t.diagnostic(JSON.stringify({ dialMs: quiet.dialMs, wasLeaderless }))
      assertNoneFailed([quiet])
    })

    await t.test('serves dials of a service that is registered later', async () => {
      await startFleet('late', 1)
      // A server with a stale state can answer the first dials.
      await until('the new instance answers', async () => (await dialOnce(web, 'late')).instance === 'late-1')
    })
  })

  await t.test('without a quorum', async (t) => {
    const leader = await until('a leader', () => currentLeader(cluster))
    const [last] = (await reachable(cluster)).filter((server) => server !== leader) as [Member]
    await leader.kill()
    await until('there is no leader', async () => (await agentJson<string>(last, '/v1/status/leader')) === '')

    for (const [method, dials, rate] of [
      ['by name', byName, PER_SECOND],
      ['by query', byQuery, PER_SECOND / 5],
    ] as const) {
      await t.test(`serves dials ${method} without delay`, async (t) => {
        const from = performance.now()
        await sleep(3_000)
        const to = performance.now()
        // Slow dials must have ended as well.
        await until('the dials have ended', () => (dials.outcomes.at(-1)?.startedAt ?? 0) > to + AT_ONCE_MS)
        const { during, figures } = between(dials.outcomes, from, to)
        t.diagnostic(JSON.stringify(figures))
        assert.ok(during.length > rate / 2, `${during.length} dials`)
        assertNoneFailed(during)
        assert.ok(figures.slowestMs < AT_ONCE_MS, `a dial took ${figures.slowestMs} ms`)
      })
    }

    await t.test('gets few requests that it cannot answer', async (t) => {
      const before = proxy.requests.length
      await sleep(5_000)
      const counts: Record<string, number> = {}
      for (const { request } of proxy.requests.slice(before)) {
        const path = request.replace(/\?.*/, '')
        counts[path] = (counts[path] ?? 0) + 1
      }
      t.diagnostic(JSON.stringify(counts))
      for (const [path, count] of Object.entries(counts)) assert.ok(count <= 10, `${path}: ${count} times`)
    })

    await t.test('serves the first dial by name', async (t) => {
      const outcome = await dialOnce(web, 'silent')
      t.diagnostic(JSON.stringify({ dialMs: outcome.dialMs }))
      assertNoneFailed([outcome])
      assert.ok(outcome.dialMs < AT_ONCE_MS, `after ${outcome.dialMs} ms`)
    })

    await t.test('serves the first dial by query', async (t) => {
      const outcome = await dialOnce(web, { query: 'to-still' })
      t.diagnostic(JSON.stringify({ dialMs: outcome.dialMs }))
      assertNoneFailed([outcome])
    })

    await t.test('serves dials of new services once it has a quorum again', async () => {
      await leader.restart()
      await startFleet('later', 1)
      await until(
        'the new instance answers',
        async () => (await dialOnce(web, 'later')).instance === 'later-1',
      )
    })
  })

  await t.test('has failed no dial', async (t) => {
    const [names, queries] = [await byName.stop(), await byQuery.stop()]
    t.diagnostic(JSON.stringify({ byName: names.length, byQuery: queries.length }))
    assertNoneFailed(names)
    assertNoneFailed(queries)
  })
})

function between(
  outcomes: readonly Outcome[],
  from: number,
  to: number,
): { during: Outcome[]; figures: { dials: number; during: number; slowestMs: number } } {
  const during = outcomes.filter(({ startedAt }) => startedAt > from && startedAt < to)
  const slowestMs = Math.max(...during.map(({ dialMs }) => dialMs))
  return { during, figures: { dials: outcomes.length, during: during.length, slowestMs } }
}

async function newLeader(
  cluster: Cluster,
  survivors: readonly Member[],
  old: Member,
): Promise<Member | undefined> {
  const found = await cluster.leader(survivors)
  return found === old ? undefined : found
}

async function reachable({ servers }: Cluster): Promise<Member[]> {
  const answers = await Promise.allSettled(servers.map((server) => agentJson(server, '/v1/status/leader')))
  return servers.filter((_, i) => answers[i]?.status === 'fulfilled')
}

async function currentLeader(cluster: Cluster): Promise<Member | undefined> {
  return cluster.leader(await reachable(cluster))
}
