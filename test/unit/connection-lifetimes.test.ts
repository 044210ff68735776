import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { describe, it } from 'node:test'
import { ConnectionLifetimes } from '../../src/http/connection-lifetimes.js'
import type { Roots } from '../../src/index.js'
import type { IdentityStore } from '../../src/identity/identity-store.js'
import { TestCa } from '../../src/testing/index.js'
import { connectionFrom, generationOf, rootsOf } from '../fixtures/connections.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'

const DAY_MS = 86_400_000

interface Options {
  /** How long the peer's certificate lives. */
  readonly peerMs?: number
  readonly ownMs?: number
  /** The roots when the connection is held, of the old and the new CA. */
  readonly rootsNow?: (before: Roots, old: TestCa, next: TestCa) => Roots
}

/** A dialed connection that is held for reuse: our certificate is of the old CA, the peer's of the new one. */
function hold({ peerMs = 3 * DAY_MS, ownMs = 3 * DAY_MS, rootsNow = (before) => before }: Options = {}) {
  const clock = new FakeClock()
  const old = TestCa.create({ clock: () => clock.now() })
  const next = TestCa.create({ clock: () => clock.now(), trustDomain: old.trustDomain })
  const before = rootsOf(old, next)
  const at = (ms: number): Date => new Date(clock.now() + ms)
  const generation = generationOf(old, before, clock.now(), { notAfter: at(ownMs) })
  const socket = connectionFrom(next.issue({ notAfter: at(peerMs) }), generation, 'outbound')
  const identity = Object.assign(new EventEmitter(), { current: { roots: rootsNow(before, old, next) } })
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

describe('Lifetimes', () => {
  for (const [share, lifeMs, lastMs] of [
    ['the last minute of three days', 3 * DAY_MS, 60_000],
    ['the last tenth of a minute', 60_000, 6_000],
    ['the last two seconds of eight', 8_000, 2_000],
    ['the second half of three seconds', 3_000, 1_500],
  ] as const) {
    for (const end of ['peerMs', 'ownMs'] as const) {
      it(`retires a connection in ${share} of ${end === 'peerMs' ? "the peer's" : 'our'} certificate`, async () => {
        const { clock, socket, retired } = hold({ [end]: lifeMs })
        await clock.advance(lifeMs - lastMs - 1)
        assert.equal(retired(), 0)
        await clock.advance(1)
        assert.equal(retired(), 1)
        assert.equal(socket.destroyed, false)
      })
    }
  }

  it('retires a connection before an issuer expires, although both certificates live on', async () => {
    const { clock, retired } = hold({ peerMs: 4_000 * DAY_MS, ownMs: 4_000 * DAY_MS })
    // A root of the test CA lives for ten years.
    await clock.advance(3_650 * DAY_MS - 60_001)
    assert.equal(retired(), 0)
    await clock.advance(1)
    assert.equal(retired(), 1)
  })

  it('retires a connection once when the root of either end is withdrawn', () => {
    for (const withdrawn of ['old', 'next'] as const) {
      const held = hold()
      const left = rootsOf(withdrawn === 'old' ? held.next : held.old)
      held.change(rootsOf(held.next, held.old))
      assert.equal(held.retired(), 0)
      held.change(left)
      held.change(left)
      assert.equal(held.retired(), 1)
    }
  })

  it('retires a connection at once whose root was withdrawn while it was dialed', () => {
    const { retired, clock } = hold({ rootsNow: (_before, _old, next) => rootsOf(next) })
    assert.equal(retired(), 1)
    assert.equal(clock.pending, 0)
  })

  it('keeps no timer for a connection that has ended, or after it was closed', async () => {
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
