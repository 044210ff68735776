// What a session holds for streams that are not read, and in which order it writes the frames of many streams.
import assert from 'node:assert/strict'
import { Duplex, Writable } from 'node:stream'
import { describe, it } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { HEAD_ROOM, SLAB_BYTES, takeSlab } from '../../src/sockets/slabs.js'
import { ByteQueue } from '../../src/transport/mux/byte-queue.js'
import { type FrameSource, FrameWriter } from '../../src/transport/mux/frame-writer.js'
import {
  HEAD_BYTES,
  RESET_CODES,
  controlFrame,
  settingsFrame,
  writeHead,
} from '../../src/transport/mux/frames.js'
import { sessionCounts } from '../../src/transport/mux/session-counts.js'
import { MuxSession, OWN_SETTINGS } from '../../src/transport/mux/session.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { seeded } from '../fixtures/random.js'

describe('a queue of bytes', () => {
  it('returns what was appended, in order, for pieces of every size', () => {
    const random = seeded(7)
    const below = (bound: number): number => Math.floor(random() * bound)
    const queue = new ByteQueue()
    const expected: Buffer[] = []
    const shifted: Buffer[] = []
    for (let i = 0; i < 5_000; i += 1) {
      const bytes = Buffer.alloc(below(4) === 0 ? below(70_000) : below(20), i)
      queue.append(bytes)
      expected.push(bytes)
      if (below(20) === 0) {
        const length = queue.length
        const next = queue.shift()
        assert.equal(queue.length, length - (next?.length ?? 0))
        if (next !== undefined) shifted.push(Buffer.from(next))
      }
    }
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) shifted.push(next)
    assert.ok(Buffer.concat(shifted).equals(Buffer.concat(expected)))
    assert.equal(queue.length, 0)
  })

  it('takes little more memory for bytes that arrive one by one', () => {
    const before = used()
    const queues = Array.from({ length: 50 }, () => new ByteQueue())
    for (const queue of queues) for (let i = 0; i < 65_536; i += 1) queue.append(Buffer.from('x'))
    const each = (used() - before) / queues.length
    assert.equal(queues[7]!.length, 65_536)
    assert.ok(each < 3 * 65_536, `${each} bytes`)
  })
})

/** Memory of buffers: they are outside of the heap. */
function used(): number {
  return process.memoryUsage().arrayBuffers
}

class Source implements FrameSource {
  readonly id: number
  left: number

  constructor(id: number, bytes: number) {
    this.id = id
    this.left = bytes
  }

  canSend(): boolean {
    return this.left > 0
  }

  copyTo(target: Buffer, at: number, maxBytes: number): number {
    const length = Math.min(this.left, maxBytes)
    target.fill(this.id, at, at + length)
    this.left -= length
    return length
  }

  lend(): undefined {
    return undefined
  }
}

describe('a writer of frames', () => {
  it('lets a small stream go after one short frame of each large one', async () => {
    const written: Buffer[] = []
    const socket = new Writable({
      write(chunk: Buffer, _encoding, callback) {
        written.push(Buffer.from(chunk))
        setImmediate(callback)
      },
    })
    let flushed = 0
    const writer = new FrameWriter(socket, () => (flushed += 1))
    writer.maxFrameBytes = 65_536
    const large = Array.from({ length: 10 }, (_, i) => new Source(i + 1, 1 << 20))
    for (const each of large) writer.ready(each)
    await nextTurn()
    const small = new Source(99, 5)
    writer.ready(small)
    while (!writer.isFlushed) await nextTurn()
    assert.equal(flushed, 1)
    const bytes = Buffer.concat(written)
    const order: number[] = []
    for (let at = 0; at < bytes.length; at += 8 + bytes.readUIntBE(at + 5, 3))
      order.push(bytes.readUInt32BE(at))
    // What was written in the first turn, and one round of the others.
    assert.ok(order.indexOf(99) <= 20, `after ${order.indexOf(99)} frames`)
    const sizes = written.map(({ length }) => length)
    assert.ok(Math.max(...sizes) <= SLAB_BYTES, `${Math.max(...sizes)} bytes`)
    assert.ok(bytes.length < 10.02 * (1 << 20), 'few heads')
  })

  it('writes nothing for a stream that was forgotten, or that its peer has stopped', async () => {
    const written: Buffer[] = []
    const socket = new Writable({
      write(chunk: Buffer, _encoding, callback) {
        written.push(chunk)
        callback()
      },
    })
    const writer = new FrameWriter(socket, () => undefined)
    const [forgotten, stopped] = [new Source(1, 10), new Source(2, 10)]
    writer.ready(forgotten)
    writer.ready(stopped)
    writer.forget(forgotten)
    stopped.left = 0
    await nextTurn()
    assert.deepEqual([written.length, writer.isFlushed], [0, true])
  })

  it('writes the bytes of a pump from where they lie, and returns them when they were written', async () => {
    const pending: { chunk: Buffer; callback: () => void }[] = []
    const link = new Duplex({
      read: () => undefined,
      write(chunk: Buffer, _encoding, callback) {
        pending.push({ chunk, callback })
      },
    })
    const session = new MuxSession(link, {
      settings: OWN_SETTINGS,
      clock: new FakeClock(),
      counts: sessionCounts(),
      idleMs: 60_000,
    })
    const stream = session.open(true).on('error', () => undefined)
    link.push(settingsFrame(OWN_SETTINGS))
    await nextTurn()
    pending.shift()?.callback()
    const slab = takeSlab()
    let isReturned = false
    stream.write(
      slab.fill('x').subarray(HEAD_ROOM, HEAD_ROOM + 50_000),
      (error) => (isReturned = error == null),
    )
    for (let i = 0; i < 3; i += 1) await nextTurn()
    const [write] = pending
    assert.deepEqual([write?.chunk.length, write?.chunk.buffer === slab.buffer], [8 + 50_000, true])
    // The peer takes no more bytes: the others need not be sent, but these are still being written.
    const unread = Buffer.alloc(HEAD_BYTES + 1)
    writeHead(unread, 0, 'data', 1, 1)
    const over = [
      controlFrame('accept', 1),
      unread,
      controlFrame('end', 1),
      controlFrame('reset', 1, RESET_CODES.cancel),
    ]
    link.push(Buffer.concat(over))
    for (let i = 0; i < 3; i += 1) await nextTurn()
    assert.equal(isReturned, false)
    write?.callback()
    await nextTurn()
    assert.equal(isReturned, true)
    session.destroy()
  })
})
