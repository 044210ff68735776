import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { AgentOptions } from '../../src/agent/options.js'
import { AgentError, OptionError } from '../../src/base/errors.js'
import { DnsResolver } from '../../src/resolve/dns-resolver.js'
import { HealthResolver } from '../../src/resolve/health-resolver.js'
import { QueryResolver } from '../../src/resolve/query-resolver.js'
import type { Endpoint, Resolver } from '../../src/resolve/resolver.js'
import { type Route, type RouteLease, Routes } from '../../src/resolve/routes.js'
import { StaticResolver } from '../../src/resolve/static-resolver.js'
import type { Upstream } from '../../src/resolve/upstream.js'
import { answerTo, startDnsServer } from '../fixtures/dns-server.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const CONNECT = '/v1/health/connect/web'
const IDLE_MS = 300_000
const EMPTY_IDLE_MS = 30_000
const MOST_HELD = 2_048

const body = [
  {
    Node: { Node: 'n', Address: '10.0.0.1', Datacenter: 'dc1' },
    Service: { ID: 'web-1', Service: 'web', Address: '', Port: 8080, Connect: { Native: true } },
    Checks: [],
  },
]

function start(options: AgentOptions = {}) {
  const [agent, clock] = [new FakeAgent(options), new FakeClock()]
  const routes = new Routes(agent, { clock, random: () => 0 })
  const resolve = async (route: Route, signal = new AbortController().signal): Promise<readonly Endpoint[]> =>
    route.resolver.resolve({ signal, datacenter: 'dc1', refresh: false })
  return {
    agent,
    clock,
    routes,
    resolve,
    /** The route to an upstream, used and given back. */
    use: (upstream: Upstream): RouteLease => {
      const lease = routes.lease(upstream)
      lease.release()
      return lease
    },
    /** Resolves web, with the answer of the agent; its watch goes on. */
    known: async (route: Route): Promise<readonly Endpoint[]> => {
      const resolving = resolve(route)
      await settle()
      agent.last(CONNECT).answer({ body, index: 1 })
      const endpoints = await resolving
      // Until the next read blocks.
      await settle()
      return endpoints
    },
    /** Whether the watch of web is under way. */
    isWatched: () => agent.last(CONNECT).request.signal?.aborted === false,
  }
}

/** Whether two leases are of one route. */
function isSame(a: Route, b: Route): boolean {
  assert.equal(a.resolver === b.resolver, a.balancer === b.balancer)
  return a.resolver === b.resolver
}

describe('Routes: which', () => {
  const scope = { datacenter: 'd', namespace: 'n', partition: 'p' }
  const different: Upstream[] = [
    'web',
    'db',
    { service: 'web', datacenter: 'd' },
    { service: 'web', namespace: 'd' },
    { service: 'web', partition: 'd' },
    { service: 'web', ...scope },
    { service: 'web', near: '_agent' },
    { service: 'web', near: 'n1' },
    { service: 'web', filter: 'a == b' },
    { service: 'web', tags: ['a'] },
    { service: 'web', tags: ['a', 'b'] },
    { service: 'web', tags: ['a,b'] },
    { service: 'web', onlyPassing: false },
    { service: 'web', onlyPassing: true },
    { query: 'web' },
    { query: 'web', near: '_agent' },
    { query: 'web', datacenter: 'd' },
    { dns: 'web', service: 'web' },
    { dns: 'web', service: 'db' },
    { dns: 'db', service: 'web' },
    { dns: 'web', service: 'web', ...scope },
    { address: ['a:1', 'b:1'], service: 'web' },
    { address: ['a:1', 'c:1'], service: 'web' },
    { address: ['a:1', 'b:1'], service: 'db' },
  ]

  it('one for each upstream, and another for every other', () => {
    const { routes } = start()
    const first = different.map((upstream) => routes.lease(upstream))
    assert.equal(new Set(first.map(({ resolver }) => resolver)).size, different.length)
    assert.equal(new Set(first.map(({ balancer }) => balancer)).size, different.length)
    const again = different.map((upstream) => routes.lease(structuredClone(upstream)))
    assert.deepEqual(
      again.map((route, i) => isSame(route, first[i]!)),
      different.map(() => true),
    )
    routes.close()
  })

  it('a name and an object that says nothing more are one upstream, in whatever order it is said', () => {
    const { routes, use } = start()
    const web = use('web')
    assert.ok(isSame(web, use({ service: 'web' })))
    assert.ok(isSame(web, use({ service: 'web', tags: undefined, datacenter: undefined })))
    assert.ok(
      isSame(
        use({ service: 'web', datacenter: 'd', near: 'n' }),
        use({ near: 'n', datacenter: 'd', service: 'web' }),
      ),
    )
    routes.close()
  })

  it('each kind has its resolver', () => {
    const { routes } = start()
    const kinds: [Upstream, unknown, string][] = [
      ['web', HealthResolver, 'web'],
      [{ query: 'q' }, QueryResolver, 'query q'],
      [{ dns: 'a.b', service: 'web' }, DnsResolver, 'web by DNS a.b'],
      [{ address: 'a:1', service: 'web' }, StaticResolver, 'web at a:1'],
      [{ address: ['a:1', '[::1]:2'], service: 'web' }, StaticResolver, 'web at a:1, [::1]:2'],
    ]
    for (const [upstream, kind, name] of kinds) {
      const { resolver } = routes.lease(upstream)
      assert.equal(resolver.constructor, kind)
      assert.equal(resolver.name, name)
    }
    routes.close()
  })

  it('what is no upstream is refused, and nothing is held', () => {
    const { routes, clock } = start()
    for (const upstream of ['', { service: 'a/b' }, {}, { dns: 'a b', service: 'web' }]) {
      assert.throws(() => routes.lease(upstream as Upstream), OptionError)
    }
    assert.equal(clock.pending, 0)
  })

  it('DNS is asked where the settings say', async (t) => {
    const server = await startDnsServer(t, (asked) => {
      asked.reply(
        answerTo(asked, {
          answers: [
            {
              type: 'SRV',
              name: 'web.connect.consul',
              ttl: 1,
              data: { priority: 1, weight: 1, port: 9, target: 'n1' },
            },
          ],
          additionals: [{ type: 'A', name: 'n1', ttl: 1, data: '10.0.0.1' }],
        }),
      )
    })
    const { routes, resolve } = start({ dnsAddress: `${server.host}:${server.port}` })
    const [endpoint] = await resolve(routes.lease({ dns: 'web.connect.consul', service: 'web' }))
    assert.deepEqual([endpoint?.host, endpoint?.port], ['10.0.0.1', 9])
    routes.close()
  })

  it('prepared queries are executed by the agent', async () => {
    const { routes, resolve, agent } = start()
    void resolve(routes.lease({ query: 'nearest' })).catch(() => undefined)
    await settle()
    assert.equal(agent.requests[0]?.request.path, '/v1/query/nearest/execute')
    routes.close()
  })
})

describe('Routes: what is not held', () => {
  it("a user's resolver is itself, with one balancer for each object", () => {
    const { routes, clock, use } = start()
    const make = (): Resolver => ({ name: 'mine', resolve: () => [] })
    const [mine, other] = [make(), make()]
    const route = use(mine)
    assert.equal(route.resolver, mine)
    assert.equal(use(mine).balancer, route.balancer)
    assert.notEqual(use(other).balancer, route.balancer)
    assert.equal(clock.pending, 0)
    routes.close()
    assert.equal(use(mine).balancer, route.balancer)
  })

  it("a user's resolver is not closed, though it could be", async () => {
    const { routes, clock } = start()
    let closed = 0
    const mine = {
      name: 'mine',
      resolve: () => [],
      close: () => {
        closed += 1
      },
      stop: () => {
        closed += 1
      },
    }
    routes.lease(mine).release()
    await clock.advance(2 * IDLE_MS)
    routes.close()
    assert.equal(closed, 0)
  })

  it('a single address: there is nothing to choose', () => {
    const { routes, clock, use } = start()
    const one = use({ address: 'a:1', service: 'web' })
    assert.ok(!isSame(one, use({ address: 'a:1', service: 'web' })))
    use({ address: ['a:1'], service: 'web' })
    assert.equal(clock.pending, 0)
    use({ address: ['a:1', 'b:1'], service: 'web' })
    assert.equal(clock.pending, 1)
    routes.close()
  })
})

describe('Routes: the end of one that nobody uses', () => {
  it('comes after five minutes: its watch ends, and nothing is left', async () => {
    const { routes, clock, known, isWatched, agent, use } = start()
    const route = use('web')
    await known(route)
    await clock.advance(IDLE_MS - 1)
    assert.equal(isWatched(), true)
    await clock.advance(1)
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 0)
    await clock.advance(10 * IDLE_MS)
    assert.equal(agent.count(CONNECT), 2)
    assert.ok(!isSame(use('web'), route))
    routes.close()
  })

  it('closes the resolver: a lease that is used after it was given back watches nothing', async () => {
    const { clock, known, use, resolve } = start()
    const route = use('web')
    await known(route)
    await clock.advance(IDLE_MS)
    await assert.rejects(resolve(route), { code: 'ERR_CONNECT_CLOSED' })
    assert.equal(clock.pending, 0)
  })

  it('is put off by each use', async () => {
    const { clock, known, isWatched, use } = start()
    const route = use('web')
    await known(route)
    for (let i = 0; i < 5; i += 1) {
      await clock.advance(IDLE_MS - 1)
      assert.ok(isSame(use('web'), route))
      assert.equal(isWatched(), true)
    }
    await clock.advance(IDLE_MS - 1)
    assert.equal(isWatched(), true)
    await clock.advance(1)
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 0)
  })

  it('is each one’s own', async () => {
    const { routes, clock, use } = start()
    const [web, db] = (['web', 'db'] as const).map((service) => use({ address: ['a:1', 'b:1'], service }))
    await clock.advance(IDLE_MS - 1)
    assert.ok(isSame(use({ address: ['a:1', 'b:1'], service: 'db' }), db!))
    await clock.advance(1)
    assert.ok(!isSame(use({ address: ['a:1', 'b:1'], service: 'web' }), web!))
    assert.ok(isSame(use({ address: ['a:1', 'b:1'], service: 'db' }), db!))
    routes.close()
  })

  const empty: [rule: string, upstream: Upstream][] = [
    ['a service', 'web'],
    ['a query', { query: 'q' }],
    ['a name of DNS', { dns: 'a.b', service: 'web' }],
  ]
  for (const [rule, upstream] of empty) {
    it(`comes after half a minute where nothing is known: ${rule}`, async () => {
      const { routes, clock, use } = start()
      const route = use(upstream)
      await clock.advance(EMPTY_IDLE_MS - 1)
      assert.ok(isSame(use(upstream), route))
      // Each use puts it off here as well.
      await clock.advance(EMPTY_IDLE_MS - 1)
      assert.equal(clock.pending, 1)
      await clock.advance(1)
      assert.equal(clock.pending, 0)
      assert.ok(!isSame(use(upstream), route))
      routes.close()
    })
  }

  it('comes after half a minute where there is no instance: its watch ends', async () => {
    const { clock, resolve, agent, use } = start()
    const refused = assert.rejects(resolve(use('nobody')), { code: 'ERR_CONNECT_NO_INSTANCES' })
    await settle()
    agent.last('/v1/health/connect/nobody').answer({ body: [], index: 1 })
    await settle()
    agent.last('/v1/health/service/nobody').answer({ body: [] })
    await refused
    const { signal } = agent.last('/v1/health/connect/nobody').request
    await clock.advance(EMPTY_IDLE_MS - 1)
    assert.equal(signal?.aborted, false)
    await clock.advance(1)
    assert.equal(signal.aborted, true)
    assert.equal(clock.pending, 0)
  })

  it('does not come while somebody uses it, however long', async () => {
    const { routes, clock, known, isWatched } = start()
    const [mine, other] = [routes.lease('web'), routes.lease('web')]
    await known(mine)
    await clock.advance(3 * IDLE_MS)
    assert.equal(isWatched(), true)
    mine.release()
    // Who gives it back twice has given back one share.
    mine.release()
    await clock.advance(3 * IDLE_MS)
    assert.equal(isWatched(), true)
    assert.ok(isSame(other, routes.lease('web')))
    routes.close()
  })

  it('is counted from when it was given back', async () => {
    const { routes, clock, known, isWatched } = start()
    const route = routes.lease('web')
    await known(route)
    await clock.advance(IDLE_MS + 1_000)
    route.release()
    await clock.advance(IDLE_MS - 1)
    assert.equal(isWatched(), true)
    await clock.advance(1)
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 0)
  })

  it('does not come while somebody waits for its first answer', async () => {
    const { routes, clock, resolve, isWatched, agent } = start()
    const route = routes.lease('web')
    const resolving = resolve(route)
    await clock.advance(2 * IDLE_MS)
    assert.equal(isWatched(), true)
    agent.last(CONNECT).answer({ body, index: 1 })
    assert.equal((await resolving).length, 1)
    route.release()
    await clock.advance(IDLE_MS - 1)
    assert.equal(isWatched(), true)
    await clock.advance(1)
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 0)
  })

  for (const upstream of [{ query: 'q' }, { service: 'web' }] as const) {
    it(`does not come while somebody waits for an agent that is away: ${Object.keys(upstream)[0]!}`, async () => {
      const { routes, clock, resolve, agent, use } = start()
      const route = routes.lease(upstream)
      const controller = new AbortController()
      let outcome: unknown
      const resolving = resolve(route, controller.signal).then(
        () => {
          outcome = 'resolved'
        },
        (error: unknown) => {
          outcome = error
        },
      )
      const details = { address: 'a', request: 'GET /' }
      const unreachable = new AgentError('ERR_CONNECT_AGENT_UNREACHABLE', 'away', details)
      let failed = 0
      for (const end = clock.now() + 2 * IDLE_MS + 5_000; clock.now() < end;) {
        while (failed < agent.requests.length) agent.requests[failed++]!.fail(unreachable)
        await clock.advance(1_000)
      }
      assert.equal(outcome, undefined)
      assert.ok(isSame(use(upstream), route))
      controller.abort()
      await resolving
      routes.close()
    })
  }

  it('leaves the balancer while a connection is open, and ends the watch all the same', async () => {
    const { routes, clock, known, isWatched, use } = start()
    const route = use('web')
    const endpoints = await known(route)
    const close = route.balancer.choose(endpoints, false, new Set())!.connected()
    await clock.advance(IDLE_MS)
    assert.equal(isWatched(), false)
    assert.ok(isSame(use('web'), route))
    // The next dial watches again.
    await known(route)
    assert.equal(isWatched(), true)
    await clock.advance(IDLE_MS)
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 1)
    close()
    await clock.advance(IDLE_MS)
    assert.equal(clock.pending, 0)
    assert.ok(!isSame(use('web'), route))
    routes.close()
  })

  it('leaves the balancer while somebody is ejected, and no longer', async () => {
    const { clock, resolve, use } = start()
    const route = use({ address: ['a:1', 'b:1'], service: 'web' })
    const endpoints = await resolve(route)
    await clock.advance(IDLE_MS - 1)
    route.balancer.choose(endpoints, true, new Set())!.failed()
    await clock.advance(1)
    assert.equal(clock.pending, 1)
    await clock.advance(IDLE_MS)
    assert.equal(clock.pending, 0)
  })
})

describe('Routes: how many', () => {
  it('of more than 2048 that nobody uses the one goes that was used longest ago', () => {
    const { routes, clock, use } = start()
    const held = Array.from({ length: MOST_HELD }, (_, i) => use(`s${i}`))
    assert.equal(clock.pending, MOST_HELD)
    // Used again: it is not the oldest any more.
    assert.ok(isSame(use('s0'), held[0]!))
    const added = use('one more')
    assert.equal(clock.pending, MOST_HELD)
    assert.ok(isSame(use('one more'), added))
    assert.ok(isSame(use('s0'), held[0]!))
    assert.ok(isSame(use('s2'), held[2]!))
    assert.ok(!isSame(use('s1'), held[1]!))
    assert.equal(clock.pending, MOST_HELD)
    routes.close()
    assert.equal(clock.pending, 0)
  })

  it('one that somebody uses stays, however long ago that began', () => {
    const { routes, clock, use } = start()
    const [used, unused] = [routes.lease('s0'), use('s1')]
    for (let i = 2; i <= MOST_HELD; i += 1) use(`s${i}`)
    assert.equal(clock.pending, MOST_HELD)
    assert.ok(isSame(use('s0'), used))
    assert.ok(!isSame(use('s1'), unused))
    routes.close()
  })

  it('there are more where all are used, until they are given back', () => {
    const { routes, clock, use } = start()
    const leases = Array.from({ length: MOST_HELD + 2 }, (_, i) => routes.lease(`s${i}`))
    assert.equal(clock.pending, MOST_HELD + 2)
    leases[1]!.release()
    use('one more')
    assert.equal(clock.pending, MOST_HELD + 2)
    assert.ok(isSame(use('s0'), leases[0]!))
    assert.ok(!isSame(use('s1'), leases[1]!))
    routes.close()
    assert.equal(clock.pending, 0)
  })

  it('those go first of which nothing is known', async () => {
    const { routes, clock, known, isWatched, use } = start()
    const web = use('web')
    await known(web)
    const empty = use('s1')
    for (let i = 2; i <= MOST_HELD; i += 1) use(`s${i}`)
    assert.equal(isWatched(), true)
    assert.ok(isSame(use('web'), web))
    assert.ok(!isSame(use('s1'), empty))
    assert.equal(clock.pending, MOST_HELD)
    routes.close()
  })

  it('among those that know of instances, one with open connections goes last', async () => {
    const { routes, resolve, clock, use } = start()
    const upstream = (i: number): Upstream => ({ address: ['a:1', 'b:1'], service: `s${i}` })
    const busy = use(upstream(0))
    busy.balancer.choose(await resolve(busy), false, new Set())!.connected()
    const idle = use(upstream(1))
    for (let i = 2; i <= MOST_HELD; i += 1) use(upstream(i))
    assert.equal(clock.pending, MOST_HELD)
    assert.ok(isSame(use(upstream(0)), busy))
    assert.ok(!isSame(use(upstream(1)), idle))
    routes.close()
  })

  it('one that goes lets go of its watch', async () => {
    const { routes, known, isWatched, use } = start()
    await known(use('web'))
    const others = (i: number): Upstream => ({ address: ['a:1', 'b:1'], service: `s${i}` })
    for (let i = 1; i < MOST_HELD; i += 1) use(others(i))
    assert.equal(isWatched(), true)
    use(others(0))
    assert.equal(isWatched(), false)
    routes.close()
  })
})

describe('Routes: close', () => {
  it('ends every watch and every timer', async () => {
    const { routes, clock, known, isWatched } = start()
    const route = routes.lease('web')
    await known(route)
    routes.lease({ query: 'q' })
    routes.lease({ dns: 'a.b', service: 'web' })
    routes.close()
    routes.close()
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 0)
    route.release()
    assert.equal(clock.pending, 0)
  })

  it('ends what is asked', async () => {
    const { routes, resolve, agent } = start()
    const rejected = assert.rejects(resolve(routes.lease({ query: 'q' })))
    await settle()
    routes.close()
    await rejected
    assert.equal(agent.requests[0]?.request.signal?.aborted, true)
  })
})
