import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { AgentOptions } from '../../src/agent/options.js'
import { AbortError, ClosedError, ConnectError } from '../../src/base/errors.js'
import { RootsStore } from '../../src/identity/roots.js'
import { IdentityStore } from '../../src/identity/identity-store.js'
import { type IssueOptions, TestCa } from '../../src/testing/index.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock } from '../fixtures/fake-clock.js'

const TD = '11111111-2222-3333-4444-555555555555.consul'
const ROOTS = '/v1/agent/connect/ca/roots'
const LEAF = '/v1/agent/connect/ca/leaf/web'
const OWN = {
  service: 'web',
  tls: { ecdhCurve: 'auto', minVersion: 'TLSv1.2' },
  testHandshake: () => Promise.resolve(),
} as const
const HOUR = 3_600_000
const DAY = 24 * HOUR

/** A store with a fake agent and a fake clock. */
async function open(options: AgentOptions = {}) {
  const [agent, clock] = [new FakeAgent(options), new FakeClock()]
  const newCa = (): TestCa => TestCa.create({ trustDomain: TD, clock: () => clock.now() })
  const ca = newCa()
  const time = { clock, random: () => 0 }
  const roots = new RootsStore(agent, time)
  const store = new IdentityStore({ agent, roots, ...OWN, ...time })
  const events: string[] = []
  store.on('changed', (_generation, kind) => events.push(kind))
  store.on('failed', (error) => events.push(error instanceof ConnectError ? error.code : error.message))
  await clock.advance(0)
  const giveRoots = async (cas: readonly TestCa[] = [ca]): Promise<void> => {
    const list = cas.map(({ rootPem }, i) => ({ ID: `root-${i}`, RootCert: rootPem, Active: i === 0 }))
    const body = { TrustDomain: TD, ActiveRootID: 'root-0', Roots: list }
    agent.last(ROOTS).answer({ body, index: agent.count(ROOTS) })
    await clock.advance(0)
  }
  const giveLeaf = async (issue: IssueOptions = {}, by: TestCa = ca): Promise<string> => {
    const { chainPem, privateKeyPem } = by.issue(issue)
    agent
      .last(LEAF)
      .answer({ body: { CertPEM: chainPem, PrivateKeyPEM: privateKeyPem }, index: agent.count(LEAF) })
    await clock.advance(0)
    return chainPem
  }
  return {
    agent,
    ca,
    newCa,
    clock,
    roots,
    store,
    events,
    leafReads: () => agent.count(LEAF),
    giveRoots,
    giveLeaf,
    /** Answers the requests for the roots and for the leaf. @returns the chain of the leaf */
    giveIdentity: async (issue?: IssueOptions): Promise<string> => {
      await giveRoots()
      return giveLeaf(issue)
    },
  }
}

describe('IdentityStore', () => {
  it('requests a leaf after it has the roots to verify it with', async () => {
    const { leafReads, giveRoots, giveLeaf, store, events } = await open()
    assert.equal(leafReads(), 0)
    assert.throws(() => store.require(), { code: 'ERR_CONNECT_NOT_READY' })
    await giveRoots()
    assert.equal(leafReads(), 1)
    assert.throws(() => store.require(), { code: 'ERR_CONNECT_NOT_READY' })
    const chainPem = await giveLeaf()
    assert.equal(store.require().leaf.chainPem, chainPem)
    assert.deepEqual(events, ['leaf'])
  })

  it('uses the roots that an existing store has already loaded', async () => {
    const { agent, clock, roots, giveRoots, leafReads } = await open()
    await giveRoots()
    new IdentityStore({ agent, roots, ...OWN, clock, random: () => 0 })
    await clock.advance(0)
    assert.equal(leafReads(), 2)
  })

  it('creates a generation for a new leaf and for new roots, and does not change the old ones', async () => {
    const { giveRoots, giveLeaf, store, events, ca, newCa, giveIdentity } = await open()
    const chainPem = await giveIdentity()
    const first = store.require()
    const nextChainPem = await giveLeaf()
    const second = store.require()
    assert.deepEqual([first.leaf.chainPem, second.leaf.chainPem], [chainPem, nextChainPem])
    await giveRoots([newCa(), ca])
    const third = store.require()
    assert.deepEqual(third.leaf, second.leaf)
    assert.deepEqual([second.roots.pems.length, third.roots.pems.length], [1, 2])
    assert.deepEqual(events, ['leaf', 'leaf', 'roots'])
  })

  it('refuses a leaf that arrives before its root, and requests it again when the root arrives', async () => {
    const { giveRoots, giveLeaf, store, events, ca, newCa, leafReads, giveIdentity } = await open()
    const next = newCa()
    await giveIdentity()
    await giveLeaf({}, next)
    assert.deepEqual(events, ['leaf', 'ERR_CONNECT_LEAF_UNTRUSTED'])
    assert.equal(leafReads(), 2)
    await giveRoots([next, ca])
    // New roots end the delay after the refusal.
    assert.equal(leafReads(), 3)
    const chainPem = await giveLeaf({}, next)
    assert.equal(store.require().leaf.chainPem, chainPem)
    assert.equal(store.lastError, undefined)
  })

  it('refuses an invalid leaf, and keeps the last valid one', async () => {
    const { giveLeaf, store, events, giveIdentity } = await open()
    const chainPem = await giveIdentity()
    await giveLeaf({ service: 'db' })
    assert.deepEqual(events, ['leaf', 'ERR_CONNECT_LEAF_SERVICE'])
    assert.equal(store.require().leaf.chainPem, chainPem)
    assert.equal((store.lastError as ConnectError).code, 'ERR_CONNECT_LEAF_SERVICE')
  })

  it('clears the last error when the agent returns the same leaf again', async () => {
    const { agent, store, clock, giveIdentity } = await open()
    await giveIdentity()
    const { leaf, privateKeyPem } = store.require()
    agent.last(LEAF).fail(new Error('agent unreachable'))
    await clock.advance(1000)
    assert.ok(store.lastError)
    agent.last(LEAF).answer({ body: { CertPEM: leaf.chainPem, PrivateKeyPEM: privateKeyPem }, index: 9 })
    await clock.advance(0)
    assert.equal(store.lastError, undefined)
  })

  it('requires the namespace of the agent options in the leaf', async () => {
    const { giveLeaf, events, clock, giveIdentity } = await open({ namespace: 'n' })
    await giveIdentity({ namespace: 'm' })
    await clock.advance(1000)
    await giveLeaf({ namespace: 'n' })
    assert.deepEqual(events, ['ERR_CONNECT_LEAF_SERVICE', 'leaf'])
  })
})

describe('IdentityStore.require', () => {
  it('refuses an expired leaf, reports it once, and uses the next leaf', async () => {
    const { giveLeaf, store, events, clock, giveIdentity } = await open()
    await giveIdentity({ notAfter: new Date(clock.now() + HOUR) })
    await clock.advance(HOUR - 1)
    assert.deepEqual(events, ['leaf'])
    store.require()
    await clock.advance(1)
    assert.deepEqual(events, ['leaf', 'ERR_CONNECT_LEAF_EXPIRED'])
    assert.throws(() => store.require(), { code: 'ERR_CONNECT_LEAF_EXPIRED' })
    assert.ok(store.current)
    await giveLeaf()
    store.require()
    assert.deepEqual(events, ['leaf', 'ERR_CONNECT_LEAF_EXPIRED', 'leaf'])
  })

  it('uses the expiry of the renewed leaf', async () => {
    const { giveLeaf, store, events, clock, giveIdentity } = await open()
    await giveIdentity({ notAfter: new Date(clock.now() + HOUR) })
    await giveLeaf({ notAfter: new Date(clock.now() + 2 * HOUR) })
    assert.deepEqual(clock.delays, [2 * HOUR])
    await clock.advance(2 * HOUR - 1)
    assert.deepEqual(events, ['leaf', 'leaf'])
    store.require()
  })

  it('checks the expiry on each use, not only when the timer fires', async () => {
    const { store, clock, giveIdentity } = await open()
    await giveIdentity()
    clock.set(clock.now() + 4 * DAY)
    assert.throws(() => store.require(), { code: 'ERR_CONNECT_LEAF_EXPIRED' })
  })

  it('reports the last error of the agent as the cause', async () => {
    const { agent, store, clock, giveIdentity } = await open()
    await giveIdentity({ notAfter: new Date(clock.now() + HOUR) })
    const cause = new Error('agent unreachable')
    agent.last(LEAF).fail(cause)
    await clock.advance(HOUR)
    assert.throws(() => store.require(), {
      code: 'ERR_CONNECT_LEAF_EXPIRED',
      cause,
      message: /agent unreachable/,
    })
  })
})

describe('IdentityStore.ready', () => {
  const timeoutMs = 10_000

  it('resolves with the current generation, or with the first one', async () => {
    const { store, clock, giveIdentity } = await open()
    const early = store.ready({ timeoutMs, clock })
    const chainPem = await giveIdentity()
    assert.equal((await early).leaf.chainPem, chainPem)
    assert.equal(await store.ready({ timeoutMs, clock }), store.current)
    assert.equal(store.listenerCount('changed'), 1)
  })

  it('waits for a leaf that has not expired', async () => {
    const { giveLeaf, store, clock, giveIdentity } = await open()
    await giveIdentity({ notAfter: new Date(clock.now() + HOUR) })
    await clock.advance(HOUR)
    const ready = store.ready({ timeoutMs, clock })
    const chainPem = await giveLeaf()
    assert.equal((await ready).leaf.chainPem, chainPem)
  })

  it('reports the reason when the timeout expires', async () => {
    const { agent, store, clock } = await open()
    const ready = store.ready({ timeoutMs, clock })
    const refused = assert.rejects(ready, {
      code: 'ERR_CONNECT_NOT_READY',
      message: /no certificate yet: agent unreachable/,
    })
    agent.last(ROOTS).fail(new Error('agent unreachable'))
    await clock.advance(timeoutMs)
    await refused
    assert.equal(store.listenerCount('changed'), 1)
  })

  it('rejects when the signal is aborted, when the service closes, and when the store closes', async () => {
    const { store, roots, clock } = await open()
    const [signal, closed] = [new AbortController(), new AbortController()]
    const waits = [
      assert.rejects(store.ready({ timeoutMs, clock, signal: signal.signal }), AbortError),
      assert.rejects(store.ready({ timeoutMs, clock, closed: closed.signal }), ClosedError),
      assert.rejects(store.ready({ timeoutMs, clock }), ClosedError),
    ]
    signal.abort()
    closed.abort()
    store.close()
    roots.close()
    await Promise.all(waits)
    assert.equal(clock.pending, 0)
  })
})

describe('IdentityStore.close', () => {
  it('cancels the timer and the watch, and ignores a late answer', async () => {
    const { giveLeaf, store, roots, events, clock, leafReads, agent, giveIdentity } = await open()
    await giveIdentity()
    assert.equal(roots.listenerCount('changed'), 1)
    store.close()
    assert.equal(roots.listenerCount('changed'), 0)
    roots.close()
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
