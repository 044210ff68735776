import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Writable } from 'node:stream'
import { describe, it } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { Batch } from '../../src/sockets/batch.js'

/** A stream whose writes end when a test says so, and which looks at each only then, as a socket may. */
function start() {
  const taken: Buffer[] = []
  const pending: (() => void)[] = []
  const to = new Writable({
    highWaterMark: 1,
    write(chunk: Buffer, _encoding, done) {
      pending.push(() => {
        taken.push(Buffer.from(chunk))
        done()
      })
    },
  })
  let rooms = 0
  const batch = new Batch(to, () => (rooms += 1))
  return {
    batch,
    taken,
    pending,
    rooms: () => rooms,
    /** Lets every write end that is under way, and those that follow from it. */
    settle: async () => {
      do {
        pending.shift()?.()
        await turn()
        await turn()
      } while (pending.length > 0)
    },
  }
}

const KIB = 1024

describe('Batch', () => {
  it('passes a small piece on at once, and what comes meanwhile in one', async () => {
    const { batch, taken, pending, settle } = start()
    for (const text of ['a', 'b', 'c']) assert.equal(batch.add(Buffer.from(text)), true)
    assert.equal(pending.length, 1)
    await settle()
    assert.deepEqual(taken.map(String), ['a', 'bc'])
  })

  it('waits a turn for the rest of a row of records', async () => {
    const { batch, taken, pending, settle } = start()
    for (let i = 0; i < 3; i += 1) batch.add(Buffer.alloc(16 * KIB, i))
    assert.equal(pending.length, 0)
    await settle()
    assert.deepEqual(
      taken.map(({ length }) => length),
      [48 * KIB],
    )
  })

  it('says that it is full, and when it is not any more; what comes all the same is kept', async () => {
    const { batch, taken, rooms, settle } = start()
    batch.add(Buffer.from('x'))
    let added = 0
    while (batch.add(Buffer.alloc(16 * KIB, 1))) added += 1
    assert.ok(added < 8)
    for (let i = 0; i < 20; i += 1) assert.equal(batch.add(Buffer.alloc(16 * KIB, 2)), false)
    assert.equal(rooms(), 0)
    await settle()
    assert.equal(rooms(), 1)
    assert.equal(
      taken.reduce((sum, { length }) => sum + length, 0),
      1 + (added + 1 + 20) * 16 * KIB,
    )
  })

  it('asks for nothing more when a write has failed', async () => {
    const broken = new Error('broken')
    const to = new Writable({
      write(_chunk, _encoding, done) {
        setImmediate(done, broken)
      },
    })
    const failed = once(to, 'error')
    let rooms = 0
    let ends = 0
    const batch = new Batch(to, () => (rooms += 1))
    while (batch.add(Buffer.alloc(16 * KIB)));
    batch.end(() => (ends += 1))
    assert.deepEqual(await failed, [broken])
    for (let i = 0; i < 3; i += 1) await turn()
    assert.deepEqual([rooms, ends], [0, 0])
    assert.equal(batch.add(Buffer.from('more')), false)
  })

  it('tells when all has been passed on', async () => {
    const { batch, taken, settle } = start()
    let ended = 0
    batch.add(Buffer.alloc(20 * KIB))
    batch.add(Buffer.from('rest'))
    batch.end(() => (ended += 1))
    assert.equal(ended, 0)
    await settle()
    assert.equal(ended, 1)
    assert.equal(
      taken.reduce((sum, { length }) => sum + length, 0),
      20 * KIB + 4,
    )
    const { batch: idle } = start()
    idle.end(() => (ended += 1))
    assert.equal(ended, 2)
  })

  it('loses, repeats and mixes nothing, whatever comes when, and however many share its memory', async () => {
    const size = fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 64 * KIB }))
    const step = fc.record({ which: fc.integer({ min: 0, max: 2 }), size, ends: fc.boolean() })
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const all = [start(), start(), start()]
        const given: Buffer[][] = [[], [], []]
        // One buffer for all reads, as in a pump: it is overwritten as soon as it was taken.
        const scratch = Buffer.alloc(64 * KIB)
        let next = 0
        for (const { which, size, ends } of steps) {
          const { batch, pending } = all[which]!
          const bytes = scratch.subarray(0, size)
          for (let i = 0; i < size; i += 1) bytes[i] = next++ & 0xff
          given[which]!.push(Buffer.from(bytes))
          batch.add(bytes)
          scratch.fill(0xee)
          if (!ends) continue
          pending.shift()?.()
          await turn()
        }
        for (const [i, { batch, taken, settle }] of all.entries()) {
          let ended = false
          batch.end(() => (ended = true))
          await settle()
          assert.equal(ended, true)
          assert.equal(Buffer.concat(taken).equals(Buffer.concat(given[i]!)), true)
        }
      }),
      { numRuns: 100 },
    )
  })
})
