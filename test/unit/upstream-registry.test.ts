import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { OptionError } from '../../src/base/errors.js'
import { DnsResolver } from '../../src/resolve/dns-resolver.js'
import type { ActiveUpstream } from '../../src/resolve/active-upstream.js'
import { ServiceResolver } from '../../src/resolve/chain/service-resolver.js'
import { QueryResolver } from '../../src/resolve/query-resolver.js'
import type { Endpoint, Resolver } from '../../src/resolve/resolver.js'
import { type UpstreamLease, UpstreamRegistry } from '../../src/resolve/upstream-registry.js'
import { StaticResolver } from '../../src/resolve/static-resolver.js'
import type { Upstream } from '../../src/resolve/upstream.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const CONNECT = '/v1/health/connect/web'
const IDLE_MS = 300_000
const EMPTY_IDLE_MS = 30_000
const MAX_ROUTES = 2_048

const body = [
  {
    Node: { Node: 'n', Address: '10.0.0.1', Datacenter: 'dc1' },
    Service: { ID: 'web-1', Service: 'web', Address: '', Port: 8080, Connect: { Native: true } },
    Checks: [],
  },
]

function start() {
  const [agent, clock] = [new FakeAgent(), new FakeClock()]
  const upstreams = new UpstreamRegistry(agent, { clock, random: () => 0 })
  const resolve = async (
    entry: ActiveUpstream,
    signal = new AbortController().signal,
  ): Promise<readonly Endpoint[]> => entry.resolver.resolve({ signal, datacenter: 'dc1', refresh: false })
  const isWatched = (): boolean => agent.last(CONNECT).request.signal?.aborted === false
  return {
    agent,
    clock,
    upstreams,
    resolve,
    /** Leases the entry to an upstream, and releases it. */
    use: (upstream: Upstream): UpstreamLease => {
      const lease = upstreams.lease(upstream)
      lease.release()
      return lease
    },
    /** Resolves web with an answer of the agent. The watch continues. */
    resolveWeb: async (entry: ActiveUpstream): Promise<readonly Endpoint[]> => {
      const resolving = resolve(entry)
      await settle()
      agent.last(CONNECT).answer({ body, index: 1 })
      const endpoints = await resolving
      // Wait for the next blocking query.
      await settle()
      return endpoints
    },
    /** Requires that the watch of web ends in `ms`, and moves the clock there. */
    expectWatchedFor: async (ms: number): Promise<void> => {
      await clock.advance(ms - 1)
      assert.equal(isWatched(), true)
      await clock.advance(1)
      assert.equal(isWatched(), false)
    },
    /** Whether the watch of web is active. */
    isWatched,
  }
}

/** Whether two leases have the same entry. */
function isSame(a: ActiveUpstream, b: ActiveUpstream): boolean {
  assert.equal(a.resolver === b.resolver, a.balancer === b.balancer)
  return a.resolver === b.resolver
}

describe('UpstreamRegistry.lease', () => {
  const scope = { datacenter: 'd', namespace: 'n', partition: 'p' }
  const all: Upstream[] = [
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

  it('returns one entry for each distinct upstream', () => {
    const { upstreams } = start()
    const first = all.map((upstream) => upstreams.lease(upstream))
    assert.equal(new Set(first.map(({ resolver }) => resolver)).size, all.length)
    assert.equal(new Set(first.map(({ balancer }) => balancer)).size, all.length)
    const again = all.map((upstream) => upstreams.lease(structuredClone(upstream)))
    assert.deepEqual(
      again.map((entry, i) => isSame(entry, first[i]!)),
      all.map(() => true),
    )
  })

  it('returns one entry for a name, an object with only the name, and any order of the properties', () => {
    const { use } = start()
    const web = use('web')
    assert.ok(isSame(web, use({ service: 'web' })))
    assert.ok(isSame(web, use({ service: 'web', tags: undefined, datacenter: undefined })))
    assert.ok(
      isSame(
        use({ service: 'web', datacenter: 'd', near: 'n' }),
        use({ near: 'n', datacenter: 'd', service: 'web' }),
      ),
    )
  })

  it('creates the resolver for the kind of the upstream', () => {
    const { upstreams } = start()
    const kinds: [Upstream, unknown, string][] = [
      ['web', ServiceResolver, 'web'],
      [{ query: 'q' }, QueryResolver, 'query q'],
      [{ dns: 'a.b', service: 'web' }, DnsResolver, 'web by DNS a.b'],
      [{ address: 'a:1', service: 'web' }, StaticResolver, 'web at a:1'],
      [{ address: ['a:1', '[::1]:2'], service: 'web' }, StaticResolver, 'web at a:1, [::1]:2'],
    ]
    for (const [upstream, kind, name] of kinds) {
      const { resolver } = upstreams.lease(upstream)
      assert.equal(resolver.constructor, kind)
      assert.equal(resolver.name, name)
    }
  })

  it('refuses an invalid upstream, without a request or a timer', () => {
    const { upstreams, clock, agent } = start()
    for (const upstream of [undefined, '', { service: 'web', dc: 'dc2' }, { resolve: () => [] }]) {
      assert.throws(() => upstreams.lease(upstream as Upstream), OptionError)
    }
    assert.deepEqual([agent.requests.length, clock.pending], [0, 0])
  })
})

describe('UpstreamRegistry without state', () => {
  it('keep one balancer for each resolver of the application', () => {
    const { upstreams, clock, use } = start()
    const newResolver = (): Resolver => ({ name: 'own', resolve: () => [] })
    const [resolver, otherResolver] = [newResolver(), newResolver()]
    const entry = use(resolver)
    assert.equal(entry.resolver, resolver)
    assert.equal(use(resolver).balancer, entry.balancer)
    assert.notEqual(use(otherResolver).balancer, entry.balancer)
    assert.equal(clock.pending, 0)
    upstreams.close()
    assert.equal(use(resolver).balancer, entry.balancer)
  })

  it('do not close a resolver of the application', async () => {
    const { upstreams, clock } = start()
    let closed = 0
    const resolver = { name: 'own', resolve: () => [], close: () => (closed += 1), stop: () => (closed += 1) }
    upstreams.lease(resolver).release()
    await clock.advance(2 * IDLE_MS)
    upstreams.close()
    assert.equal(closed, 0)
  })

  it('keep no state for a single address', () => {
    const { clock, use } = start()
    const entry = use({ address: 'a:1', service: 'web' })
    assert.ok(!isSame(entry, use({ address: 'a:1', service: 'web' })))
    use({ address: ['a:1'], service: 'web' })
    assert.equal(clock.pending, 0)
    use({ address: ['a:1', 'b:1'], service: 'web' })
    assert.equal(clock.pending, 1)
  })
})

describe('An unused upstream', () => {
  it('is removed after five minutes, and its watch ends', async () => {
    const { clock, resolveWeb, agent, use, expectWatchedFor } = start()
    const entry = use('web')
    await resolveWeb(entry)
    await expectWatchedFor(IDLE_MS)
    assert.equal(clock.pending, 0)
    await clock.advance(10 * IDLE_MS)
    assert.equal(agent.count(CONNECT), 2)
    assert.ok(!isSame(use('web'), entry))
  })

  it('is closed, so that resolving a released lease starts no watch', async () => {
    const { clock, resolveWeb, use, resolve } = start()
    const entry = use('web')
    await resolveWeb(entry)
    await clock.advance(IDLE_MS)
    await assert.rejects(resolve(entry), { code: 'ERR_CONNECT_CLOSED' })
    assert.equal(clock.pending, 0)
  })

  it('is kept longer by each use', async () => {
    const { clock, resolveWeb, isWatched, use, expectWatchedFor } = start()
    const entry = use('web')
    await resolveWeb(entry)
    for (let i = 0; i < 5; i += 1) {
      await clock.advance(IDLE_MS - 1)
      assert.ok(isSame(use('web'), entry))
      assert.equal(isWatched(), true)
    }
    await expectWatchedFor(IDLE_MS)
    assert.equal(clock.pending, 0)
  })

  it('is removed independently of other upstreams', async () => {
    const { clock, use } = start()
    const [web, db] = (['web', 'db'] as const).map((service) => use({ address: ['a:1', 'b:1'], service }))
    await clock.advance(IDLE_MS - 1)
    assert.ok(isSame(use({ address: ['a:1', 'b:1'], service: 'db' }), db!))
    await clock.advance(1)
    assert.ok(!isSame(use({ address: ['a:1', 'b:1'], service: 'web' }), web!))
    assert.ok(isSame(use({ address: ['a:1', 'b:1'], service: 'db' }), db!))
  })

  const empty: [rule: string, upstream: Upstream][] = [
    ['a service', 'web'],
    ['a query', { query: 'q' }],
    ['a DNS name', { dns: 'a.b', service: 'web' }],
  ]
  for (const [rule, upstream] of empty) {
    it(`is removed after 30 s without an answer: ${rule}`, async () => {
      const { clock, use } = start()
      const entry = use(upstream)
      await clock.advance(EMPTY_IDLE_MS - 1)
      assert.ok(isSame(use(upstream), entry))
      // Each use restarts the 30 s.
      await clock.advance(EMPTY_IDLE_MS - 1)
      assert.equal(clock.pending, 1)
      await clock.advance(1)
      assert.equal(clock.pending, 0)
      assert.ok(!isSame(use(upstream), entry))
    })
  }

  it('is removed after 30 s without instances, and its watch ends', async () => {
    const { clock, resolve, agent, use } = start()
    const refused = assert.rejects(resolve(use('empty')), { code: 'ERR_CONNECT_NO_INSTANCES' })
    await settle()
    agent.last('/v1/health/connect/empty').answer({ body: [], index: 1 })
    await settle()
    agent.last('/v1/health/service/empty').answer({ body: [] })
    await refused
    const { signal } = agent.last('/v1/health/connect/empty').request
    await clock.advance(EMPTY_IDLE_MS - 1)
    assert.equal(signal?.aborted, false)
    await clock.advance(1)
    assert.equal(signal.aborted, true)
    assert.equal(clock.pending, 0)
  })

  it('is not removed while it is leased', async () => {
    const { upstreams, clock, resolveWeb, isWatched } = start()
    const [first, second] = [upstreams.lease('web'), upstreams.lease('web')]
    await resolveWeb(first)
    await clock.advance(3 * IDLE_MS)
    assert.equal(isWatched(), true)
    first.release()
    // The second release of a lease has no effect.
    first.release()
    await clock.advance(3 * IDLE_MS)
    assert.equal(isWatched(), true)
    assert.ok(isSame(second, upstreams.lease('web')))
  })

  it('is removed five minutes after its release', async () => {
    const { upstreams, clock, resolveWeb, expectWatchedFor } = start()
    const entry = upstreams.lease('web')
    await resolveWeb(entry)
    await clock.advance(IDLE_MS + 1_000)
    entry.release()
    await expectWatchedFor(IDLE_MS)
    assert.equal(clock.pending, 0)
  })

  it('is not removed while a lease waits for the first answer', async () => {
    const { upstreams, clock, resolve, isWatched, agent } = start()
    const entry = upstreams.lease('web')
    const resolving = resolve(entry)
    await clock.advance(2 * IDLE_MS)
    assert.equal(isWatched(), true)
    agent.last(CONNECT).answer({ body, index: 1 })
    assert.equal((await resolving).length, 1)
  })

  it('keeps its balancer while a connection is open, but ends its watch', async () => {
    const { clock, resolveWeb, isWatched, use } = start()
    const entry = use('web')
    const endpoints = await resolveWeb(entry)
    const close = entry.balancer.choose(endpoints, false, new Set())!.connected()
    await clock.advance(IDLE_MS)
    assert.equal(isWatched(), false)
    assert.ok(isSame(use('web'), entry))
    // The next dial starts a watch again.
    await resolveWeb(entry)
    assert.equal(isWatched(), true)
    await clock.advance(IDLE_MS)
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 1)
    close()
    await clock.advance(IDLE_MS)
    assert.equal(clock.pending, 0)
    assert.ok(!isSame(use('web'), entry))
  })

  it('keeps its balancer while an instance is ejected', async () => {
    const { clock, resolve, use } = start()
    const entry = use({ address: ['a:1', 'b:1'], service: 'web' })
    const endpoints = await resolve(entry)
    await clock.advance(IDLE_MS - 1)
    entry.balancer.choose(endpoints, true, new Set())!.failed()
    await clock.advance(1)
    assert.equal(clock.pending, 1)
    await clock.advance(IDLE_MS)
    assert.equal(clock.pending, 0)
  })
})

describe('UpstreamRegistry: the limit of 2048', () => {
  it('removes the least recently used upstream', () => {
    const { upstreams, clock, use } = start()
    const leases = Array.from({ length: MAX_ROUTES }, (_, i) => use(`s${i}`))
    assert.equal(clock.pending, MAX_ROUTES)
    // Now s1 is the least recently used upstream.
    assert.ok(isSame(use('s0'), leases[0]!))
    const added = use('added')
    assert.equal(clock.pending, MAX_ROUTES)
    assert.ok(isSame(use('added'), added))
    assert.ok(isSame(use('s0'), leases[0]!))
    assert.ok(isSame(use('s2'), leases[2]!))
    assert.ok(!isSame(use('s1'), leases[1]!))
    assert.equal(clock.pending, MAX_ROUTES)
    upstreams.close()
    assert.equal(clock.pending, 0)
  })

  it('does not remove a leased upstream', () => {
    const { upstreams, clock, use } = start()
    const [used, unused] = [upstreams.lease('s0'), use('s1')]
    for (let i = 2; i <= MAX_ROUTES; i += 1) use(`s${i}`)
    assert.equal(clock.pending, MAX_ROUTES)
    assert.ok(isSame(use('s0'), used))
    assert.ok(!isSame(use('s1'), unused))
  })

  it('is exceeded while all upstreams are leased', () => {
    const { upstreams, clock, use } = start()
    const leases = Array.from({ length: MAX_ROUTES + 2 }, (_, i) => upstreams.lease(`s${i}`))
    assert.equal(clock.pending, MAX_ROUTES + 2)
    leases[1]!.release()
    use('added')
    assert.equal(clock.pending, MAX_ROUTES + 2)
    assert.ok(isSame(use('s0'), leases[0]!))
    assert.ok(!isSame(use('s1'), leases[1]!))
    upstreams.close()
    assert.equal(clock.pending, 0)
  })

  it('removes upstreams without instances first', async () => {
    const { clock, resolveWeb, isWatched, use } = start()
    const web = use('web')
    await resolveWeb(web)
    const empty = use('s1')
    for (let i = 2; i <= MAX_ROUTES; i += 1) use(`s${i}`)
    assert.equal(isWatched(), true)
    assert.ok(isSame(use('web'), web))
    assert.ok(!isSame(use('s1'), empty))
    assert.equal(clock.pending, MAX_ROUTES)
  })

  it('removes upstreams with open connections last', async () => {
    const { resolve, clock, use } = start()
    const upstream = (i: number): Upstream => ({ address: ['a:1', 'b:1'], service: `s${i}` })
    const busy = use(upstream(0))
    busy.balancer.choose(await resolve(busy), false, new Set())!.connected()
    const idle = use(upstream(1))
    for (let i = 2; i <= MAX_ROUTES; i += 1) use(upstream(i))
    assert.equal(clock.pending, MAX_ROUTES)
    assert.ok(isSame(use(upstream(0)), busy))
    assert.ok(!isSame(use(upstream(1)), idle))
  })
})

describe('UpstreamRegistry.close', () => {
  it('ends every watch and every timer', async () => {
    const { upstreams, clock, resolveWeb, isWatched } = start()
    const entry = upstreams.lease('web')
    await resolveWeb(entry)
    upstreams.lease({ query: 'q' })
    upstreams.lease({ dns: 'a.b', service: 'web' })
    upstreams.close()
    upstreams.close()
    assert.equal(isWatched(), false)
    assert.equal(clock.pending, 0)
    entry.release()
    assert.equal(clock.pending, 0)
  })

  it('aborts pending requests', async () => {
    const { upstreams, resolve, agent } = start()
    const rejected = assert.rejects(resolve(upstreams.lease({ query: 'q' })))
    await settle()
    upstreams.close()
    await rejected
    assert.equal(agent.requests[0]?.request.signal?.aborted, true)
  })
})
