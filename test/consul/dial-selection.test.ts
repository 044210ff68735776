import assert from 'node:assert/strict'
import { once } from 'node:events'
import { networkInterfaces } from 'node:os'
import { test } from 'node:test'
import {
  AgentError,
  DialError,
  type MeshSocket,
  type NoInstancesReason,
  type Upstream,
} from '../../src/index.js'
import { portOf, readAll } from '../fixtures/mesh.js'
import { type Instance, fleet, withTtlCheck } from './fleet.js'
import { isAtLeast, skip, startConsul } from './real-agent.js'
import {
  agentJson,
  agentPut,
  deregister,
  instances,
  joiner,
  register,
  until,
  updateCheck,
} from './service-mesh.js'
import {
  type Outcome,
  SteadyDials,
  answerAs,
  assertNoneFailed,
  dialMany,
  dialOnce,
  instanceNames,
  shares,
} from './steady-dials.js'

/** The bound between the answer of the agent and the last dial of an instance. */
const SOON_MS = 500
/** The bound of dials that fail without waiting. */
const AT_ONCE_MS = 1_000

test('the selection of instances', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const web = join('web')

  await t.test('skips instances that are not passing or not registered', async (t) => {
    const all = await fleet(t, consul, join('sick'), 5, withTtlCheck)
    const [first, second, third] = all as [Instance, Instance, Instance]
    const dials = new SteadyDials(t, web, 'sick', { perSecond: 100 })
    await dials.answeredBy(all.length)
    const latencies: Record<string, number> = {}

    await t.test('critical', async () => {
      await updateCheck(consul, 'fail', first.name)
      latencies['critical'] = await measureRemoval(dials, first, 'sick')
    })
    await t.test('deregistered', async () => {
      await deregister(consul, second.name)
      latencies['deregistered'] = await measureRemoval(dials, second, 'sick')
    })
    await t.test('in maintenance', async () => {
      await agentPut(consul, `/v1/agent/service/maintenance/${third.name}?enable=true`)
      latencies['in maintenance'] = await measureRemoval(dials, third, 'sick')
    })
    await t.test('until they are passing again', async () => {
      await updateCheck(consul, 'pass', first.name)
      await agentPut(consul, `/v1/agent/service/maintenance/${third.name}?enable=false`)
      const before = dials.outcomes.length
      await until('both are dialed again', () => {
        const counts = shares(dials.outcomes.slice(before))
        return first.name in counts && third.name in counts
      })
    })

    const outcomes = await dials.stop()
    t.diagnostic(JSON.stringify({ dials: outcomes.length, latencies }))
    assertNoneFailed(outcomes)
  })

  await t.test('distributes connections by weight', async (t) => {
    const weights = [1, 3]
    const service = join('weighty')
    await fleet(t, consul, service, 2, (i) => ({ Weights: { Passing: weights[i - 1], Warning: 1 } }))

    await t.test('for sequential dials', async () => {
      assertShare(t, await dialMany(web, 800, 'weighty'), 'weighty-1', 1 / 4)
    })

    await t.test('for dials that start before the previous connection has closed', async (t) => {
      const answers: string[] = []
      for (let i = 0; i < 800; i += 1) {
        const socket = await web.dial('weighty')
        socket.write('hello')
        answers.push(await readAll(socket))
      }
      const light = answers.filter((answer) => answer === 'weighty-1 hello').length
      t.diagnostic(JSON.stringify({ dials: answers.length, light }))
      // Short-lived connections must not count for more than the weights.
      assert.ok(light > 100 && light < 300, `${light} of ${answers.length}, not about 200`)
    })

    await t.test('while 1, 2, 4, or 8 connections are open', async (t) => {
      const counts: Record<number, number> = {}
      for (const limit of [1, 2, 4, 8]) {
        const open: MeshSocket[] = []
        let light = 0
        for (let i = 0; i < 600; i += 1) {
          const socket = await web.dial('weighty')
          if (socket.remoteAddress === '127.0.1.1') light += 1
          open.push(socket)
          if (open.length > limit) await close(open.shift()!)
        }
        await Promise.all(open.map(close))
        counts[limit] = light
      }
      t.diagnostic(JSON.stringify(counts))
      // So few connections cannot match the weights exactly, but they must not count for more than the weights.
      for (const light of Object.values(counts)) {
        assert.ok(light > 60 && light < 225, `${JSON.stringify(counts)} of 600, not about 150`)
      }
    })

    await t.test('for connections that stay open, by the load of each instance', async (t) => {
      const open = []
      for (let i = 0; i < 200; i += 1) open.push(await web.dial('weighty'))
      const light = open.filter(({ remoteAddress }) => remoteAddress === '127.0.1.1').length
      await Promise.all(open.map(close))
      t.diagnostic(JSON.stringify({ open: open.length, light }))
      // A fifth of five standard deviations of a random choice.
      assert.ok(Math.abs(light - 50) <= 6, `${light} of 200`)
    })
  })

  await t.test(
    'includes instances with warnings by their warning weight, unless onlyPassing is set',
    async (t) => {
      const all = await fleet(t, consul, join('warned'), 2, (i, name) => ({
        ...withTtlCheck(i, name),
        Weights: { Passing: 3, Warning: 1 },
      }))
      await updateCheck(consul, 'warn', all[0]!.name)
      await until('one instance is passing', async () => (await instances(consul, 'warned')) === 1)
      const passing = { service: 'warned', onlyPassing: true }
      assert.deepEqual(shares(await dialMany(web, 200, passing)), { 'warned-2': 200 })
      assertShare(t, await dialMany(web, 800, 'warned'), 'warned-1', 1 / 4)
      await updateCheck(consul, 'warn', all[1]!.name)
      await until('no instance is passing', async () => {
        const { error } = await dialOnce(web, passing)
        return error instanceof DialError && error.reason === 'not-passing'
      })
      await assertDialed('warned', ['warned-1', 'warned-2'])
    },
  )

  await t.test('requires all tags, in any case', async (t) => {
    const tags = [['a'], ['a', 'b'], ['b', 'c']]
    await fleet(t, consul, join('tagged'), 3, (i) => ({ Tags: tags[i - 1] }))
    for (const [wanted, found] of [
      [[], ['tagged-1', 'tagged-2', 'tagged-3']],
      [['a'], ['tagged-1', 'tagged-2']],
      [['B', 'a'], ['tagged-2']],
      [['c'], ['tagged-3']],
    ] as const) {
      await assertDialed({ service: 'tagged', tags: wanted }, found)
    }
    await assertNoInstances({ service: 'tagged', tags: ['a', 'missing'] }, 'no-match')
    await assertNoInstances({ service: 'tagged', tags: ['a', 'c'] }, 'no-match')
    await assertNoInstances({ service: 'missing', tags: ['a'] }, 'unknown')
  })

  await t.test('applies a filter', async (t) => {
    await fleet(t, consul, join('sifted'), 3, (i) => ({
      Meta: { version: `${i}` },
      Tags: i === 2 ? ['b'] : [],
    }))
    const byFilter = (filter: string): Upstream => ({ service: 'sifted', filter })
    await assertDialed(byFilter('Service.Meta.version == "2"'), ['sifted-2'])
    await assertDialed(byFilter('Service.Meta.version != `2`'), ['sifted-1', 'sifted-3'])
    await assertDialed(byFilter('"b" in Service.Tags or Service.ID matches "-3$"'), ['sifted-2', 'sifted-3'])
    await assertNoInstances(byFilter('Service.Meta.version == "4"'), 'no-match')
    await assertNoInstances({ service: 'missing', filter: 'Service.Port == 1' }, 'unknown')

    await t.test('and rejects invalid filters at once', async () => {
      for (const filter of ['bogus', 'Service.Nothing == 1', '== 1']) {
        const { error, dialMs } = await dialOnce(web, byFilter(filter), { timeoutMs: 3_000 })
        assert.ok(error instanceof AgentError, `${filter}: ${String(error)}`)
        assert.match(error.message, /boolean expression evaluator/)
        assert.ok(dialMs < AT_ONCE_MS, `${filter}: after ${dialMs} ms`)
      }
    })
  })

  await t.test('reports at once why no instance can be dialed', async (t) => {
    const port = portOf(await join('here').listen({ port: 0, host: '127.0.0.1' }, answerAs('here')))
    const at = { Port: port, Address: '127.0.0.1' }
    await register(consul, { ...at, Name: 'plain' })
    // Consul 1.13 and later refuse an instance without a port.
    const portless = isAtLeast('1.13') ? [] : ['portless']
    for (const Name of portless) await register(consul, { ...at, Name, Port: 0, Connect: { Native: true } })
    await register(consul, { ...at, Name: 'critical', Connect: { Native: true }, Check: { TTL: '600s' } })
    await until('all services are in the catalog', async () => {
      const known = await agentJson<object>(consul, '/v1/catalog/services')
      return ['plain', ...portless, 'critical'].every((name) => name in known)
    })
    await assertNoInstances('missing', 'unknown')
    await assertNoInstances('plain', 'not-connect')
    for (const name of portless) await assertNoInstances(name, 'not-passing')
    await assertNoInstances('critical', 'not-passing')
    await assertNoInstances({ service: 'critical', onlyPassing: false }, 'not-passing')

    await t.test('and that a datacenter does not exist', async () => {
      const { error, dialMs } = await dialOnce(web, { service: 'critical', datacenter: 'nowhere' })
      assert.ok(error instanceof AgentError, String(error))
      assert.equal(error.code, 'ERR_CONNECT_AGENT_DATACENTER')
      assert.equal(error.status, 500)
      assert.match(error.message, /No path to datacenter/)
      assert.ok(dialMs < AT_ONCE_MS, `after ${dialMs} ms`)
    })
  })

  await t.test('dials host names, and IPv6 addresses where the machine has them', async () => {
    const hasIpv6 = Object.values(networkInterfaces()).some((all) =>
      all?.some(({ address }) => address === '::1'),
    )
    for (const [name, host, Address] of [
      ['named', '127.0.0.1', 'localhost'],
      ...(hasIpv6 ? ([['six', '::1', '::1']] as const) : []),
    ] as const) {
      const listener = await join(name).listen({ port: 0, host }, answerAs(name))
      await register(consul, { Name: name, Address, Port: portOf(listener), Connect: { Native: true } })
      await until('the instance is passing', async () => (await instances(consul, name)) === 1)
      assert.deepEqual(shares(await dialMany(web, 5, name)), { [name]: 5 })
    }
  })

  await t.test('finds an instance that is registered after a failed dial', async (t) => {
    await assertNoInstances('late', 'unknown')
    await fleet(t, consul, join('late'), 1)
    await until('the instance answers', async () => (await dialOnce(web, 'late')).instance === 'late-1')
  })

  /** Waits until the agent no longer returns an instance. Returns the time until its last dial, in milliseconds. */
  async function measureRemoval(dials: SteadyDials, removed: Instance, service: string): Promise<number> {
    await until('the agent no longer returns the instance', async () => {
      const found = await agentJson<{ Service: { ID: string } }[]>(
        consul,
        `/v1/health/connect/${service}?passing`,
      )
      return found.every(({ Service }) => Service.ID !== removed.name)
    })
    const knownAt = performance.now()
    const before = dials.outcomes.length
    await until('150 dials have ended', () => dials.outcomes.length > before + 150)
    const since = dials.outcomes.filter(({ startedAt }) => startedAt > knownAt)
    const last = since.findLast(({ instance }) => instance === removed.name)
    const latency = (last?.startedAt ?? knownAt) - knownAt
    assert.ok(latency < SOON_MS, `${removed.name} was dialed ${latency} ms later`)
    return latency
  }

  /** Asserts that dials reach exactly these instances. With 50 dials for each, one is missed by chance once in 10^8 times. */
  async function assertDialed(upstream: Upstream, names: readonly string[]): Promise<void> {
    const outcomes = await dialMany(web, names.length === 1 ? 10 : 50 * names.length, upstream)
    assert.deepEqual(instanceNames(outcomes), names, JSON.stringify(upstream))
  }

  async function assertNoInstances(upstream: Upstream, reason: NoInstancesReason): Promise<void> {
    // Without and with a cached answer.
    for (let i = 0; i < 2; i += 1) {
      const { error, dialMs } = await dialOnce(web, upstream)
      const message = `${JSON.stringify(upstream)}: ${String(error)}`
      assert.ok(error instanceof DialError, message)
      assert.equal(error.code, 'ERR_CONNECT_NO_INSTANCES', message)
      assert.equal(error.reason, reason, message)
      assert.deepEqual(error.attempts, [])
      assert.ok(dialMs < AT_ONCE_MS, `${message} after ${dialMs} ms`)
    }
  }
})

async function close(socket: MeshSocket): Promise<void> {
  socket.destroy()
  if (!socket.closed) await once(socket, 'close')
}

/** Asserts a share within five standard deviations of a binomial distribution. */
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
