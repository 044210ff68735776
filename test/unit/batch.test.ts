import assert from 'node:assert/strict'
import { once } from 'node:events'
import { PassThrough, Writable } from 'node:stream'
import { describe, it } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { Batch } from '../../src/sockets/batch.js'
import { LendingDuplex } from '../../src/sockets/buffered-reads.js'

/** Is done with bytes when it calls back, as a socket. */
class Destination extends LendingDuplex {
  override readInto(): boolean {
    return false
  }

  override endNow(): void {
    // Only what is written matters.
  }
}

/** A batch and its destination, which reads and completes each write when the test calls `pending.shift()` or `settle()`. */
function start() {
  const taken: Buffer[] = []
  const pending: (() => void)[] = []
  const to = new Destination({
    writableHighWaterMark: 1,
    write(chunk: Buffer, _encoding, done) {
      pending.push(() => {
        taken.push(Buffer.from(chunk))
        done()
      })
    },
  })
  let roomCalls = 0
  const batch = new Batch(to, () => (roomCalls += 1))
  return {
    batch,
    taken,
    pending,
    roomCalls: () => roomCalls,
    /** Completes all writes, also those that follow. */
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
  it('writes a small piece immediately, and pieces that arrive during the write together', async () => {
    const { batch, taken, pending, settle } = start()
    for (const text of ['a', 'b', 'c']) assert.equal(batch.add(Buffer.from(text)), true)
    assert.equal(pending.length, 1)
    await settle()
    assert.deepEqual(taken.map(String), ['a', 'bc'])
  })

  it('waits one turn for more pieces after a full TLS record', async () => {
    const { batch, taken, pending, settle } = start()
    for (let i = 0; i < 3; i += 1) batch.add(Buffer.alloc(16 * KIB, i))
    assert.equal(pending.length, 0)
    await settle()
    assert.deepEqual(
      taken.map(({ length }) => length),
      [48 * KIB],
    )
  })

  it('reports when it is full and when it has room again, and keeps pieces that are added while full', async () => {
    const { batch, taken, roomCalls, settle } = start()
    batch.add(Buffer.from('x'))
    let added = 0
    while (batch.add(Buffer.alloc(16 * KIB, 1))) added += 1
    assert.ok(added < 8)
    for (let i = 0; i < 20; i += 1) assert.equal(batch.add(Buffer.alloc(16 * KIB, 2)), false)
    assert.equal(roomCalls(), 0)
    await settle()
    assert.equal(roomCalls(), 1)
    assert.equal(
      taken.reduce((sum, { length }) => sum + length, 0),
      1 + (added + 1 + 20) * 16 * KIB,
    )
  })

  it('does not call back after a write fails', async () => {
    const broken = new Error('broken')
    const to = new Writable({
      write(_chunk, _encoding, done) {
        setImmediate(done, broken)
      },
    })
    const failed = once(to, 'error')
    let roomCalls = 0
    let ends = 0
    const batch = new Batch(to, () => (roomCalls += 1))
    while (batch.add(Buffer.alloc(16 * KIB)));
    batch.end(() => (ends += 1))
    assert.deepEqual(await failed, [broken])
    for (let i = 0; i < 3; i += 1) await turn()
    assert.deepEqual([roomCalls, ends], [0, 0])
    assert.equal(batch.add(Buffer.from('more')), false)
  })

  it('calls back when all bytes are written', async () => {
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

  it('writes the added bytes in order, for any timing and with batches that share memory', async () => {
    const size = fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 64 * KIB }))
    const step = fc.record({ index: fc.integer({ min: 0, max: 2 }), size, ends: fc.boolean() })
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const all = [start(), start(), start()]
        const added: Buffer[][] = [[], [], []]
        // One buffer for all reads, as in a pump: it is overwritten after each `add`.
        const scratch = Buffer.alloc(64 * KIB)
        let next = 0
        for (const { index, size, ends } of steps) {
          const { batch, pending } = all[index]!
          const bytes = scratch.subarray(0, size)
          for (let i = 0; i < size; i += 1) bytes[i] = next++ & 0xff
          added[index]!.push(Buffer.from(bytes))
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
          assert.equal(Buffer.concat(taken).equals(Buffer.concat(added[i]!)), true)
        }
      }),
      { numRuns: 100 },
    )
  })

  it('leaves bytes alone that a destination has passed on by reference', async () => {
    const passed = new PassThrough({ highWaterMark: 1 << 20 })
    const batch = new Batch(passed, () => undefined)
    // As one of another connection, which takes buffers that are free.
    const other = start()
    for (let i = 0; i < 8; i += 1) {
      batch.add(Buffer.alloc(6 * KIB, i))
      await turn()
      other.batch.add(Buffer.alloc(20 * KIB, 'x'))
      await other.settle()
    }
    const bytes = passed.read() as Buffer
    const expected = Array.from({ length: 8 }, (_, i) => Buffer.alloc(6 * KIB, i))
    assert.ok(bytes.equals(Buffer.concat(expected)))
  })
})
