import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type AgentRequestMessage,
  DialError,
  type NoInstancesReason,
  type Upstream,
} from '../../src/index.js'
import { attemptsOf } from './ejections.js'
import { type Instance, fleet } from './fleet.js'
import { onNode, place } from './nodes.js'
import { skip, startConsul } from './real-agent.js'
import { recordingProxy } from './recording-proxy.js'
import { agentJson, agentOptions, joiner, register, until } from './service-mesh.js'
import { type Outcome, SteadyDials, assertNoneFailed, dialOnce, shares } from './steady-dials.js'

/** What is refused is refused without a wait. */
const AT_ONCE_MS = 1_000
/** How long a dial waits for a new answer when it has an old one, and what else it takes. */
const NEW_ANSWER_MS = 2_000
/** The agent's clock and ours, and a request on its way. */
const TOLERANCE_MS = 50

test('prepared queries', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')

  // It decides by itself, so that it takes calls while the agent is away.
  await fleet(t, consul, join('api', { authorize: () => ({ authorized: true, reason: 'test' }) }), 2)

  await t.test('by name and by id', async () => {
    const id = await define({ Name: 'to-api', Service: { Service: 'api' } })
    for (const query of ['to-api', id]) {
      assert.deepEqual(names(await many(50, { query })), ['api-1', 'api-2'])
      const [endpoint] = await web.resolve({ query })
      assert.deepEqual(endpoint?.identity, {
        service: 'api',
        datacenter: 'dc1',
        namespace: undefined,
        partition: undefined,
      })
    }
  })

  await t.test('with tags, wanted and unwanted', async (t) => {
    const tags = [['a'], ['a', 'b'], ['b', 'c']]
    await fleet(t, consul, join('tagged'), 3, (i) => ({ Tags: tags[i - 1] }))
    for (const [name, wanted, found] of [
      ['tag-a', ['a'], ['tagged-1', 'tagged-2']],
      ['tag-ab', ['a', 'b'], ['tagged-2']],
      ['tag-not-a', ['!a'], ['tagged-3']],
    ] as const) {
      await define({ Name: name, Service: { Service: 'tagged', Tags: wanted } })
      assert.deepEqual(names(await many(100, { query: name })), found)
    }
    await define({ Name: 'tag-none', Service: { Service: 'tagged', Tags: ['none'] } })
    await assertRefusal('tag-none', 'empty')
  })

  await t.test('by distance', async (t) => {
    const geo = join('geo')
    const all: Instance[] = []
    for (const i of [1, 2, 3]) {
      all.push(await onNode(t, consul, geo, { node: `n${i}`, host: `127.0.2.${i}` }))
    }
    const [n1, n2, n3] = all as [Instance, Instance, Instance]
    await place(consul, { embedded: 0, n1: 10, n2: 30, n3: 60 })
    await define({ Name: 'geo', Service: { Service: 'geo' } })
    await define({ Name: 'near-n3', Service: { Service: 'geo', Near: 'n3' } })
    await define({ Name: 'near-agent', Service: { Service: 'geo', Near: '_agent' } })

    for (const [upstream, order] of [
      [{ query: 'geo', near: 'n3' }, [n3, n2, n1]],
      [{ query: 'geo', near: 'n2' }, [n2, n1, n3]],
      [{ query: 'geo', near: '_agent' }, [n1, n2, n3]],
      [{ query: 'near-n3' }, [n3, n2, n1]],
      [{ query: 'near-agent' }, [n1, n2, n3]],
      [{ query: 'near-n3', near: 'n1' }, [n1, n2, n3]],
      [{ service: 'geo', near: 'n3' }, [n3, n2, n1]],
      [{ service: 'geo', near: '_agent' }, [n1, n2, n3]],
    ] as const) {
      await t.test(`${JSON.stringify(upstream)}: the nearest that lives`, async (t) => {
        const resolved = (await web.resolve(upstream)).map(({ host, port }) => `${host}:${port}`)
        assert.deepEqual(resolved, addresses(order))
        const [nearest, next, last] = order
        assert.deepEqual(shares(await many(30, upstream)), { [nearest.name]: 30 })
        const attempts = attemptsOf(t)
        await nearest.die('refuses')
        await next.die('refuses')
        assert.deepEqual(shares(await many(1, upstream)), { [last.name]: 1 })
        assert.deepEqual(
          attempts.map(({ address }) => address),
          addresses(order),
        )
        // At most one of three may be ejected: the nearest is, and the next is tried again and again.
        assert.deepEqual(shares(await many(10, upstream)), { [last.name]: 10 })
        await next.live()
        assert.deepEqual(shares(await many(10, upstream)), { [next.name]: 10 })
        await nearest.live()
        await until('it is back', async () => (await dialOnce(web, upstream)).instance === nearest.name)
        assert.deepEqual(shares(await many(10, upstream)), { [nearest.name]: 10 })
      })
    }

    await t.test('without a place to be near to: all', async () => {
      assert.deepEqual(names(await many(100, { query: 'geo' })), ['geo-n1', 'geo-n2', 'geo-n3'])
    })
  })

  await t.test('templates', async (t) => {
    await fleet(t, consul, join('one'), 1)
    await fleet(t, consul, join('two'), 1)
    const Template = { Type: 'name_prefix_match', Regexp: '^any-(.+)$' }
    await define({ Name: 'any-', Template, Service: { Service: '${match(1)}' } })
    for (const service of ['one', 'two']) {
      assert.deepEqual(shares(await many(5, { query: `any-${service}` })), { [`${service}-1`]: 5 })
      assert.equal((await web.resolve({ query: `any-${service}` }))[0]?.identity.service, service)
    }
    await assertRefusal('any-three', 'empty')
    // The prefix alone matches as well, and then there is no service to look for.
    assert.notEqual((await dialOnce(web, { query: 'any-' })).error, undefined)
  })

  await t.test('that are not there', async () => {
    await assertRefusal('nothing', 'unknown')
    await assertRefusal(randomUUID(), 'unknown')
  })

  await t.test('that are deleted are not there any longer', async () => {
    const id = await define({ Name: 'for-now', Service: { Service: 'api' }, DNS: { TTL: '1s' } })
    await many(1, { query: 'for-now' })
    await agentJson(consul, `/v1/query/${id}`, { method: 'DELETE' })
    await assertRefusal(id, 'unknown')
    await sleep(1_100)
    await assertRefusal('for-now', 'unknown')
  })

  await t.test('that are changed are followed, and so is whom they are about', async (t) => {
    await fleet(t, consul, join('other'), 1)
    const definition = { Name: 'either', DNS: { TTL: '1s' } }
    const id = await define({ ...definition, Service: { Service: 'api' } })
    assert.deepEqual(names(await many(50, { query: 'either' })), ['api-1', 'api-2'])
    const body = JSON.stringify({ ...definition, Service: { Service: 'other' } })
    await agentJson(consul, `/v1/query/${id}`, { method: 'PUT', body })
    await sleep(1_100)
    assert.deepEqual(names(await many(10, { query: 'either' })), ['other-1'])
  })

  await t.test('of services that cannot be dialled', async () => {
    const sick = { Name: 'sick', Port: 1, Connect: { Native: true }, Check: { TTL: '600s' } }
    await register(consul, sick)
    await register(consul, { Name: 'plain', Port: 1 })
    for (const name of ['sick', 'plain', 'nobody']) {
      await define({ Name: `to-${name}`, Service: { Service: name } })
      await assertRefusal(`to-${name}`, 'empty')
    }
  })

  await t.test('one that warns: as the query wants it', async (t) => {
    await fleet(t, consul, join('warned'), 2, (i, name) => ({
      Check: { CheckID: name, TTL: '600s', Status: i === 1 ? 'warning' : 'passing' },
    }))
    await define({ Name: 'all-warned', Service: { Service: 'warned' } })
    await define({ Name: 'only-passing', Service: { Service: 'warned', OnlyPassing: true } })
    assert.deepEqual(names(await many(50, { query: 'all-warned' })), ['warned-1', 'warned-2'])
    assert.deepEqual(names(await many(50, { query: 'only-passing' })), ['warned-2'])
  })

  await t.test('are executed again after their own TTL, and no sooner', async (t) => {
    const proxy = await recordingProxy(t, consul)
    const counted = join('counted', { agent: agentOptions(consul, { address: proxy.address }) })
    await counted.ready()
    const ttls = { 'ttl-2s': 2_000, 'ttl-10ms': 1_000, 'ttl-none': 10_000 }
    await define({ Name: 'ttl-2s', Service: { Service: 'api' }, DNS: { TTL: '2s' } })
    await define({ Name: 'ttl-10ms', Service: { Service: 'api' }, DNS: { TTL: '10ms' } })
    await define({ Name: 'ttl-none', Service: { Service: 'api' } })
    const answers = agentAnswers(t)
    const before = proxy.requests.length
    // Few at a time: on a busy machine the handshakes of many would outlast the time of a dial.
    const rate = { perSecond: 20, mostAtATime: 4 }
    const all = Object.keys(ttls).map((query) => new SteadyDials(t, counted, { query }, rate))
    await sleep(7_000)
    const dials = await Promise.all(all.map((each) => each.stop()))
    assertNoneFailed(dials.flat())
    const counts: Record<string, number> = {}
    for (const [i, [query, ttlMs]] of Object.entries(ttls).entries()) {
      const executed = answers.filter(({ path }) => path === `/v1/query/${query}/execute`)
      counts[query] = executed.length
      for (const [n, { startedAt }] of executed.slice(1).entries()) {
        const dueAt = executed[n]!.endedAt + ttlMs
        assert.ok(
          startedAt >= dueAt - TOLERANCE_MS,
          `${query} was executed ${dueAt - startedAt} ms too early`,
        )
        // How much later depends on the machine; the first dial that comes after the TTL must execute the query.
        const missed = dials[i]!.filter(
          (dial) => dial.startedAt > dueAt + TOLERANCE_MS && dial.endedAt < startedAt,
        )
        assert.equal(missed.length, 0, `${query}: ${missed.length} dials used an answer that was too old`)
      }
      if (ttlMs <= 2_000) assert.ok(executed.length >= 2, `${query} was executed ${executed.length} times`)
      // A busy machine may not answer in the 500 ms after which a dial goes on without the definition.
      const explained = answers.filter(
        ({ path, error }) => path === `/v1/query/${query}/explain` && error === undefined,
      )
      assert.equal(explained.length, 1)
    }
    t.diagnostic(JSON.stringify({ dials: dials.flat().length, counts }))
    const others = proxy.requests.slice(before).filter(({ request }) => !request.includes('/v1/query/'))
    assert.deepEqual(others, [])
  })

  await t.test('are executed again at once when nobody of the last answer can be reached', async (t) => {
    const service = join('moves')
    const [old] = (await fleet(t, consul, service, 1)) as [Instance]
    await define({ Name: 'to-moves', Service: { Service: 'moves' }, DNS: { TTL: '1h' } })
    const upstream = { query: 'to-moves' }
    assert.deepEqual(shares(await many(1, upstream)), { 'moves-1': 1 })
    await old.die('refuses')
    const moved = await onNode(t, consul, service, { node: 'elsewhere', host: '127.0.2.9' })
    // It was answered just now, and is asked for no more than once a second.
    await sleep(1_000)
    assert.deepEqual(shares(await many(5, upstream)), { [moved.name]: 5 })
  })

  await t.test('are not executed while the agent is away: the last answer serves', async (t) => {
    await define({ Name: 'short', Service: { Service: 'api' }, DNS: { TTL: '1s' } })
    await many(1, { query: 'short' })
    await sleep(1_100)

    await t.test('when it hangs', async (t) => {
      consul.freeze()
      const outcome = await dialOnce(web, { query: 'short' })
      consul.thaw()
      t.diagnostic(JSON.stringify({ dialMs: outcome.dialMs }))
      assertNoneFailed([outcome])
      assert.ok(outcome.dialMs < NEW_ANSWER_MS, `after ${outcome.dialMs} ms`)
    })

    await t.test('when it is dead', async () => {
      await consul.kill()
      const trusting = await many(20, { query: 'short' })
      assert.ok(trusting.every(({ dialMs }) => dialMs < NEW_ANSWER_MS))
    })
  })

  async function define(query: object): Promise<string> {
    const init = { method: 'POST', body: JSON.stringify(query) }
    return (await agentJson<{ ID: string }>(consul, '/v1/query', init)).ID
  }

  async function many(count: number, upstream: Upstream): Promise<Outcome[]> {
    const outcomes: Outcome[] = []
    for (let i = 0; i < count; i += 1) outcomes.push(await dialOnce(web, upstream))
    assertNoneFailed(outcomes)
    return outcomes
  }

  async function assertRefusal(query: string, reason: NoInstancesReason): Promise<void> {
    const { error, dialMs } = await dialOnce(web, { query })
    const what = `${query}: ${String(error)}`
    assert.ok(error instanceof DialError, what)
    assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES', what)
    assert.equal(error.reason, reason, what)
    assert.ok(dialMs < AT_ONCE_MS, `${what} after ${dialMs} ms`)
  }
})

interface AgentAnswer extends AgentRequestMessage {
  /** By `performance.now`. */
  readonly startedAt: number
  readonly endedAt: number
}

/** The requests of this process to its agents, with times that do not depend on how soon another process reads them. */
function agentAnswers(t: TestContext): readonly AgentAnswer[] {
  const answers: AgentAnswer[] = []
  const onMessage = (message: unknown): void => {
    const request = message as AgentRequestMessage
    const endedAt = performance.now()
    answers.push({ ...request, startedAt: endedAt - request.durationMs, endedAt })
  }
  subscribe('consul-connect:agent-request', onMessage)
  t.after(() => unsubscribe('consul-connect:agent-request', onMessage))
  return answers
}

function names(outcomes: readonly Outcome[]): string[] {
  return Object.keys(shares(outcomes)).toSorted()
}

function addresses(all: readonly Instance[]): string[] {
  return all.map(({ address }) => address)
}
