import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, describe, it } from 'node:test'
import { type AgentOptions } from '../../src/agent/options.js'
import { agentSettings } from '../../src/agent/settings.js'
import { type Time, systemTime } from '../../src/base/clock.js'
import { type SharedLease, acquireShared } from '../../src/service/shared.js'
import { FakeClock } from '../fixtures/fake-clock.js'

// These tests need no agent: the socket does not exist.
const address = `unix://${join(tmpdir(), 'consul-connect-missing.sock')}`

function acquire(t: TestContext, options: AgentOptions = {}, time: Time = systemTime): SharedLease {
  const lease = acquireShared(agentSettings({ env: {}, address, ...options }), time)
  t.after(() => lease.release())
  return lease
}

/** Whether the lease is closed, which removes the listeners that `listen` added. */
function isClosed(lease: SharedLease): boolean {
  return lease.roots.listenerCount('failed') === 0
}

function listen(lease: SharedLease): void {
  lease.roots.on('failed', () => undefined)
}

describe('acquireShared', () => {
  it('shares the client, the roots, and the upstreams among equal settings', (t) => {
    const [first, second] = [acquire(t), acquire(t)]
    assert.equal(first.agent, second.agent)
    assert.equal(first.roots, second.roots)
    assert.equal(first.upstreams, second.upstreams)
    assert.equal(first.upstreams.lease('web').balancer, second.upstreams.lease('web').balancer)
  })

  it('shares nothing between different settings', (t) => {
    const first = acquire(t)
    for (const options of [{ token: 't' }, { namespace: 'n' }, { timeoutMs: 5 }, { dnsAddress: 'a:53' }]) {
      const second = acquire(t, options)
      assert.notEqual(first.agent, second.agent)
      assert.notEqual(first.roots, second.roots)
      assert.notEqual(first.upstreams, second.upstreams)
    }
  })

  it('closes everything with the last release, and then starts again', async (t) => {
    const [first, second] = [acquire(t), acquire(t)]
    listen(first)
    await first.release()
    assert.ok(!isClosed(second))
    const third = acquire(t)
    assert.equal(third.roots, second.roots)
    await second.release()
    assert.ok(!isClosed(third))
    await third.release()
    assert.ok(isClosed(third))
    await assert.rejects(
      third.agent.request({ path: '/v1/x' }, () => undefined),
      { code: 'ERR_CONNECT_AGENT_UNREACHABLE' },
    )
    assert.notEqual(acquire(t).roots, third.roots)
  })

  it('counts a second release of the same lease once', async (t) => {
    const [first, second] = [acquire(t), acquire(t)]
    listen(first)
    await Promise.all([first.release(), first.release()])
    await first.release()
    assert.ok(!isClosed(second))
    await second.release()
    assert.ok(isClosed(second))
  })

  it('does not close later leases by another release of an old one', async (t) => {
    const first = acquire(t)
    await first.release()
    const second = acquire(t)
    listen(second)
    await first.release()
    assert.ok(!isClosed(second))
    assert.equal(acquire(t).roots, second.roots)
  })

  it('shares nothing under an injected clock', async (t) => {
    const time = { clock: new FakeClock(), random: () => 0 }
    const [first, second, shared] = [acquire(t, {}, time), acquire(t, {}, time), acquire(t)]
    assert.equal(new Set([first.roots, second.roots, shared.roots]).size, 3)
    listen(first)
    listen(second)
    await first.release()
    assert.ok(isClosed(first) && !isClosed(second))
  })

  it('closes the upstreams with the last release', async (t) => {
    const clock = new FakeClock()
    const lease = acquire(t, {}, { clock, random: () => 0 })
    lease.upstreams.lease('web')
    lease.upstreams.lease({ query: 'nearest' }).release()
    assert.ok(clock.pending >= 2)
    await lease.release()
    assert.equal(clock.pending, 0)
  })
})
