import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { AgentOptions } from '../../src/agent/options.js'
import { AbortError, ClosedError, ConnectError, type ErrorCode } from '../../src/base/errors.js'
import { RootsStore } from '../../src/identity/roots.js'
import { IdentityStore } from '../../src/identity/identity-store.js'
import { type IssueOptions, TestCa } from '../../src/testing/index.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock } from '../fixtures/fake-clock.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const ROOTS = '/v1/agent/connect/ca/roots'
const LEAF = '/v1/agent/connect/ca/leaf/web'
const TLS = { ecdhCurve: 'auto', minVersion: 'TLSv1.2' } as const
const HOUR = 3_600_000
const DAY = 24 * HOUR

/** A store whose agent, clock and CA are the test's. */
async function open(options: AgentOptions = {}) {
  const [agent, clock] = [new FakeAgent(options), new FakeClock()]
  const newCa = (): TestCa => TestCa.create({ trustDomain: TD, clock: () => clock.now() })
  const ca = newCa()
  const time = { clock, random: () => 0 }
  const roots = new RootsStore(agent, time)
  const own = { service: 'web', tls: TLS, testHandshake: () => Promise.resolve() }
  const store = new IdentityStore({ agent, roots, ...own, ...time })
  const events: string[] = []
  store.on('changed', (_generation, what) => events.push(what))
  store.on('failed', (error) => events.push(error instanceof ConnectError ? error.code : error.message))
  await clock.advance(0)
  return {
    agent,
    ca,
    newCa,
    clock,
    roots,
    store,
    events,
    leafReads: () => agent.count(LEAF),
    giveRoots: async (cas: readonly TestCa[] = [ca]) => {
      const list = cas.map(({ rootPem }, i) => ({ ID: `root-${i}`, RootCert: rootPem, Active: i === 0 }))
      const body = { TrustDomain: TD, ActiveRootID: 'root-0', Roots: list }
      agent.last(ROOTS).answer({ body, index: agent.count(ROOTS) })
      await clock.advance(0)
    },
    giveLeaf: async (issue: IssueOptions = {}, by: TestCa = ca) => {
      const { chainPem, privateKeyPem } = by.issue(issue)
      agent
        .last(LEAF)
        .answer({ body: { CertPEM: chainPem, PrivateKeyPEM: privateKeyPem }, index: agent.count(LEAF) })
      await clock.advance(0)
      return chainPem
    },
    end: () => {
      store.close()
      roots.close()
    },
  }
}

function code(read: () => unknown): ErrorCode | undefined {
  try {
    read()
    return undefined
  } catch (error) {
    return (error as ConnectError).code
  }
}

describe('IdentityStore: how a generation comes about', () => {
  it('asks for a leaf only when it has roots to judge it by', async () => {
    const { leafReads, giveRoots, giveLeaf, store, events, end } = await open()
    assert.equal(leafReads(), 0)
    assert.equal(
      code(() => store.require()),
      'ERR_CONNECT_NOT_READY',
    )
    await giveRoots()
    assert.equal(leafReads(), 1)
    assert.equal(
      code(() => store.require()),
      'ERR_CONNECT_NOT_READY',
    )
    const chainPem = await giveLeaf()
    assert.equal(store.require().leaf.chainPem, chainPem)
    assert.deepEqual(events, ['leaf'])
    end()
  })

  it('a second store finds the roots that are there', async () => {
    const { agent, clock, roots, giveRoots, leafReads, end } = await open()
    await giveRoots()
    const second = new IdentityStore({
      agent,
      roots,
      service: 'web',
      tls: TLS,
      clock,
      random: () => 0,
      testHandshake: () => Promise.resolve(),
    })
    await clock.advance(0)
    assert.equal(leafReads(), 2)
    second.close()
    end()
  })

  it('a new leaf makes a new generation, and leaves the old one as it was', async () => {
    const { giveRoots, giveLeaf, store, events, end } = await open()
    await giveRoots()
    await giveLeaf()
    const old = store.require()
    const { chainPem } = old.leaf
    const next = await giveLeaf()
    assert.notEqual(store.require(), old)
    assert.equal(store.require().leaf.chainPem, next)
    assert.equal(old.leaf.chainPem, chainPem)
    assert.deepEqual(events, ['leaf', 'leaf'])
    end()
  })

  it('new roots make a new generation with the same leaf', async () => {
    const { giveRoots, giveLeaf, store, events, ca, newCa, end } = await open()
    await giveRoots()
    await giveLeaf()
    const old = store.require()
    await giveRoots([newCa(), ca])
    assert.equal(store.require().roots.pems.length, 2)
    assert.deepEqual(store.require().leaf, old.leaf)
    assert.equal(old.roots.pems.length, 1)
    assert.deepEqual(events, ['leaf', 'roots'])
    end()
  })

  it('a leaf that came before its root is refused, and asked for again when the root comes', async () => {
    const { giveRoots, giveLeaf, store, events, ca, newCa, leafReads, end } = await open()
    const next = newCa()
    await giveRoots()
    await giveLeaf()
    await giveLeaf({}, next)
    assert.deepEqual(events, ['leaf', 'ERR_CONNECT_LEAF_UNTRUSTED'])
    assert.equal(leafReads(), 2)
    await giveRoots([next, ca])
    // At once, though the pause after the refusal is not over.
    assert.equal(leafReads(), 3)
    const chainPem = await giveLeaf({}, next)
    assert.equal(store.require().leaf.chainPem, chainPem)
    assert.equal(store.lastError, undefined)
    end()
  })

  const bad: [rule: string, issue: IssueOptions, code: ErrorCode][] = [
    ['names another service', { service: 'db' }, 'ERR_CONNECT_LEAF_SERVICE'],
    ['is of another trust domain', { trustDomain: 'other.consul' }, 'ERR_CONNECT_LEAF_SERVICE'],
    ['is a CA', { isCa: true }, 'ERR_CONNECT_LEAF_MALFORMED'],
    ['has expired', { notBefore: new Date(0), notAfter: new Date(1000) }, 'ERR_CONNECT_LEAF_EXPIRED'],
  ]
  for (const [rule, issue, expected] of bad) {
    it(`a leaf that ${rule} is refused, the last good one stays, and the refusal is the last error`, async () => {
      const { giveRoots, giveLeaf, store, events, end } = await open()
      await giveRoots()
      const chainPem = await giveLeaf()
      await giveLeaf(issue)
      assert.deepEqual(events, ['leaf', expected])
      assert.equal(store.require().leaf.chainPem, chainPem)
      assert.equal((store.lastError as ConnectError).code, expected)
      end()
    })
  }

  it('a failure is forgotten when the agent answers again, though with the same leaf', async () => {
    const { agent, giveRoots, giveLeaf, store, clock, end } = await open()
    await giveRoots()
    await giveLeaf()
    const { chainPem } = store.require().leaf
    const { privateKeyPem } = store.require()
    agent.last(LEAF).fail(new Error('the agent is away'))
    await clock.advance(1000)
    assert.ok(store.lastError)
    agent.last(LEAF).answer({ body: { CertPEM: chainPem, PrivateKeyPEM: privateKeyPem }, index: 9 })
    await clock.advance(0)
    assert.equal(store.lastError, undefined)
    end()
  })

  it("the leaf must be of the agent's namespace and partition, where they are set", async () => {
    const { giveRoots, giveLeaf, events, clock, end } = await open({ namespace: 'n' })
    await giveRoots()
    await giveLeaf({ namespace: 'm' })
    await clock.advance(1000)
    await giveLeaf({ namespace: 'n' })
    assert.deepEqual(events, ['ERR_CONNECT_LEAF_SERVICE', 'leaf'])
    end()
  })
})

describe('IdentityStore: expiry', () => {
  it('an expired leaf is not offered, is told once, and the next one is taken', async () => {
    const { giveRoots, giveLeaf, store, events, clock, end } = await open()
    await giveRoots()
    await giveLeaf({ notAfter: new Date(clock.now() + HOUR) })
    await clock.advance(HOUR - 1)
    assert.deepEqual(events, ['leaf'])
    store.require()
    await clock.advance(1)
    assert.deepEqual(events, ['leaf', 'ERR_CONNECT_LEAF_EXPIRED'])
    assert.equal(
      code(() => store.require()),
      'ERR_CONNECT_LEAF_EXPIRED',
    )
    assert.ok(store.current)
    await giveLeaf()
    store.require()
    assert.deepEqual(events, ['leaf', 'ERR_CONNECT_LEAF_EXPIRED', 'leaf'])
    end()
  })

  it('a renewed leaf outlives the first', async () => {
    const { giveRoots, giveLeaf, store, events, clock, end } = await open()
    await giveRoots()
    await giveLeaf({ notAfter: new Date(clock.now() + HOUR) })
    await giveLeaf({ notAfter: new Date(clock.now() + 2 * HOUR) })
    assert.deepEqual(clock.delays, [2 * HOUR])
    await clock.advance(2 * HOUR - 1)
    assert.deepEqual(events, ['leaf', 'leaf'])
    store.require()
    end()
  })

  it('the leaf is judged by the time it is used, not only when a timer fires', async () => {
    const { giveRoots, giveLeaf, store, clock, end } = await open()
    await giveRoots()
    await giveLeaf()
    clock.set(clock.now() + 4 * DAY)
    assert.equal(
      code(() => store.require()),
      'ERR_CONNECT_LEAF_EXPIRED',
    )
    end()
  })

  it('the error has the last word of the agent as its cause', async () => {
    const { agent, giveRoots, giveLeaf, store, clock, end } = await open()
    await giveRoots()
    await giveLeaf({ notAfter: new Date(clock.now() + HOUR) })
    const away = new Error('the agent is away')
    agent.last(LEAF).fail(away)
    await clock.advance(HOUR)
    assert.throws(() => store.require(), {
      code: 'ERR_CONNECT_LEAF_EXPIRED',
      cause: away,
      message: /the agent is away/,
    })
    end()
  })
})

describe('IdentityStore.ready', () => {
  const timeoutMs = 10_000

  it('resolves at once when there is a generation, and else when there is', async () => {
    const { giveRoots, giveLeaf, store, clock, end } = await open()
    const early = store.ready({ timeoutMs, clock })
    await giveRoots()
    const chainPem = await giveLeaf()
    assert.equal((await early).leaf.chainPem, chainPem)
    assert.equal(await store.ready({ timeoutMs, clock }), store.current)
    assert.equal(store.listenerCount('changed'), 1)
    end()
  })

  it('waits for one that has not expired', async () => {
    const { giveRoots, giveLeaf, store, clock, end } = await open()
    await giveRoots()
    await giveLeaf({ notAfter: new Date(clock.now() + HOUR) })
    await clock.advance(HOUR)
    const ready = store.ready({ timeoutMs, clock })
    const chainPem = await giveLeaf()
    assert.equal((await ready).leaf.chainPem, chainPem)
    end()
  })

  it('when the time is over, says what is missing and why', async () => {
    const { agent, store, clock, end } = await open()
    const ready = store.ready({ timeoutMs, clock })
    const refused = assert.rejects(ready, {
      code: 'ERR_CONNECT_NOT_READY',
      message: /no certificate yet: the agent is away/,
    })
    agent.last(ROOTS).fail(new Error('the agent is away'))
    await clock.advance(timeoutMs)
    await refused
    assert.equal(store.listenerCount('changed'), 1)
    end()
  })

  it('ends with its signal, with the service, and with the store', async () => {
    const { store, clock, end } = await open()
    const [signal, closed] = [new AbortController(), new AbortController()]
    const waits = [
      assert.rejects(store.ready({ timeoutMs, clock, signal: signal.signal }), AbortError),
      assert.rejects(store.ready({ timeoutMs, clock, closed: closed.signal }), ClosedError),
      assert.rejects(store.ready({ timeoutMs, clock }), ClosedError),
    ]
    signal.abort()
    closed.abort()
    end()
    await Promise.all(waits)
    assert.equal(clock.pending, 0)
  })
})

describe('IdentityStore.close', () => {
  it('ends both timer and watch; what comes late changes nothing', async () => {
    const { giveRoots, giveLeaf, store, roots, events, clock, leafReads, agent, end } = await open()
    await giveRoots()
    await giveLeaf()
    assert.equal(roots.listenerCount('changed'), 1)
    store.close()
    assert.equal(roots.listenerCount('changed'), 0)
    end()
    assert.equal(agent.last(LEAF).request.signal?.aborted, true)
    const { current } = store
    const before = leafReads()
    await giveLeaf()
    await clock.advance(4 * DAY)
    assert.equal(store.current, current)
    assert.equal(leafReads(), before)
    assert.deepEqual(events, ['leaf'])
    assert.equal(clock.pending, 0)
  })
})
