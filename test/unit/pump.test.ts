import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type ListenOptions, type NetConnectOpts, type Socket, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex, type Readable } from 'node:stream'
import { type TestContext, after, describe, it } from 'node:test'
import { TimeoutError } from '../../src/base/errors.js'
import { LINGER_MS } from '../../src/sockets/linger.js'
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

/** Both ends of a connection; the second one is paused. */
async function pair(t: TestContext, { path = false }: Options = {}): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  const address: ListenOptions = path
    ? { path: join(folder, `${(sockets += 1)}.sock`) }
    : { port: 0, host: '127.0.0.1' }
  server.listen(address)
  await once(server, 'listening')
  const { port } = server.address() as { port?: number }
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const near = connect({ ...address, ...(!path && { port }), allowHalfOpen: true } as NetConnectOpts)
  const [[far]] = await Promise.all([accepted, once(near, 'connect')])
  server.close()
  near.on('error', () => undefined)
  t.after(() => {
    near.destroy()
    far.destroy()
  })
  return [near, far]
}

/** Two connections, `left` to `a` and `b` to `right`. The tests pump `a` and `b`. */
async function start(t: TestContext, options?: Options) {
  const [[left, a], [right, b]] = await Promise.all([pair(t, options), pair(t, options)])
  return { left, a, b, right }
}

/** Waits until a pump stalls: the buffers of the kernel are full, and no more bytes are read. */
async function waitUntilStalled(from: Socket, to: Socket): Promise<void> {
  let before = 0
  await until('no bytes are read', () => {
    const isStalled = to.writableLength > 0 && from.bytesRead === before
    before = from.bytesRead
    return isStalled
  })
}

/** Reads to the end. An iterator would destroy the stream then. */
async function text(readable: Readable): Promise<string> {
  const chunks: Buffer[] = []
  readable.on('data', (chunk: Buffer) => chunks.push(chunk))
  if (!readable.readableEnded) await once(readable, 'end')
  return Buffer.concat(chunks).toString()
}

/** Resolves with the error of a promise. */
function rejection(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => {
      throw new Error('expected a rejection')
    },
    (error: unknown) => error as Error,
  )
}

/** Resolves with `end`, `close`, or the code of the error, whichever comes first. */
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

/** Resolves when a socket has closed, also after an error. */
function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => {
      resolve()
    })
  })
}

/** Resolves with the code of the error of a socket. */
async function errorCode(socket: Socket): Promise<string | undefined> {
  const [{ code }] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
  return code
}

function timers(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
}

describe('pump: options', () => {
  it('refuses invalid and unknown options', async (t) => {
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
  it('copies and counts the bytes, and closes both streams', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    left.end('request')
    right.end('a longer answer')
    assert.deepEqual(await Promise.all([text(right), text(left)]), ['request', 'a longer answer'])
    assert.deepEqual(await pumping, { sent: 7, received: 15 })
    assert.ok(a.closed && b.closed)
  })

  for (const direction of ['a to b', 'b to a'] as const) {
    it(`passes on an end from ${direction} while the other direction stays open`, async (t) => {
      const { left, a, b, right } = await start(t)
      const [requester, responder] = direction === 'a to b' ? [left, right] : [right, left]
      const pumping = pump(a, b)
      requester.end('request')
      // The end arrives before the first byte of the answer is written.
      assert.equal(await text(responder), 'request')
      await settle()
      assert.ok(!a.destroyed && !b.destroyed)
      responder.write('first ')
      responder.end('second')
      assert.equal(await text(requester), 'first second')
      const [request, answer] = [7, 12]
      assert.deepEqual(
        await pumping,
        direction === 'a to b' ? { sent: request, received: answer } : { sent: answer, received: request },
      )
    })
  }

  it('copies bytes and an end that arrived before the call', async (t) => {
    const { left, a, b, right } = await start(t)
    left.end('early')
    await once(left, 'finish')
    const pumping = pump(a, b)
    assert.equal(await text(right), 'early')
    right.end()
    left.resume()
    assert.deepEqual(await pumping, { sent: 5, received: 0 })
  })

  it('passes on an end that was read before the call', async (t) => {
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

  it('copies large data in both directions at once', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    const [request, answer] = [randomBytes(5_000_003), randomBytes(3_000_001)]
    const digest = async (socket: Socket): Promise<string> => {
      const hash = createHash('sha256')
      socket.on('data', (chunk: Buffer) => hash.update(chunk))
      await once(socket, 'end')
      return hash.digest('hex')
    }
    const arrived = Promise.all([digest(right), digest(left)])
    left.end(request)
    right.end(answer)
    const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
    assert.deepEqual(await arrived, [sha256(request), sha256(answer)])
    assert.deepEqual(await pumping, { sent: request.length, received: answer.length })
  })

  it('copies between streams that are not sockets', async () => {
    const [near, a] = duplexPair()
    const [far, b] = duplexPair()
    const pumping = pump(a, b)
    near.end('request')
    far.end('a longer answer')
    assert.deepEqual(await Promise.all([text(far), text(near)]), ['request', 'a longer answer'])
    assert.deepEqual(await pumping, { sent: 7, received: 15 })
  })
})

describe('pump: backpressure', () => {
  it('buffers at most two slabs if the reader does not read', async (t) => {
    const { left, a, b, right } = await start(t)
    const pumping = pump(a, b)
    const total = 64 * 1024 * 1024
    left.end(Buffer.alloc(total, 'x'))
    // Bytes that were read, and not yet passed to the kernel.
    const buffered = (): number => a.bytesRead - (b.bytesWritten - b.writableLength)
    await waitUntilStalled(a, b)
    assert.ok(buffered() > 0 && buffered() <= 256 * 1024, `${buffered()} bytes are buffered`)
    assert.ok(a.bytesRead < total)
    // The other direction is independent.
    right.end('meanwhile')
    assert.equal(await text(left), 'meanwhile')
    let [arrived, most] = [0, 0]
    right.on('data', (chunk: Buffer) => {
      arrived += chunk.length
      most = Math.max(most, buffered())
    })
    assert.deepEqual(await pumping, { sent: total, received: 9 })
    if (!right.readableEnded) await once(right, 'end')
    assert.equal(arrived, total)
    assert.ok(most <= 256 * 1024, `${most} bytes were buffered`)
  })

  it('writes one chunk at a time to a slow stream', async () => {
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
      assert.ok(slow.writableLength <= 1, `${slow.writableLength} bytes are buffered`)
      release!()
    }
    slow.push(null)
    assert.deepEqual(await pumping, { sent: 10, received: 0 })
  })
})

describe('pump: a stream that breaks', () => {
  for (const side of ['left', 'right'] as const) {
    /** Starts a pump. `broken` is the stream on this side; `near` and `far` are its outer end and the other one. */
    const startPump = async (t: TestContext, options?: Options) => {
      const { left, a, b, right } = await start(t, options)
      const failed = rejection(pump(a, b))
      const [near, broken, far] = side === 'left' ? [left, a, right] : [right, b, left]
      return { a, b, near, broken, far, failed }
    }

    it(`resets the other stream if the ${side} one is reset, so that truncated data does not look complete`, async (t) => {
      const { a, b, near, far, failed } = await startPump(t)
      const end = ending(far)
      near.write('half of it')
      await once(far, 'data')
      near.resetAndDestroy()
      assert.equal(((await failed) as NodeJS.ErrnoException).code, 'ECONNRESET')
      assert.equal(await end, 'ECONNRESET')
      assert.ok(a.closed && b.closed)
    })

    it(`closes the other Unix socket, which cannot be reset, if the ${side} one breaks`, async (t) => {
      const { a, b, broken, far, failed } = await startPump(t, { path: true })
      const end = ending(far)
      const error = new Error('broken')
      broken.destroy(error)
      assert.equal(await failed, error)
      assert.equal(await end, 'end')
      assert.ok(a.closed && b.closed)
    })

    it(`destroys the other stream, which is not a socket, if the ${side} one breaks`, async () => {
      const [, a] = duplexPair()
      const [, b] = duplexPair()
      const failed = rejection(pump(a, b))
      const error = new Error('broken')
      const broken = side === 'left' ? a : b
      broken.destroy(error)
      assert.equal(await failed, error)
      assert.ok(a.destroyed && b.destroyed)
    })

    it(`rejects if the ${side} stream is destroyed without an error`, async (t) => {
      const { broken, far, failed } = await startPump(t)
      const end = ending(far)
      broken.destroy()
      assert.equal((await failed).message, 'the connection was cut')
      assert.equal(await end, 'ECONNRESET')
    })

    it(`rejects if the ${side} stream is reset after its end, because the answer is lost`, async (t) => {
      const { a, b, near, broken, far, failed } = await startPump(t)
      const { advance } = stopTime(t)
      near.end('request')
      await text(far)
      const code = errorCode(far)
      const closed = closing(broken)
      near.resetAndDestroy()
      await once(near, 'close')
      // A socket that was read to its end reports a reset at the next write.
      far.write('answer')
      await closed
      await advance(LINGER_MS + 100)
      await failed
      assert.ok(a.closed && b.closed)
      far.write('more')
      assert.match(String(await code), /^(?:ECONNRESET|EPIPE)$/)
    })
  }

  it('closes both streams if one breaks in the turn in which its end is passed on', async (t) => {
    const { a, b, left, right } = await start(t)
    const { advance } = stopTime(t)
    const failed = rejection(pump(a, b))
    const broken = new Error('broken')
    // The pump has ended b, but the kernel has not sent the end yet.
    a.on('end', () => a.destroy(broken))
    b.on('error', () => undefined)
    const bClosed = once(b, 'close', { signal: AbortSignal.timeout(WAIT_MS) })
    const aClosed = closing(a)
    left.end('request')
    await aClosed
    await advance(LINGER_MS + 100)
    assert.equal(await failed, broken)
    await bClosed
    assert.equal(await text(right), 'request')
    const code = errorCode(right)
    const more = (): void => {
      while (!right.destroyed && right.write(Buffer.alloc(65_536)));
    }
    right.on('drain', more)
    more()
    assert.match(String(await code), /^(?:ECONNRESET|EPIPE)$/)
  })

  it('rejects with the first error', async () => {
    const [, a] = duplexPair()
    const [, b] = duplexPair()
    const failed = rejection(pump(a, b))
    const [first, second] = [new Error('first'), new Error('second')]
    a.destroy(first)
    b.destroy(second)
    assert.equal(await failed, first)
  })

  it('ignores errors after the end', async (t) => {
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

describe('pump: a stream that is already closed', () => {
  for (const name of ['a', 'b'] as const) {
    it(`rejects, and cuts the other stream, if ${name} is closed`, async (t) => {
      const started = await start(t)
      const { a, b } = started
      const outer = name === 'a' ? started.right : started.left
      const end = ending(outer)
      started[name].destroy()
      assert.equal((await rejection(pump(a, b))).message, 'the connection was closed')
      assert.ok(a.destroyed && b.destroyed)
      assert.equal(await end, 'ECONNRESET')
    })

    it(`rejects with the error of ${name}, and sets no timer`, async (t) => {
      const started = await start(t)
      const broken = new Error('broken')
      started[name].on('error', () => undefined)
      started[name].destroy(broken)
      const before = timers()
      assert.equal(await rejection(pump(started.a, started.b, { idleTimeoutMs: 60_000 })), broken)
      assert.equal(timers(), before)
    })
  }

  it('rejects with the error of a if both failed', async () => {
    const [, a] = duplexPair()
    const [, b] = duplexPair()
    const errors = [new Error('a'), new Error('b')]
    ;[a, b].forEach((stream, i) => stream.on('error', () => undefined).destroy(errors[i]))
    assert.equal(await rejection(pump(a, b)), errors[0])
  })
})

describe('pump: idleTimeoutMs', () => {
  it('cuts both streams after this time without traffic', async (t) => {
    const { left, a, b, right } = await start(t)
    const { advance } = stopTime(t)
    const failed = rejection(pump(a, b, { idleTimeoutMs: 1_000 }))
    const ends = [ending(left), ending(right)]
    await advance(999)
    assert.ok(!a.destroyed && !b.destroyed)
    await advance(1)
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
    it(`is counted from the last byte from ${from} to ${to}`, async (t) => {
      const started = await start(t)
      const { a, b } = started
      const { advance } = stopTime(t)
      const failed = rejection(pump(a, b, { idleTimeoutMs: 1_000 }))
      for (let i = 0; i < 3; i += 1) {
        await advance(600)
        started[from].write('x')
        await once(started[to], 'data')
        assert.ok(!a.destroyed && !b.destroyed)
      }
      await advance(999)
      assert.ok(!a.destroyed && !b.destroyed)
      await advance(1)
      assert.ok((await failed) instanceof TimeoutError)
    })
  }

  it('passes if the reader does not read, although the writer writes', async (t) => {
    const { left, a, b } = await start(t)
    const { advance } = stopTime(t)
    const failed = rejection(pump(a, b, { idleTimeoutMs: 1_000 }))
    left.write(Buffer.alloc(64 * 1024 * 1024))
    await waitUntilStalled(a, b)
    await advance(1_000)
    assert.ok((await failed) instanceof TimeoutError)
  })

  it('is restarted by a byte that is flushed', async (t) => {
    const { advance } = stopTime(t)
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
    await advance(900)
    release!()
    await settle()
    await advance(999)
    assert.equal(slow.destroyed, false)
    await advance(1)
    assert.ok((await failed) instanceof TimeoutError)
  })

  it('is infinite by default', async (t) => {
    const { left, a, b, right } = await start(t)
    const { advance } = stopTime(t)
    const pumping = pump(a, b)
    await advance(24 * 3_600_000)
    left.end()
    right.end('late')
    right.resume()
    assert.equal(await text(left), 'late')
    assert.deepEqual(await pumping, { sent: 0, received: 4 })
  })

  it('leaves no timer, after an end or an error', async (t) => {
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
  it('resets a TCP socket, and destroys other streams', async (t) => {
    const [near, far] = await pair(t)
    const end = ending(near)
    cut(far)
    assert.equal(await end, 'ECONNRESET')
    const [unixNear, unixFar] = await pair(t, { path: true })
    const unixEnd = ending(unixNear)
    cut(unixFar)
    assert.equal(await unixEnd, 'end')
    const [, stream] = duplexPair()
    cut(stream)
    assert.equal(stream.destroyed, true)
  })

  it('closes a socket whose end is being sent in this turn, which Node.js would leak', async (t) => {
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

  it('resets a socket that has bytes to send before its end', async (t) => {
    const [, far] = await pair(t)
    // Not observed at the other end: libuv reports a reset that arrives with bytes as an end.
    const reset = t.mock.method(far, 'resetAndDestroy')
    far.write(Buffer.alloc(32 << 20))
    far.end()
    cut(far)
    assert.equal(reset.mock.callCount(), 1)
    await once(far, 'close', { signal: AbortSignal.timeout(WAIT_MS) })
  })

  it('accepts a socket that is closed or not connected yet', async (t) => {
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

/** Two streams, each of which reads what the other one writes. */
function duplexPair(): [Duplex, Duplex] {
  const make = (peer: () => Duplex): Duplex =>
    new Duplex({
      allowHalfOpen: true,
      read: () => undefined,
      write: (chunk, _encoding, callback) => {
        peer().push(chunk)
        callback()
      },
      final: (callback) => {
        peer().push(null)
        callback()
      },
    })
  const first: Duplex = make(() => second)
  const second: Duplex = make(() => first)
  return [first, second]
}
