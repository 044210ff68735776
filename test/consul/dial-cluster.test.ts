import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Authorizer, ServiceOptions } from '../../src/index.js'
import { type Cluster, type Member, startCluster } from './cluster.js'
import { fleet } from './fleet.js'
import { skip } from './real-agent.js'
import { recordingProxy } from './recording-proxy.js'
import { agentJson, agentOptions, joiner, until } from './service-mesh.js'
import { type Outcome, SteadyDials, assertNoneFailed, dialOnce, shares } from './steady-dials.js'

const PER_SECOND = 100
/** A little longer than the servers wait for a leader before they say that there is none. */
const ELECTION_MS = 20_000
/** A read that any server may answer needs no leader. */
const AT_ONCE_MS = 2_000

test('a cluster of three servers and two clients', { skip }, async (t) => {
  const cluster = await startCluster(t)
  const [here, there] = cluster.clients as [Member, Member]
  // Each in the mesh by its own agent: callers by the one, the called by the other.
  const [caller, called] = [joiner(t, here), joiner(t, there)]
  const proxy = await recordingProxy(t, here)
  const web = caller('web', { agent: agentOptions(here, { address: proxy.address }) })
  const offered = async (name: string, count: number, options?: ServiceOptions): Promise<void> => {
    await fleet(t, there, called(name, options), count)
    await until(`${name} is known at the caller's`, async () => {
      const found = await agentJson<unknown[]>(here, `/v1/health/connect/${name}?passing`)
      return found.length === count
    })
  }
  await offered('api', 3)
  // They decide by themselves: an agent that is asked for the first time about intentions would need a leader.
  const authorize: Authorizer = () => ({ authorized: true, reason: 'test' })
  for (const name of ['quiet', 'silent', 'still']) await offered(name, 1, { authorize })
  for (const [Name, Service] of [
    ['to-api', 'api'],
    ['to-still', 'still'],
  ]) {
    const body = JSON.stringify({ Name, Service: { Service }, DNS: { TTL: '1s' } })
    await agentJson(here, '/v1/query', { method: 'POST', body })
  }

  const byName = new SteadyDials(t, web, 'api', { perSecond: PER_SECOND })
  const byQuery = new SteadyDials(t, web, { query: 'to-api' }, { perSecond: PER_SECOND / 5 })
  await until('all answer', () => Object.keys(shares(byName.outcomes)).length === 3)
  await until('the query too', () => Object.keys(shares(byQuery.outcomes)).length === 3)

  await t.test('that loses its leader and elects another', async (t) => {
    const first = await until('a leader', () => cluster.leader())
    const killedAt = performance.now()
    await first.kill()
    const survivors = cluster.servers.filter((server) => server !== first)
    const quiet = await dialOnce(web, 'quiet')
    const stillNone = await leaderless(cluster, survivors, first)
    const second = await until('another leader', () => newLeader(cluster, survivors, first), ELECTION_MS)
    const electedAt = performance.now()

    await t.test('is dialled through all of it by name', async (t) => {
      await until('some more', () => (byName.outcomes.at(-1)?.startedAt ?? 0) > electedAt + 2_000)
      const { figures } = between(byName.outcomes, killedAt, electedAt)
      t.diagnostic(
        JSON.stringify({ electionMs: electedAt - killedAt, ...figures, from: first.name, to: second.name }),
      )
      assertNoneFailed(byName.outcomes)
      assert.ok(figures.slowestMs < AT_ONCE_MS, `a dial took ${figures.slowestMs} ms`)
    })

    await t.test('and by a query', async (t) => {
      await until('some more', () => (byQuery.outcomes.at(-1)?.startedAt ?? 0) > electedAt + 2_000)
      const { figures } = between(byQuery.outcomes, killedAt, electedAt)
      t.diagnostic(JSON.stringify(figures))
      assertNoneFailed(byQuery.outcomes)
      assert.ok(figures.slowestMs < AT_ONCE_MS, `a dial took ${figures.slowestMs} ms`)
    })

    await t.test('is dialled for the first time while there is no leader', (t) => {
      t.diagnostic(JSON.stringify({ dialMs: quiet.dialMs, stillNone }))
      assertNoneFailed([quiet])
    })

    await t.test('tells of who is registered afterwards', async () => {
      await offered('late', 1)
      // Any server answers a dial, also one that is a moment behind.
      await until('it is dialled', async () => (await dialOnce(web, 'late')).instance === 'late-1')
    })
  })

  await t.test('that has lost its quorum', async (t) => {
    const leader = await until('a leader', () => aliveLeader(cluster))
    const [last] = (await alive(cluster)).filter((server) => server !== leader) as [Member]
    await leader.kill()
    await until('there is no leader', async () => (await agentJson<string>(last, '/v1/status/leader')) === '')

    for (const [how, dials, rate] of [
      ['by name', byName, PER_SECOND],
      ['by a query', byQuery, PER_SECOND / 5],
    ] as const) {
      await t.test(`is dialled as before ${how}, without a wait`, async (t) => {
        const from = performance.now()
        // What takes long is counted too.
        await sleep(3_000)
        const to = performance.now()
        await until('they are over', () => (dials.outcomes.at(-1)?.startedAt ?? 0) > to + AT_ONCE_MS)
        const { during, figures } = between(dials.outcomes, from, to)
        t.diagnostic(JSON.stringify(figures))
        assert.ok(during.length > rate / 2, `${during.length} dials`)
        assertNoneFailed(during)
        assert.ok(figures.slowestMs < AT_ONCE_MS, `a dial took ${figures.slowestMs} ms`)
      })
    }

    await t.test('is not asked again and again for what it does not know', async (t) => {
      const before = proxy.requests.length
      await sleep(5_000)
      const asked: Record<string, number> = {}
      for (const { request } of proxy.requests.slice(before)) {
        const path = request.replace(/\?.*/, '')
        asked[path] = (asked[path] ?? 0) + 1
      }
      t.diagnostic(JSON.stringify(asked))
      for (const [path, count] of Object.entries(asked)) assert.ok(count <= 10, `${path}: ${count} times`)
    })

    await t.test('is dialled for the first time by name', async (t) => {
      const outcome = await dialOnce(web, 'silent')
      t.diagnostic(JSON.stringify({ dialMs: outcome.dialMs }))
      assertNoneFailed([outcome])
      assert.ok(outcome.dialMs < AT_ONCE_MS, `after ${outcome.dialMs} ms`)
    })

    await t.test('is dialled for the first time by a query', async (t) => {
      const outcome = await dialOnce(web, { query: 'to-still' })
      t.diagnostic(JSON.stringify({ dialMs: outcome.dialMs }))
      assertNoneFailed([outcome])
    })

    await t.test('and has it again: new ones are seen', async () => {
      await leader.restart()
      await offered('later', 1)
      await until('it is dialled', async () => (await dialOnce(web, 'later')).instance === 'later-1')
    })
  })

  await t.test('no dial by name has failed, from the beginning to the end', async (t) => {
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

async function leaderless(cluster: Cluster, survivors: readonly Member[], old: Member): Promise<boolean> {
  return (await newLeader(cluster, survivors, old)) === undefined
}

async function alive({ servers }: Cluster): Promise<Member[]> {
  const answers = await Promise.allSettled(servers.map((server) => agentJson(server, '/v1/status/leader')))
  return servers.filter((_, i) => answers[i]?.status === 'fulfilled')
}

async function aliveLeader(cluster: Cluster): Promise<Member | undefined> {
  return cluster.leader(await alive(cluster))
}
