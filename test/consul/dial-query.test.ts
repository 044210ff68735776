import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type AgentRequestMessage, DialError, type NoInstancesReason } from '../../src/index.js'
import { attemptsOf } from './ejections.js'
import { type Instance, fleet } from './fleet.js'
import { onNode, setCoordinates } from './nodes.js'
import { skip, startConsul } from './real-agent.js'
import { recordingProxy } from './recording-proxy.js'
import {
  ALLOW_ALL,
  agentJson,
  agentOptions,
  agentPut,
  createQuery,
  joiner,
  register,
  until,
} from './service-mesh.js'
import { SteadyDials, assertNoneFailed, dialMany, dialOnce, instanceNames, shares } from './steady-dials.js'

/** The bound of dials that fail without waiting. */
const AT_ONCE_MS = 1_000
/** The bound of dials that wait for a new answer while they have an old one. */
const NEW_ANSWER_MS = 2_000
/** For the difference of two clocks, and the latency of requests. */
const TOLERANCE_MS = 50

test('prepared queries', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')
  // The instances must authorize without the agent.
  await fleet(t, consul, join('api', { authorize: ALLOW_ALL }), 2)

  await t.test('are found by name and by ID', async () => {
    const id = await define({ Name: 'to-api', Service: { Service: 'api' } })
    for (const query of ['to-api', id]) {
      assert.deepEqual(instanceNames(await dialMany(web, 50, { query })), ['api-1', 'api-2'])
      const [endpoint] = await web.resolve({ query })
      assert.deepEqual(endpoint?.identity, {
        service: 'api',
        datacenter: 'dc1',
        namespace: undefined,
        partition: undefined,
      })
    }
  })

  await t.test('filter by required and excluded tags', async (t) => {
    const tags = [['a'], ['a', 'b'], ['b', 'c']]
    await fleet(t, consul, join('tagged'), 3, (i) => ({ Tags: tags[i - 1] }))
    for (const [name, wanted, found] of [
      ['tag-a', ['a'], ['tagged-1', 'tagged-2']],
      ['tag-ab', ['a', 'b'], ['tagged-2']],
      ['tag-not-a', ['!a'], ['tagged-3']],
    ] as const) {
      await define({ Name: name, Service: { Service: 'tagged', Tags: wanted } })
      assert.deepEqual(instanceNames(await dialMany(web, 100, { query: name })), found)
    }
    await define({ Name: 'tag-none', Service: { Service: 'tagged', Tags: ['none'] } })
    await assertNoInstances('tag-none', 'empty')
  })

  await t.test('sort by distance', async (t) => {
    const geo = join('geo')
    const all: Instance[] = []
    for (const i of [1, 2, 3]) {
      all.push(await onNode(t, consul, geo, { node: `n${i}`, host: `127.0.2.${i}` }))
    }
    const [n1, n2, n3] = all as [Instance, Instance, Instance]
    await setCoordinates(consul, { embedded: 0, n1: 10, n2: 30, n3: 60 })
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
      await t.test(`${JSON.stringify(upstream)}: dials the nearest instance that serves`, async (t) => {
        const resolved = (await web.resolve(upstream)).map(({ host, port }) => `${host}:${port}`)
        assert.deepEqual(resolved, addresses(order))
        const [nearest, second, last] = order
        assert.deepEqual(shares(await dialMany(web, 30, upstream)), { [nearest.name]: 30 })
        const attempts = attemptsOf(t)
        await nearest.fail('refuses')
        await second.fail('refuses')
        assert.deepEqual(shares(await dialMany(web, 1, upstream)), { [last.name]: 1 })
        assert.deepEqual(
          attempts.map(({ address }) => address),
          addresses(order),
        )
        // At most one of three instances is ejected, so that each dial tries the second one.
        assert.deepEqual(shares(await dialMany(web, 10, upstream)), { [last.name]: 10 })
        await second.serve()
        assert.deepEqual(shares(await dialMany(web, 10, upstream)), { [second.name]: 10 })
        await nearest.serve()
        await until(
          'the nearest instance answers',
          async () => (await dialOnce(web, upstream)).instance === nearest.name,
        )
        assert.deepEqual(shares(await dialMany(web, 10, upstream)), { [nearest.name]: 10 })
      })
    }

    await t.test('without a node to be near: dials all instances', async () => {
      assert.deepEqual(instanceNames(await dialMany(web, 100, { query: 'geo' })), [
        'geo-n1',
        'geo-n2',
        'geo-n3',
      ])
    })
  })

  await t.test('can be templates', async (t) => {
    await fleet(t, consul, join('one'), 1)
    await fleet(t, consul, join('two'), 1)
    const Template = { Type: 'name_prefix_match', Regexp: '^any-(.+)$' }
    await define({ Name: 'any-', Template, Service: { Service: '${match(1)}' } })
    for (const service of ['one', 'two']) {
      assert.deepEqual(shares(await dialMany(web, 5, { query: `any-${service}` })), { [`${service}-1`]: 5 })
      assert.equal((await web.resolve({ query: `any-${service}` }))[0]?.identity.service, service)
    }
    await assertNoInstances('any-three', 'empty')
    // The prefix matches as well, but yields no service name.
    assert.notEqual((await dialOnce(web, { query: 'any-' })).error, undefined)
  })

  await t.test('are reported as unknown when they do not exist', async () => {
    await assertNoInstances('nothing', 'unknown')
    await assertNoInstances(randomUUID(), 'unknown')
  })

  await t.test('are reported as unknown once they are deleted', async () => {
    const id = await define({ Name: 'for-now', Service: { Service: 'api' }, DNS: { TTL: '1s' } })
    await dialMany(web, 1, { query: 'for-now' })
    await agentJson(consul, `/v1/query/${id}`, { method: 'DELETE' })
    await assertNoInstances(id, 'unknown')
    await sleep(1_100)
    await assertNoInstances('for-now', 'unknown')
  })

  await t.test('change the expected identity when they are updated', async (t) => {
    await fleet(t, consul, join('other'), 1)
    const definition = { Name: 'either', DNS: { TTL: '1s' } }
    const id = await define({ ...definition, Service: { Service: 'api' } })
    assert.deepEqual(instanceNames(await dialMany(web, 50, { query: 'either' })), ['api-1', 'api-2'])
    await agentPut(consul, `/v1/query/${id}`, { ...definition, Service: { Service: 'other' } })
    await sleep(1_100)
    assert.deepEqual(instanceNames(await dialMany(web, 10, { query: 'either' })), ['other-1'])
  })

  await t.test('are reported as empty without an instance to dial', async () => {
    const sick = { Name: 'sick', Port: 1, Connect: { Native: true }, Check: { TTL: '600s' } }
    await register(consul, sick)
    await register(consul, { Name: 'plain', Port: 1 })
    for (const name of ['sick', 'plain', 'missing']) {
      await define({ Name: `to-${name}`, Service: { Service: name } })
      await assertNoInstances(`to-${name}`, 'empty')
    }
  })

  await t.test('return warning instances without OnlyPassing', async (t) => {
    await fleet(t, consul, join('warned'), 2, (i, name) => ({
      Check: { CheckID: name, TTL: '600s', Status: i === 1 ? 'warning' : 'passing' },
    }))
    await define({ Name: 'all-warned', Service: { Service: 'warned' } })
    await define({ Name: 'only-passing', Service: { Service: 'warned', OnlyPassing: true } })
    assert.deepEqual(instanceNames(await dialMany(web, 50, { query: 'all-warned' })), [
      'warned-1',
      'warned-2',
    ])
    assert.deepEqual(instanceNames(await dialMany(web, 50, { query: 'only-passing' })), ['warned-2'])
  })

  await t.test('are executed again after their TTL, and not before', async (t) => {
    const proxy = await recordingProxy(t, consul)
    const counted = join('counted', { agent: agentOptions(consul, { address: proxy.address }) })
    await counted.ready()
    const ttls = { 'ttl-2s': 2_000, 'ttl-10ms': 1_000, 'ttl-none': 10_000 }
    await define({ Name: 'ttl-2s', Service: { Service: 'api' }, DNS: { TTL: '2s' } })
    await define({ Name: 'ttl-10ms', Service: { Service: 'api' }, DNS: { TTL: '10ms' } })
    await define({ Name: 'ttl-none', Service: { Service: 'api' } })
    const answers = agentAnswers(t)
    const before = proxy.requests.length
    // On a busy machine, the handshakes of more parallel dials would take longer than the timeout of a dial.
    const rate = { perSecond: 20, maxParallel: 4 }
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
        // The first dial after the TTL must execute the query.
        const missed = dials[i]!.filter(
          (dial) => dial.startedAt > dueAt + TOLERANCE_MS && dial.endedAt < startedAt,
        )
        assert.equal(missed.length, 0, `${query}: ${missed.length} dials used an expired answer`)
      }
      if (ttlMs <= 2_000) assert.ok(executed.length >= 2, `${query} was executed ${executed.length} times`)
      // On a busy machine, a dial can continue without the definition, after 500 ms.
      const explained = answers.filter(
        ({ path, error }) => path === `/v1/query/${query}/explain` && error === undefined,
      )
      assert.equal(explained.length, 1)
    }
    t.diagnostic(JSON.stringify({ dials: dials.flat().length, counts }))
    const others = proxy.requests.slice(before).filter(({ request }) => !request.includes('/v1/query/'))
    assert.deepEqual(others, [])
  })

  await t.test('are executed again when no instance of the last answer can be reached', async (t) => {
    const service = join('moves')
    const [first] = (await fleet(t, consul, service, 1)) as [Instance]
    await define({ Name: 'to-moves', Service: { Service: 'moves' }, DNS: { TTL: '1h' } })
    const upstream = { query: 'to-moves' }
    assert.deepEqual(shares(await dialMany(web, 1, upstream)), { 'moves-1': 1 })
    await first.fail('refuses')
    const moved = await onNode(t, consul, service, { node: 'elsewhere', host: '127.0.2.9' })
    // A query is executed at most once per second.
    await sleep(1_000)
    assert.deepEqual(shares(await dialMany(web, 5, upstream)), { [moved.name]: 5 })
  })

  await t.test('keep their last answer without the agent', async (t) => {
    await define({ Name: 'short', Service: { Service: 'api' }, DNS: { TTL: '1s' } })
    await dialMany(web, 1, { query: 'short' })
    await sleep(1_100)

    await t.test('while it hangs', async (t) => {
      consul.freeze()
      const outcome = await dialOnce(web, { query: 'short' })
      consul.thaw()
      t.diagnostic(JSON.stringify({ dialMs: outcome.dialMs }))
      assertNoneFailed([outcome])
      assert.ok(outcome.dialMs < NEW_ANSWER_MS, `after ${outcome.dialMs} ms`)
    })

    await t.test('while it is down', async () => {
      await consul.kill()
      const outcomes = await dialMany(web, 20, { query: 'short' })
      assert.ok(outcomes.every(({ dialMs }) => dialMs < NEW_ANSWER_MS))
    })
  })

  function define(query: object): Promise<string> {
    return createQuery(consul, query)
  }

  async function assertNoInstances(query: string, reason: NoInstancesReason): Promise<void> {
    const { error, dialMs } = await dialOnce(web, { query })
    const message = `${query}: ${String(error)}`
    assert.ok(error instanceof DialError, message)
    assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES', message)
    assert.equal(error.reason, reason, message)
    assert.ok(dialMs < AT_ONCE_MS, `${message} after ${dialMs} ms`)
  }
})

interface AgentAnswer extends AgentRequestMessage {
  /** By `performance.now`. */
  readonly startedAt: number
  readonly endedAt: number
}

/** Collects the requests of this process to its agents, with their times. */
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

function addresses(all: readonly Instance[]): string[] {
  return all.map(({ address }) => address)
}
