import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { describe, it } from 'node:test'
import { ConnectionLifetimes } from '../../src/transport/connection-lifetimes.js'
import type { Roots } from '../../src/index.js'
import type { IdentityStore } from '../../src/identity/identity-store.js'
import { TestCa } from '../../src/testing/index.js'
import { connectionFrom, generationOf, rootsOf } from '../fixtures/connections.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const DAY_MS = 86_400_000

interface Options {
  /** The lifetime of the peer's certificate. */
  readonly peerMs?: number
  /** The lifetime of our certificate. */
  readonly ownMs?: number
  /** Whether the root of our certificate was withdrawn during the dial. */
  readonly isOutdated?: boolean
}

/** Holds a dialed connection for reuse. The old CA issued our certificate, and the new CA the peer's. */
function hold({ peerMs = 3 * DAY_MS, ownMs = 3 * DAY_MS, isOutdated = false }: Options = {}) {
  const clock = new FakeClock()
  const old = TestCa.create({ clock: () => clock.now() })
  const next = TestCa.create({ clock: () => clock.now(), trustDomain: old.trustDomain })
  const roots = rootsOf(old, next)
  const at = (ms: number): Date => new Date(clock.now() + ms)
  const generation = generationOf(old, roots, clock.now(), { notAfter: at(ownMs) })
  const socket = connectionFrom(next.issue({ notAfter: at(peerMs) }), generation, 'outbound')
  const current = { roots: isOutdated ? rootsOf(next) : roots }
  const identity = Object.assign(new EventEmitter(), { current })
  const lifetimes = new ConnectionLifetimes(identity as unknown as IdentityStore, clock)
  let retired = 0
  lifetimes.hold(socket, () => (retired += 1))
  return {
    clock,
    socket,
    lifetimes,
    old,
    next,
    retired: () => retired,
    change: (roots: Roots) => identity.emit('changed', { roots }, 'roots'),
  }
}

describe('ConnectionLifetimes', () => {
  for (const [share, certificate, lifeMs, lastMs] of [
    ['in the last minute of three days', 'peerMs', 3 * DAY_MS, 60_000],
    ['in the last tenth of a minute', 'peerMs', 60_000, 6_000],
    ['in the last two seconds of eight', 'peerMs', 8_000, 2_000],
    ['in the second half of three seconds', 'peerMs', 3_000, 1_500],
    ['before our own certificate expires', 'ownMs', 60_000, 6_000],
  ] as const) {
    it(`retires a connection ${share}`, async () => {
      const { clock, socket, retired } = hold({ [certificate]: lifeMs })
      await clock.advance(lifeMs - lastMs - 1)
      assert.equal(retired(), 0)
      await clock.advance(1)
      assert.equal(retired(), 1)
      assert.equal(socket.destroyed, false)
    })
  }

  it('retires a connection before an issuer expires, although both certificates remain valid', async () => {
    const { clock, retired } = hold({ peerMs: 4_000 * DAY_MS, ownMs: 4_000 * DAY_MS })
    // A root of the test CA lives for ten years.
    await clock.advance(3_650 * DAY_MS - 60_001)
    assert.equal(retired(), 0)
    await clock.advance(1)
    assert.equal(retired(), 1)
  })

  it('retires a connection once when the root of either certificate is withdrawn', () => {
    for (const withdrawn of ['old', 'next'] as const) {
      const held = hold()
      const remaining = rootsOf(withdrawn === 'old' ? held.next : held.old)
      held.change(rootsOf(held.next, held.old))
      assert.equal(held.retired(), 0)
      held.change(remaining)
      held.change(remaining)
      assert.equal(held.retired(), 1)
    }
  })

  it('retires a connection immediately if its root was withdrawn during the dial', () => {
    const { retired, clock } = hold({ isOutdated: true })
    assert.equal(retired(), 1)
    assert.equal(clock.pending, 0)
  })

  it('cancels its timers when a connection ends and on close()', async () => {
    const first = hold()
    assert.equal(first.clock.pending, 1)
    first.socket.destroy()
    await settle()
    assert.equal(first.clock.pending, 0)
    const second = hold()
    second.lifetimes.close()
    assert.equal(second.clock.pending, 0)
    second.change(rootsOf(second.next))
    assert.equal(second.retired(), 0)
  })
})
