import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { type TestContext, describe, it } from 'node:test'
import { Lifetimes } from '../../src/adapters/lifetimes.js'
import type { MeshSocket, Roots } from '../../src/index.js'
import type { IdentityStore } from '../../src/identity/store.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { offer, startMesh } from '../fixtures/mesh.js'
import { beginNewCa, forgetOldCa } from '../fixtures/new-ca.js'

interface Held {
  readonly socket: MeshSocket
  readonly clock: FakeClock
  readonly lifetimes: Lifetimes
  /** How often the connection was given up. */
  readonly retired: () => number
  /** A rotation of the CA, until the old root is forgotten; how the new roots are. */
  readonly rotate: () => Promise<Roots>
  /** Tells of new roots. */
  readonly tell: (roots: Roots) => void
}

/** A dialled connection that is held, under a clock of its own. */
async function held(
  t: TestContext,
  leafTtlMs: number,
  between?: (rotate: () => Promise<Roots>) => Promise<Roots>,
): Promise<Held> {
  const { agent, join } = await startMesh(t, { leafTtlMs })
  const api = join('api')
  const web = join('web')
  await offer(api, (socket) => socket.pipe(socket))
  const socket = await web.dial('api')
  const rotate = async (): Promise<Roots> => {
    await beginNewCa(agent, [api, web])
    return forgetOldCa(agent, web)
  }
  const before = web.roots
  const roots = between === undefined ? before : await between(rotate)
  const identity = Object.assign(new EventEmitter(), { current: { roots } })
  const clock = new FakeClock(Date.now())
  const lifetimes = new Lifetimes(identity as unknown as IdentityStore, clock)
  let count = 0
  lifetimes.hold(socket, () => (count += 1))
  return {
    socket,
    clock,
    lifetimes,
    retired: () => count,
    rotate,
    tell: (next) => identity.emit('changed', { roots: next }, 'roots'),
  }
}

describe('Lifetimes', () => {
  for (const [what, lifeMs, lastMs] of [
    ['the last minute of three days', 259_200_000, 60_000],
    ['the last tenth of a minute', 60_000, 6_000],
    ['the last two seconds of eight', 8_000, 2_000],
    ['the second half of three seconds', 3_000, 1_500],
  ] as const) {
    it(`gives a connection up in ${what}`, async (t) => {
      const { clock, socket, retired } = await held(t, lifeMs)
      const leftMs = socket.peer.notAfter.getTime() - clock.now()
      // Certificates count whole seconds, and both ends have one.
      const share = lastMs === 60_000 || lastMs === 2_000 ? lastMs : leftMs * (lastMs / lifeMs)
      await clock.advance(leftMs - share - 1_100)
      assert.equal(retired(), 0)
      await clock.advance(1_200)
      assert.equal(retired(), 1)
      assert.equal(socket.destroyed, false)
    })
  }

  it('gives a connection up when its root is dropped', async (t) => {
    const { retired, rotate, tell, socket } = await held(t, 60_000)
    const next = await rotate()
    tell(next)
    assert.equal(retired(), 1)
    // Once, whatever comes.
    tell(next)
    assert.equal(retired(), 1)
    assert.equal(socket.destroyed, false)
  })

  it('gives a connection up at once whose root was dropped while it was dialled', async (t) => {
    const { retired, clock } = await held(t, 60_000, (rotate) => rotate())
    assert.equal(retired(), 1)
    assert.equal(clock.pending, 0)
  })

  it('forgets a connection that has ended, and all of them when it is closed', async (t) => {
    const first = await held(t, 60_000)
    assert.equal(first.clock.pending, 1)
    first.socket.destroy()
    await new Promise(setImmediate)
    assert.equal(first.clock.pending, 0)
    const second = await held(t, 60_000)
    second.lifetimes.close()
    assert.equal(second.clock.pending, 0)
    second.tell(await second.rotate())
    assert.equal(second.retired(), 0)
  })
})
