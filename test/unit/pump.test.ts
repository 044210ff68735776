import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type ListenOptions, type Socket, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex, type Readable } from 'node:stream'
import { type TestContext, after, describe, it } from 'node:test'
import { TimeoutError } from '../../src/base/errors.js'
import { cut, pump } from '../../src/sockets/pump.js'
import { settle } from '../fixtures/fake-clock.js'
import { WAIT_MS, until } from '../fixtures/mesh.js'
import { stopTime } from '../fixtures/stopped-time.js'

const folder = mkdtempSync(join(tmpdir(), 'consul-connect-pump-'))
after(() => {
  rmSync(folder, { recursive: true })
})
let sockets = 0

interface Options {
  readonly path?: boolean
}

/** Two ends of one connection; the second is read by nobody yet. */
async function pair(t: TestContext, { path = false }: Options = {}): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  const where: ListenOptions = path
    ? { path: join(folder, `${(sockets += 1)}.sock`) }
    : { port: 0, host: '127.0.0.1' }
  server.listen(where)
  await once(server, 'listening')
  const address = server.address()
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const near = connect(
    typeof address === 'string'
      ? { path: address, allowHalfOpen: true }
      : { ...where, port: address!.port, allowHalfOpen: true },
  )
  const [[far]] = await Promise.all([accepted, once(near, 'connect')])
  server.close()
  // Errors of the outer ends are looked at where they matter.
  near.on('error', () => undefined)
  t.after(() => {
    near.destroy()
    far.destroy()
  })
  return [near, far]
}

/** left — a, which is pumped to b — right. */
async function start(t: TestContext, options?: Options) {
  const [[left, a], [right, b]] = await Promise.all([pair(t, options), pair(t, options)])
  return { left, a, b, right }
}

/** Waits until nothing more is read of a socket: the kernel's buffers behind it are full, and the pump has stopped. */
async function stands(socket: Socket): Promise<void> {
  let before = 0
  await until('nothing moves', () => {
    const isStill = socket.bytesRead === before && before > 0
    before = socket.bytesRead
    return isStill
  })
}

/** Everything that comes until the end. An iterator would destroy the stream then. */
async function text(readable: Readable): Promise<string> {
  const chunks: Buffer[] = []
  readable.on('data', (chunk: Buffer) => chunks.push(chunk))
  if (!readable.readableEnded) await once(readable, 'end')
  return Buffer.concat(chunks).toString()
}

/** What a promise rejects with; handled from the start. */
function rejection(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => {
      throw new Error('expected a rejection')
    },
    (error: unknown) => error as Error,
  )
}

/** How a socket ended: in order, or by an error. */
function ending(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    socket.on('end', () => {
      socket.end()
      resolve('end')
    })
    socket.on('error', ({ code }: NodeJS.ErrnoException) => {
      resolve(code ?? 'error')
    })
    socket.on('close', () => {
      resolve('close')
    })
    socket.resume()
  })
}

/** The code of the error that it breaks with. */
async function errorCode(socket: Socket): Promise<string | undefined> {
  const [{ code }] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
  return code
}

function timers(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
}

describe('pump: options', () => {
  it('refuses the wrong and the misspelt', async (t) => {
    const { a, b } = await start(t)
    for (const [options, option] of [
      [{ idleTimeoutMs: 0 }, 'idleTimeoutMs'],
      [{ idleTimeoutMs: '5' }, 'idleTimeoutMs'],
      [{ idleTimeout: 5 }, 'options.idleTimeout'],
    ] as const) {
      assert.throws(() => pump(a, b, options as never), { name: 'OptionError', option })
    }
  })
})

describe('pump: both directions', () => {
  it('copies, counts, and closes both in the end', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    left.end('request')
    right.end('a longer answer')
    assert.deepEqual(await Promise.all([text(right), text(left)]), ['request', 'a longer answer'])
    assert.deepEqual(await pumping, { sent: 7, received: 15 })
    assert.ok(a.closed && b.closed)
  })

  it('nothing in either direction is nothing', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    left.end()
    right.end()
    left.resume()
    right.resume()
    assert.deepEqual(await pumping, { sent: 0, received: 0 })
  })

  for (const direction of ['a to b', 'b to a'] as const) {
    it(`each ends by itself: from ${direction} first, and the answer after it`, async (t) => {
      const { left, a, b, right } = await start(t)
      const [asker, answerer] = direction === 'a to b' ? [left, right] : [right, left]
      const pumping = pump(a, b)
      asker.end('request')
      // The whole request with its end is there before a byte of the answer is.
      assert.equal(await text(answerer), 'request')
      await settle()
      assert.ok(!a.destroyed && !b.destroyed)
      answerer.write('first ')
      answerer.end('second')
      assert.equal(await text(asker), 'first second')
      const [request, answer] = [7, 12]
      assert.deepEqual(
        await pumping,
        direction === 'a to b' ? { sent: request, received: answer } : { sent: answer, received: request },
      )
    })
  }

  it('what came before, with its end, is not lost', async (t) => {
    const { left, a, b, right } = await start(t)
    left.end('early')
    await once(left, 'finish')
    const pumping = pump(a, b)
    assert.equal(await text(right), 'early')
    right.end()
    left.resume()
    assert.deepEqual(await pumping, { sent: 5, received: 0 })
  })

  it('one that has been read to its end before ends the other', async (t) => {
    const { left, a, b, right } = await start(t)
    left.end()
    a.resume()
    await once(a, 'end')
    const pumping = pump(a, b)
    right.resume()
    await once(right, 'end')
    right.end()
    await pumping
  })

  it('much in both directions at once arrives whole', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    const [there, back] = [randomBytes(5_000_003), randomBytes(3_000_001)]
    const digest = async (socket: Socket): Promise<string> => {
      const hash = createHash('sha256')
      socket.on('data', (chunk: Buffer) => hash.update(chunk))
      await once(socket, 'end')
      return hash.digest('hex')
    }
    const arrived = Promise.all([digest(right), digest(left)])
    left.end(there)
    right.end(back)
    const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
    assert.deepEqual(await arrived, [sha256(there), sha256(back)])
    assert.deepEqual(await pumping, { sent: there.length, received: back.length })
  })

  it('between streams that are no sockets', async () => {
    const [near, a] = duplexPair()
    const [far, b] = duplexPair()
    const pumping = pump(a, b)
    near.end('there')
    far.end('back again')
    assert.deepEqual(await Promise.all([text(far), text(near)]), ['there', 'back again'])
    assert.deepEqual(await pumping, { sent: 5, received: 10 })
  })
})

describe('pump: backpressure', () => {
  it('a reader that does not read stops the writer: no more is held than two buffers', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    const total = 64 * 1024 * 1024
    left.end(Buffer.alloc(total, 'x'))
    // What was read and the kernel has not taken yet.
    const held = (): number => a.bytesRead - (b.bytesWritten - b.writableLength)
    await stands(a)
    assert.ok(held() > 0 && held() <= 256 * 1024, `${held()} bytes are held`)
    assert.ok(a.bytesRead < total)
    // The other direction is free.
    right.end('meanwhile')
    assert.equal(await text(left), 'meanwhile')
    let [arrived, most] = [0, 0]
    right.on('data', (chunk: Buffer) => {
      arrived += chunk.length
      most = Math.max(most, held())
    })
    assert.deepEqual(await pumping, { sent: total, received: 9 })
    if (!right.readableEnded) await once(right, 'end')
    assert.equal(arrived, total)
    assert.ok(most <= 256 * 1024, `${most} bytes were held`)
  })

  it('a stream that takes its time gets one chunk at a time', async () => {
    const written: number[] = []
    let release: (() => void) | undefined
    const slow = new Duplex({
      writableHighWaterMark: 1,
      read: () => undefined,
      write: (chunk: Buffer, _encoding, callback) => {
        written.push(chunk.length)
        release = callback
      },
    })
    let reads = 0
    const source = new Duplex({
      readableHighWaterMark: 1,
      read() {
        reads += 1
        this.push(reads <= 10 ? 'x' : null)
      },
      write: (_chunk, _encoding, callback) => {
        callback()
      },
    })
    const pumping = pump(source, slow)
    for (let i = 1; i <= 10; i += 1) {
      await settle()
      assert.equal(written.length, i)
      assert.ok(slow.writableLength <= 1, `${slow.writableLength} wait`)
      release!()
    }
    slow.push(null)
    assert.deepEqual(await pumping, { sent: 10, received: 0 })
  })
})

describe('pump: one that breaks', () => {
  for (const side of ['left', 'right'] as const) {
    it(`${side}: the other is reset, so that what is cut short does not look complete`, async (t) => {
      const started = await start(t)
      const { a, b } = started
      const other = side === 'left' ? started.right : started.left
      const failed = rejection(pump(a, b))
      const end = ending(other)
      started[side].write('half of it')
      await once(other, 'data')
      started[side].resetAndDestroy()
      const error = (await failed) as NodeJS.ErrnoException
      assert.equal(error.code, 'ECONNRESET')
      assert.equal(await end, 'ECONNRESET')
      assert.ok(a.closed && b.closed)
    })

    it(`${side}, of a unix socket, which knows no reset: the other is closed`, async (t) => {
      const started = await start(t, { path: true })
      const { a, b } = started
      const inner = side === 'left' ? a : b
      const other = side === 'left' ? started.right : started.left
      const failed = rejection(pump(a, b))
      const end = ending(other)
      const broken = new Error('broken')
      inner.destroy(broken)
      assert.equal(await failed, broken)
      assert.equal(await end, 'end')
      assert.ok(a.closed && b.closed)
    })

    it(`${side}, of streams that are no sockets: the other is destroyed`, async () => {
      const [, a] = duplexPair()
      const [, b] = duplexPair()
      const failed = rejection(pump(a, b))
      const broken = new Error('broken')
      const inner = side === 'left' ? a : b
      inner.destroy(broken)
      assert.equal(await failed, broken)
      assert.ok(a.destroyed && b.destroyed)
    })

    it(`${side}, without an error: it is an error all the same`, async (t) => {
      const started = await start(t)
      const failed = rejection(pump(started.a, started.b))
      const other = side === 'left' ? started.right : started.left
      const end = ending(other)
      const inner = side === 'left' ? started.a : started.b
      inner.destroy()
      assert.equal((await failed).message, 'the connection was cut')
      assert.equal(await end, 'ECONNRESET')
    })

    it(`${side}, after it had ended: what the other still says is lost, and that is an error`, async (t) => {
      const started = await start(t)
      const { a, b } = started
      const [here, there] = side === 'left' ? [started.left, started.right] : [started.right, started.left]
      const failed = rejection(pump(a, b))
      here.end('request')
      await text(there)
      const reset = errorCode(there)
      here.resetAndDestroy()
      await once(here, 'close')
      there.write('answer')
      await failed
      assert.ok(a.closed && b.closed)
      // Who has read the end learns of the reset when it says more.
      there.write('more')
      assert.match(String(await reset), /^(?:ECONNRESET|EPIPE)$/)
    })
  }

  it('in the turn in which its end is passed on: neither is left open, and no more is read', async (t) => {
    const { a, b, left, right } = await start(t)
    const failed = rejection(pump(a, b))
    const broken = new Error('broken')
    // After the pump has ended b, and before the kernel has heard of it.
    a.on('end', () => a.destroy(broken))
    b.on('error', () => undefined)
    const bClosed = once(b, 'close', { signal: AbortSignal.timeout(WAIT_MS) })
    left.end('request')
    assert.equal(await failed, broken)
    await bClosed
    assert.equal(await text(right), 'request')
    const gone = errorCode(right)
    const more = (): void => {
      while (!right.destroyed && right.write(Buffer.alloc(65_536)));
    }
    right.on('drain', more)
    more()
    assert.match(String(await gone), /^(?:ECONNRESET|EPIPE)$/)
  })

  it('the first error is the one that is told', async () => {
    const [, a] = duplexPair()
    const [, b] = duplexPair()
    const failed = rejection(pump(a, b))
    const [first, second] = [new Error('first'), new Error('second')]
    a.destroy(first)
    b.destroy(second)
    assert.equal(await failed, first)
  })

  it('an error that comes after the end has nobody to tell, and harms nobody', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    left.end()
    right.end()
    left.resume()
    right.resume()
    await pumping
    for (const stream of [a, b]) stream.emit('error', new Error('late'))
  })
})

describe('pump: one that was closed before', () => {
  for (const which of ['a', 'b'] as const) {
    it(`${which}: it is an error at once, and the other is cut`, async (t) => {
      const started = await start(t)
      const { a, b } = started
      const outer = which === 'a' ? started.right : started.left
      const end = ending(outer)
      started[which].destroy()
      assert.equal((await rejection(pump(a, b))).message, 'the connection was closed')
      assert.ok(a.destroyed && b.destroyed)
      assert.equal(await end, 'ECONNRESET')
    })

    it(`${which}: with an error, which is told`, async (t) => {
      const started = await start(t)
      const broken = new Error('broken')
      started[which].on('error', () => undefined)
      started[which].destroy(broken)
      const before = timers()
      assert.equal(await rejection(pump(started.a, started.b, { idleTimeoutMs: 60_000 })), broken)
      assert.equal(timers(), before)
    })
  }

  it('both: the first is told', async () => {
    const [, a] = duplexPair()
    const [, b] = duplexPair()
    const errors = [new Error('a'), new Error('b')]
    ;[a, b].forEach((stream, i) => stream.on('error', () => undefined).destroy(errors[i]))
    assert.equal(await rejection(pump(a, b)), errors[0])
  })
})

describe('pump: the idle timeout', () => {
  it('cuts both when nothing has moved for so long, and not before', async (t) => {
    const { left, a, b, right } = await start(t)
    const { advance: pass } = stopTime(t)
    const failed = rejection(pump(a, b, { idleTimeoutMs: 1_000 }))
    const ends = [ending(left), ending(right)]
    await pass(999)
    assert.ok(!a.destroyed && !b.destroyed)
    await pass(1)
    const error = await failed
    assert.ok(error instanceof TimeoutError)
    assert.equal(error.timeoutMs, 1_000)
    assert.equal(error.message, 'pump: timed out after 1000 ms')
    assert.deepEqual(await Promise.all(ends), ['ECONNRESET', 'ECONNRESET'])
  })

  for (const [from, to] of [
    ['left', 'right'],
    ['right', 'left'],
  ] as const) {
    it(`counts from the last byte, also of the direction from ${from} to ${to}`, async (t) => {
      const started = await start(t)
      const { a, b } = started
      const { advance: pass } = stopTime(t)
      const failed = rejection(pump(a, b, { idleTimeoutMs: 1_000 }))
      for (let i = 0; i < 3; i += 1) {
        await pass(600)
        started[from].write('x')
        await once(started[to], 'data')
        assert.ok(!a.destroyed && !b.destroyed)
      }
      await pass(999)
      assert.ok(!a.destroyed && !b.destroyed)
      await pass(1)
      assert.ok((await failed) instanceof TimeoutError)
    })
  }

  it('a reader that does not read is not helped by a writer that would write', async (t) => {
    const { left, a, b } = await start(t)
    const { advance: pass } = stopTime(t)
    const failed = rejection(pump(a, b, { idleTimeoutMs: 1_000 }))
    left.write(Buffer.alloc(64 * 1024 * 1024))
    await stands(a)
    await pass(1_000)
    assert.ok((await failed) instanceof TimeoutError)
  })

  it('a byte that leaves counts like one that comes', async (t) => {
    const { advance: pass } = stopTime(t)
    let release: (() => void) | undefined
    const slow = new Duplex({
      writableHighWaterMark: 1,
      read: () => undefined,
      write: (_chunk, _encoding, callback) => {
        release = callback
      },
    })
    const [near, a] = duplexPair()
    const failed = rejection(pump(a, slow, { idleTimeoutMs: 1_000 }))
    near.write('x')
    await settle()
    await pass(900)
    release!()
    await settle()
    await pass(999)
    assert.equal(slow.destroyed, false)
    await pass(1)
    assert.ok((await failed) instanceof TimeoutError)
  })

  it('is never, unless something is said', async (t) => {
    const { left, a, b, right } = await start(t)
    const { advance: pass } = stopTime(t)
    const pumping = pump(a, b)
    await pass(24 * 3_600_000)
    left.end()
    right.end('late')
    right.resume()
    assert.equal(await text(left), 'late')
    assert.deepEqual(await pumping, { sent: 0, received: 4 })
  })

  it('leaves no timer behind, however it ends', async (t) => {
    const before = timers()
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b, { idleTimeoutMs: 600_000 })
    assert.equal(timers(), before + 1)
    left.end()
    right.end()
    left.resume()
    right.resume()
    await pumping
    assert.equal(timers(), before)
    const again = await start(t)
    const failed = rejection(pump(again.a, again.b, { idleTimeoutMs: 600_000 }))
    again.left.resetAndDestroy()
    await failed
    assert.equal(timers(), before)
  })
})

describe('cut', () => {
  it('resets a TCP socket, and destroys what knows no reset', async (t) => {
    const [near, far] = await pair(t)
    const end = ending(near)
    cut(far)
    assert.equal(await end, 'ECONNRESET')
    const [nearby, inner] = await pair(t, { path: true })
    const ended = ending(nearby)
    cut(inner)
    assert.equal(await ended, 'end')
    const [, stream] = duplexPair()
    cut(stream)
    assert.equal(stream.destroyed, true)
  })

  it('closes one whose end is being sent in this very turn, where Node would leave it open and read on', async (t) => {
    const [near, far] = await pair(t)
    const failures: Error[] = []
    far.on('error', (error) => failures.push(error))
    const end = ending(near)
    far.end('all of it')
    assert.equal(far.writableLength, 0)
    cut(far)
    await once(far, 'close', { signal: AbortSignal.timeout(WAIT_MS) })
    assert.deepEqual(failures, [])
    assert.equal(await end, 'end')
  })

  it('resets one that has bytes to send before its end', async (t) => {
    const [, far] = await pair(t)
    // The other end cannot tell: libuv makes an end of a reset that comes together with bytes.
    const reset = t.mock.method(far, 'resetAndDestroy')
    far.write(Buffer.alloc(32 << 20))
    far.end()
    cut(far)
    assert.equal(reset.mock.callCount(), 1)
    await once(far, 'close', { signal: AbortSignal.timeout(WAIT_MS) })
  })

  it('is nothing to one that is closed, or not connected yet', async (t) => {
    const [, far] = await pair(t)
    far.destroy()
    cut(far)
    await once(far, 'close')
    cut(far)
    const early = connect({ port: 1, host: '127.0.0.1' })
    early.on('error', () => undefined)
    cut(early)
    assert.equal(early.destroyed, true)
  })
})

/** Two streams, each of which reads what the other writes. */
function duplexPair(): [Duplex, Duplex] {
  const make = (other: () => Duplex): Duplex =>
    new Duplex({
      allowHalfOpen: true,
      read: () => undefined,
      write: (chunk, _encoding, callback) => {
        other().push(chunk)
        callback()
      },
      final: (callback) => {
        other().push(null)
        callback()
      },
    })
  const one: Duplex = make(() => two)
  const two: Duplex = make(() => one)
  return [one, two]
}
