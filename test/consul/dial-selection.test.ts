import assert from 'node:assert/strict'
import { once } from 'node:events'
import { networkInterfaces } from 'node:os'
import { test } from 'node:test'
import {
  AgentError,
  type ConnectError,
  DialError,
  type MeshSocket,
  type NoInstancesReason,
  type Upstream,
} from '../../src/index.js'
import { portOf, readAll } from '../fixtures/mesh.js'
import { type Instance, fleet } from './fleet.js'
import { skip, startConsul } from './real-agent.js'
import { agentJson, joiner, register, until } from './service-mesh.js'
import { type Outcome, SteadyDials, answerAs, assertNoneFailed, dialOnce, shares } from './steady-dials.js'

/** From the moment that the agent tells it to whoever asks. */
const SOON_MS = 500
/** What is refused is refused without a wait. */
const AT_ONCE_MS = 1_000

test('which instances are dialled', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')
  const ttlCheck = (_: number, name: string): object => ({
    Check: { CheckID: name, TTL: '600s', Status: 'passing' },
  })

  await t.test('not one whose check has failed or that is deregistered', async (t) => {
    const all = await fleet(t, consul, join('sick'), 5, ttlCheck)
    const [first, second, third] = all as [Instance, Instance, Instance]
    const dials = new SteadyDials(t, web, 'sick', { perSecond: 100 })
    await everybodyAnswers(dials, all)
    const latencies: Record<string, number> = {}

    await t.test('critical', async () => {
      await tellCheck('fail', first.name)
      latencies['critical'] = await leaves(dials, first, 'sick')
    })
    await t.test('deregistered', async () => {
      await agentJson(consul, `/v1/agent/service/deregister/${second.name}`, { method: 'PUT' })
      latencies['deregistered'] = await leaves(dials, second, 'sick')
    })
    await t.test('in maintenance', async () => {
      const path = `/v1/agent/service/maintenance/${third.name}?enable=true`
      await agentJson(consul, path, { method: 'PUT' })
      latencies['in maintenance'] = await leaves(dials, third, 'sick')
    })
    await t.test('and those that are well again are', async () => {
      await tellCheck('pass', first.name)
      const path = `/v1/agent/service/maintenance/${third.name}?enable=false`
      await agentJson(consul, path, { method: 'PUT' })
      const before = dials.outcomes.length
      await until('they are dialled', () => {
        const counts = shares(dials.outcomes.slice(before))
        return first.name in counts && third.name in counts
      })
    })

    const outcomes = await dials.stop()
    t.diagnostic(JSON.stringify({ dials: outcomes.length, latencies }))
    assertNoneFailed(outcomes)
  })

  await t.test('by weight', async (t) => {
    const weights = [1, 3]
    const service = join('weighty')
    await fleet(t, consul, service, 2, (i) => ({ Weights: { Passing: weights[i - 1], Warning: 1 } }))

    await t.test('one after the other', async () => {
      assertShare(t, await many(800, 'weighty'), 'weighty-1', 1 / 4)
    })

    await t.test('each begun when the one before has its answer, and is hardly closed', async (t) => {
      const answers: string[] = []
      for (let i = 0; i < 800; i += 1) {
        const socket = await web.dial('weighty')
        socket.write('word')
        answers.push(await readAll(socket))
      }
      const light = answers.filter((answer) => answer === 'weighty-1 word').length
      t.diagnostic(JSON.stringify({ dials: answers.length, light }))
      // What is open for no time must not count for more than a weight.
      assert.ok(light > 100 && light < 300, `${light} of ${answers.length}, not about 200`)
    })

    await t.test('while so many are open', async (t) => {
      const counts: Record<number, number> = {}
      for (const many of [1, 2, 4, 8]) {
        const open: MeshSocket[] = []
        let light = 0
        for (let i = 0; i < 600; i += 1) {
          const socket = await web.dial('weighty')
          if (socket.remoteAddress === '127.0.1.1') light += 1
          open.push(socket)
          if (open.length > many) await hangUp(open.shift()!)
        }
        await Promise.all(open.map(hangUp))
        counts[many] = light
      }
      t.diagnostic(JSON.stringify(counts))
      // Whole connections cannot be shared out by weight; what is open must not count for more than a weight.
      for (const light of Object.values(counts)) {
        assert.ok(light > 60 && light < 225, `${JSON.stringify(counts)} of 600, not about 150`)
      }
    })

    await t.test('and when all stay open, by what each has already', async (t) => {
      const open = []
      for (let i = 0; i < 200; i += 1) open.push(await web.dial('weighty'))
      const light = open.filter(({ remoteAddress }) => remoteAddress === '127.0.1.1').length
      await Promise.all(open.map(hangUp))
      t.diagnostic(JSON.stringify({ open: open.length, light }))
      // A fifth of what chance alone would be excused.
      assert.ok(Math.abs(light - 50) <= 6, `${light} of 200`)
    })
  })

  await t.test('one that warns: only when it is asked for, and by its other weight', async (t) => {
    const all = await fleet(t, consul, join('warned'), 2, (i, name) => ({
      ...ttlCheck(i, name),
      Weights: { Passing: 3, Warning: 1 },
    }))
    await tellCheck('warn', all[0]!.name)
    await until('it is known', async () => (await passing('warned')) === 1)
    const only = await many(200, 'warned')
    assert.deepEqual(shares(only), { 'warned-2': 200 })
    assertShare(t, await many(800, { service: 'warned', onlyPassing: false }), 'warned-1', 1 / 4)
    await tellCheck('warn', all[1]!.name)
    await until('both are known', async () => (await passing('warned')) === 0)
    await until('it is refused', async () => refusal('warned', 'not-passing'))
    const both = shares(await many(20, { service: 'warned', onlyPassing: false }))
    assert.deepEqual(Object.keys(both).toSorted(), ['warned-1', 'warned-2'])
  })

  await t.test('by tags, all of them', async (t) => {
    const tags = [['a'], ['a', 'b'], ['b', 'c']]
    await fleet(t, consul, join('tagged'), 3, (i) => ({ Tags: tags[i - 1] }))
    for (const [wanted, found] of [
      [[], ['tagged-1', 'tagged-2', 'tagged-3']],
      [['a'], ['tagged-1', 'tagged-2']],
      [['b', 'a'], ['tagged-2']],
      [['c'], ['tagged-3']],
    ] as const) {
      await dialsExactly({ service: 'tagged', tags: wanted }, found)
    }
    await assertRefusal({ service: 'tagged', tags: ['a', 'nobody'] }, 'no-match')
    await assertRefusal({ service: 'tagged', tags: ['a', 'c'] }, 'no-match')
    await assertRefusal({ service: 'nobody', tags: ['a'] }, 'unknown')
  })

  await t.test('by a filter', async (t) => {
    await fleet(t, consul, join('sifted'), 3, (i) => ({
      Meta: { version: `${i}` },
      Tags: i === 2 ? ['b'] : [],
    }))
    const byFilter = (filter: string): Upstream => ({ service: 'sifted', filter })
    await dialsExactly(byFilter('Service.Meta.version == "2"'), ['sifted-2'])
    await dialsExactly(byFilter('Service.Meta.version != `2`'), ['sifted-1', 'sifted-3'])
    await dialsExactly(byFilter('"b" in Service.Tags or Service.ID matches "-3$"'), ['sifted-2', 'sifted-3'])
    await assertRefusal(byFilter('Service.Meta.version == "4"'), 'no-match')
    await assertRefusal({ service: 'nobody', filter: 'Service.Port == 1' }, 'unknown')

    await t.test('one that is none is refused at once', async () => {
      for (const filter of ['bogus', 'Service.Nothing == 1', '(']) {
        const { error, dialMs } = await dialOnce(web, byFilter(filter), { timeoutMs: 3_000 })
        assert.ok(error instanceof AgentError, `${filter}: ${String(error)}`)
        assert.match(error.message, /boolean expression evaluator/)
        assert.ok(dialMs < AT_ONCE_MS, `${filter}: after ${dialMs} ms`)
      }
    })
  })

  await t.test('nobody, and it says why at once', async (t) => {
    const port = portOf(await join('here').listen({ port: 0, host: '127.0.0.1' }, answerAs('here')))
    const at = { Port: port, Address: '127.0.0.1' }
    await register(consul, { ...at, Name: 'plain' })
    await register(consul, { ...at, Name: 'portless', Port: 0, Connect: { Native: true } })
    await register(consul, { ...at, Name: 'critical', Connect: { Native: true }, Check: { TTL: '600s' } })
    await until('they are known', async () => {
      const known = await agentJson<object>(consul, '/v1/catalog/services')
      return ['plain', 'portless', 'critical'].every((name) => name in known)
    })
    await assertRefusal('nobody', 'unknown')
    await assertRefusal('plain', 'not-connect')
    await assertRefusal('portless', 'not-passing')
    await assertRefusal('critical', 'not-passing')
    await assertRefusal({ service: 'critical', onlyPassing: false }, 'not-passing')

    await t.test('in a datacenter that there is not', async () => {
      const { error, dialMs } = await dialOnce(web, { service: 'critical', datacenter: 'nowhere' })
      assert.ok(error instanceof AgentError, String(error))
      assert.equal(error.code, 'ERR_CONNECT_AGENT_DATACENTER')
      assert.equal(error.status, 500)
      assert.ok(dialMs < AT_ONCE_MS, `after ${dialMs} ms`)
    })
  })

  await t.test('at a host name, and at an IPv6 address where there are any', async () => {
    const hasIpv6 = Object.values(networkInterfaces()).some((all) =>
      all?.some(({ address }) => address === '::1'),
    )
    for (const [name, host, Address] of [
      ['named', '127.0.0.1', 'localhost'],
      ...(hasIpv6 ? ([['six', '::1', '::1']] as const) : []),
    ] as const) {
      const listener = await join(name).listen({ port: 0, host }, answerAs(name))
      await register(consul, { Name: name, Address, Port: portOf(listener), Connect: { Native: true } })
      await until('it is known', async () => (await passing(name)) === 1)
      assert.deepEqual(shares(await many(5, name)), { [name]: 5 })
    }
  })

  await t.test('one that comes after somebody asked in vain', async (t) => {
    await assertRefusal('late', 'unknown')
    await fleet(t, consul, join('late'), 1)
    const outcome = await until('it is found', async () => {
      const tried = await dialOnce(web, 'late')
      return tried.error === undefined && tried
    })
    assert.equal(outcome.instance, 'late-1')
  })

  /** Waits until the agent knows, and then until it is dialled no more: how long that takes, in milliseconds. */
  async function leaves(dials: SteadyDials, gone: Instance, service: string): Promise<number> {
    await until('the agent knows', async () => {
      const found = await agentJson<{ Service: { ID: string } }[]>(
        consul,
        `/v1/health/connect/${service}?passing`,
      )
      return found.every(({ Service }) => Service.ID !== gone.name)
    })
    const knownAt = performance.now()
    const before = dials.outcomes.length
    await until('dials', () => dials.outcomes.length > before + 150)
    const since = dials.outcomes.filter(({ startedAt }) => startedAt > knownAt)
    const last = since.findLast(({ instance }) => instance === gone.name)
    const latency = (last?.startedAt ?? knownAt) - knownAt
    assert.ok(latency < SOON_MS, `${gone.name} was still dialled ${latency} ms later`)
    return latency
  }

  async function many(count: number, upstream: Upstream): Promise<Outcome[]> {
    const outcomes: Outcome[] = []
    for (let i = 0; i < count; i += 1) outcomes.push(await dialOnce(web, upstream))
    assertNoneFailed(outcomes)
    return outcomes
  }

  /** With ten dials for each, one is left out by chance once in 10^4 times, twice as many once in 10^8. */
  async function dialsExactly(upstream: Upstream, names: readonly string[]): Promise<void> {
    const counts = shares(await many(names.length === 1 ? 10 : 50 * names.length, upstream))
    assert.deepEqual(Object.keys(counts).toSorted(), names, JSON.stringify(upstream))
  }

  async function assertRefusal(upstream: Upstream, reason: NoInstancesReason): Promise<void> {
    // Once from nothing, and once from what is known by then.
    for (let i = 0; i < 2; i += 1) {
      const { error, dialMs } = await dialOnce(web, upstream)
      const what = `${JSON.stringify(upstream)}: ${String(error)}`
      assert.ok(error instanceof DialError, what)
      assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES', what)
      assert.equal(error.reason, reason, what)
      assert.deepEqual(error.attempts, [])
      assert.ok(dialMs < AT_ONCE_MS, `${what} after ${dialMs} ms`)
    }
  }

  async function refusal(upstream: Upstream, reason: NoInstancesReason): Promise<boolean> {
    const { error } = await dialOnce(web, upstream)
    return (error as ConnectError | undefined) instanceof DialError && (error as DialError).reason === reason
  }

  async function tellCheck(word: 'pass' | 'warn' | 'fail', id: string): Promise<void> {
    await agentJson(consul, `/v1/agent/check/${word}/${id}`, { method: 'PUT' })
  }

  async function passing(service: string): Promise<number> {
    return (await agentJson<unknown[]>(consul, `/v1/health/connect/${service}?passing`)).length
  }
})

async function hangUp(socket: MeshSocket): Promise<void> {
  socket.destroy()
  if (!socket.closed) await once(socket, 'close')
}

/** Within five standard deviations of a binomial draw. */
function assertShare(
  t: { diagnostic(text: string): void },
  outcomes: readonly Outcome[],
  name: string,
  share: number,
): void {
  assertNoneFailed(outcomes)
  const count = shares(outcomes)[name] ?? 0
  const expected = outcomes.length * share
  const sigma = Math.sqrt(expected * (1 - share))
  t.diagnostic(JSON.stringify({ dials: outcomes.length, count, expected, sigma }))
  assert.ok(Math.abs(count - expected) <= 5 * sigma, `${count} of ${outcomes.length}, not about ${expected}`)
}

async function everybodyAnswers(dials: SteadyDials, all: readonly Instance[]): Promise<void> {
  await until('all have answered', () => Object.keys(shares(dials.outcomes)).length === all.length)
}
