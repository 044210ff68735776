import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import { systemClock } from '../../src/base/clock.js'
import { closeWhenDestroyed } from '../../src/sockets/destruction.js'
import { RESET_CODES } from '../../src/transport/mux/frames.js'
import { MuxSession, OWN_SETTINGS, type SessionOptions } from '../../src/transport/mux/session.js'
import { type SessionStats, sessionCounts } from '../../src/transport/mux/session-counts.js'
import type { MuxStream } from '../../src/transport/mux/stream.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { readAll, rejection, until } from '../fixtures/mesh.js'

interface Pair {
  readonly dialer: MuxSession
  readonly listener: MuxSession
  readonly accepted: MuxStream[]
  /** Of both ends together. */
  readonly counts: SessionStats
  readonly ended: { dialer?: Error | 'in order'; listener?: Error | 'in order' }
  readonly sockets: { readonly dialer: Socket; readonly listener: Socket }
}

async function startPair(
  t: TestContext,
  onStream: (stream: MuxStream) => void = (stream) => stream.pipe(stream),
  options: Partial<SessionOptions> = {},
): Promise<Pair> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = connect({
    port: (server.address() as AddressInfo).port,
    host: '127.0.0.1',
    allowHalfOpen: true,
  })
  const [accepted] = (await once(server, 'connection')) as [Socket]
  t.after(() => {
    server.close()
    socket.destroy()
    accepted.destroy()
  })
  const streams: MuxStream[] = []
  const ended: Pair['ended'] = {}
  const counts = sessionCounts()
  const shared = { settings: OWN_SETTINGS, clock: systemClock, counts, idleMs: 60_000, ...options }
  const dialer = new MuxSession(socket, {
    ...shared,
    onEnded: (error) => (ended.dialer = error ?? 'in order'),
  })
  const listener: MuxSession = new MuxSession(accepted, {
    ...shared,
    onEnded: (error) => (ended.listener = error ?? 'in order'),
    onStream: (stream) => {
      stream.on('error', () => undefined)
      if (options.onStream !== undefined) {
        options.onStream(stream)
        return
      }
      listener.accept(stream)
      streams.push(stream)
      onStream(stream)
    },
  })
  return {
    dialer,
    listener,
    accepted: streams,
    counts,
    ended,
    sockets: { dialer: socket, listener: accepted },
  }
}

/** Opens a stream whose error is expected. */
function open(session: MuxSession): MuxStream {
  return session.open(true).on('error', () => undefined)
}

describe('a multiplexed session', () => {
  it('carries streams in both directions, and forgets them when they end', async (t) => {
    const { dialer, listener } = await startPair(t)
    const texts = await Promise.all(
      Array.from({ length: 500 }, async (_, i) => {
        const stream = open(dialer)
        stream.end(`hello ${i}`)
        return readAll(stream)
      }),
    )
    assert.deepEqual(
      texts,
      texts.map((_, i) => `hello ${i}`),
    )
    await until('the streams are forgotten', () => dialer.size + listener.size === 0)
  })

  it('delivers every byte before an end', async (t) => {
    const { dialer } = await startPair(t)
    const stream = open(dialer)
    const bytes = Buffer.alloc(8 << 20, 'abcdefgh')
    stream.end(bytes)
    const chunks: Buffer[] = []
    for await (const chunk of stream) chunks.push(chunk as Buffer)
    assert.ok(Buffer.concat(chunks).equals(bytes))
  })

  it('reports a reset as an error, after a prefix', async (t) => {
    const { dialer, accepted } = await startPair(t, (stream) => stream.write(Buffer.alloc(50_000)))
    const stream = open(dialer)
    await until('the bytes are there', () => stream.bytesRead === 50_000)
    const broken = rejection(readAll(stream))
    accepted[0]!.destroy()
    assert.equal((await broken).code, 'ECONNRESET')
    const cut = open(dialer)
    cut.on('error', () => undefined)
    await until('the stream is accepted', () => accepted.length === 2)
    cut.destroy()
    await until('the stream is cut', () => accepted[1]!.destroyed)
    assert.equal((accepted[1]!.errored as NodeJS.ErrnoException).code, 'ECONNRESET')
  })

  it('stops a stream that is not read, and no other', async (t) => {
    const { dialer, accepted } = await startPair(t, (stream) => {
      if (stream.id > 1) stream.pipe(stream)
    })
    const stuck = open(dialer)
    stuck.on('error', () => undefined)
    const bytes = Buffer.alloc(65_536)
    while (stuck.write(bytes));
    stuck.write(Buffer.alloc(4 << 20))
    await until('the window is full', () => accepted[0]?.unread === OWN_SETTINGS.windowBytes)
    const other = open(dialer)
    other.end('hello')
    assert.equal(await readAll(other), 'hello')
    assert.equal(accepted[0]!.unread, OWN_SETTINGS.windowBytes)
    accepted[0]!.resume()
    await until('all is read', () => accepted[0]!.bytesRead > 4 << 20)
  })

  it('gives a reader more than a window at once', async (t) => {
    const { dialer } = await startPair(t, (stream) => stream.end(Buffer.alloc(3 << 20, 'abc')))
    const stream = open(dialer)
    const bytes = await new Promise<Buffer>((resolve) => {
      const look = (): void => {
        const all = stream.read(3 << 20) as Buffer | null
        if (all !== null) resolve(all)
      }
      stream.on('readable', look)
      look()
    })
    assert.ok(bytes.equals(Buffer.alloc(3 << 20, 'abc')))
  })

  it('opens the window of a reader that keeps up, within a bound for all streams', async (t) => {
    const { dialer, accepted } = await startPair(t, (stream) => {
      // A reader that does not keep up: it begins when all has come that its window allows.
      if (stream.id > 1) setTimeout(() => stream.resume(), 20)
      else stream.resume()
    })
    const fast = open(dialer)
    fast.write(Buffer.alloc(8 << 20))
    await until('all is read', () => accepted[0]?.bytesRead === 8 << 20)
    assert.equal(accepted[0]!.window, 1 << 20)
    const many = Array.from({ length: 40 }, () => open(dialer))
    for (const stream of many) stream.write(Buffer.alloc(2 << 20))
    await until('all are accepted', () => accepted.length === 41)
    await until('all is read', () => accepted.every(({ bytesRead }) => bytesRead >= 2 << 20))
    const growth = accepted.reduce((sum, { window }) => sum + window - OWN_SETTINGS.windowBytes, 0)
    assert.ok(growth > 8 << 20 && growth <= 16 << 20, `${growth} bytes`)
    for (const stream of [fast, ...many]) stream.destroy()
    await until('they are forgotten', () => dialer.size === 0)
    const late = open(dialer)
    late.write(Buffer.alloc(8 << 20))
    await until('all is read', () => accepted.at(-1)!.bytesRead === 8 << 20)
    assert.equal(accepted.at(-1)!.window, 1 << 20)
  })

  it('closes a stream that has ended, also without a reader', async (t) => {
    const { dialer, accepted } = await startPair(t, (stream) => stream.end('hello'))
    const streams = Array.from({ length: 20 }, () => open(dialer))
    for (const stream of streams) stream.end()
    for (const stream of streams) assert.equal(await readAll(stream), 'hello')
    await until('all are closed', () => [...streams, ...accepted].every(({ destroyed }) => destroyed))
    assert.deepEqual(
      accepted.map(({ errored }) => errored),
      accepted.map(() => null),
    )
  })

  it('passes bytes on in their order to a pump that begins late', async (t) => {
    const { dialer, accepted } = await startPair(t, () => undefined)
    const bytes = Buffer.from(Uint32Array.from({ length: 12_000 }, (_, i) => i).buffer)
    const stream = open(dialer)
    for (let at = 0; at < bytes.length; at += 600) {
      stream.write(bytes.subarray(at, at + 600))
      await new Promise(setImmediate)
    }
    await until('all have arrived', () => accepted[0]?.unread === bytes.length)
    // As one does who looks at the first bytes.
    accepted[0]!.unshift(accepted[0]!.read(7))
    const passed: Buffer[] = []
    accepted[0]!.readInto((part) => passed.push(Buffer.from(part)) > 0)
    assert.ok(Buffer.concat(passed).equals(bytes))
  })

  it('counts a stream until its bytes are read, also when both ends have ended', async (t) => {
    const { dialer, listener, accepted } = await startPair(t, (stream) => stream.end('hello'))
    const stream = open(dialer)
    stream.end('unread')
    assert.equal(await readAll(stream), 'hello')
    await until('both have ended', () => accepted[0]!.hasEnded && accepted[0]!.writableFinished)
    assert.equal(listener.size, 1)
    assert.equal(await readAll(accepted[0]!), 'unread')
    await until('it is forgotten', () => listener.size === 0)
  })

  it('lets no writer block the end of a stream that its peer has reset', async (t) => {
    const { dialer, accepted } = await startPair(t, (stream) => {
      stream.resume()
      stream.end('answer')
    })
    const stream = open(dialer)
    const write = (): void => {
      while (stream.writable && stream.write('x'));
      stream.once('drain', write)
    }
    await until('the stream is accepted', () => accepted.length === 1)
    write()
    await until('the answer is there', () => stream.unread > 0)
    accepted[0]!.destroy()
    let answer = ''
    stream.on('data', (bytes: Buffer) => (answer += String(bytes)))
    await until('the stream is closed', () => stream.destroyed)
    assert.equal(answer, 'answer')
    assert.equal((stream.errored as NodeJS.ErrnoException).code, 'ECONNRESET')
  })

  it('ends in order for a client whose server has destroyed its side after the answer', async (t) => {
    const { dialer, accepted } = await startPair(t, (stream) => {
      stream.resume()
      stream.destroySoon()
    })
    const answers = await Promise.all(
      Array.from({ length: 50 }, async () => {
        const stream = dialer.open(false)
        stream.write('request')
        const text = await readAll(stream)
        await until('the stream is closed', () => stream.closed)
        return [text, stream.errored]
      }),
    )
    assert.deepEqual(
      answers,
      answers.map(() => ['', null]),
    )
    await until('the others are closed', () => accepted.every(({ closed }) => closed))
  })

  it('takes any number of streams that it resets itself', async (t) => {
    const { dialer, listener } = await startPair(t, (stream) => stream.destroy())
    for (let i = 0; i < 3_000; i += 1) {
      const stream = open(dialer)
      stream.end('x')
      if (i % 50 === 0) await until('they are cut', () => dialer.size === 0)
    }
    await until('they are cut', () => dialer.size === 0)
    assert.deepEqual([dialer.isEnded, listener.isEnded], [false, false])
  })

  it('does not stop reading when both ends write and neither reads', async (t) => {
    const { dialer, accepted } = await startPair(t, (stream) => {
      stream.write(Buffer.alloc(8 << 20))
    })
    const streams = Array.from({ length: 8 }, () => open(dialer))
    for (const stream of streams) stream.write(Buffer.alloc(8 << 20))
    await until('all are accepted', () => accepted.length === 8)
    const late = open(dialer)
    await until('a stream is accepted beside them', () => accepted.length === 9)
    for (const stream of [...streams, ...accepted, late]) stream.resume()
    await until('all has arrived', () =>
      [...streams, ...accepted.slice(0, 8)].every(({ bytesRead }) => bytesRead === 8 << 20),
    )
  })

  it('breaks its streams with an error when its connection ends', async (t) => {
    for (const cut of ['end', 'destroy', 'resetAndDestroy'] as const) {
      const { dialer, accepted, sockets, ended } = await startPair(t)
      const stream = open(dialer)
      await until('the stream is accepted', () => accepted.length === 1)
      const broken = rejection(readAll(stream))
      sockets.listener[cut]()
      assert.equal((await broken).code, 'ECONNRESET')
      await until('the session has ended', () => dialer.isEnded)
      assert.ok(ended.dialer instanceof Error)
      assert.throws(() => dialer.open(true), /accepts no more streams/)
    }
  })

  it('drains: open streams go on, others are refused, and the session ends with the last one', async (t) => {
    const { dialer, listener, accepted, ended } = await startPair(t)
    const stream = open(dialer)
    await until('the stream is accepted', () => accepted.length === 1)
    listener.drain()
    const late = open(dialer)
    assert.match((await rejection(readAll(late))).message, /accepts no more streams/)
    await until('the dialer knows', () => !dialer.hasRoom)
    stream.end('hello')
    assert.equal(await readAll(stream), 'hello')
    await until('the session has ended', () => ended.dialer !== undefined && ended.listener !== undefined)
    assert.deepEqual(ended, { dialer: 'in order', listener: 'in order' })
  })

  it('waits after a drain while the peer still reads, and ends when it is silent', async (t) => {
    const clock = new FakeClock()
    const { dialer, listener, accepted, sockets } = await startPair(t, undefined, { clock })
    const stream = open(dialer)
    await echoed(stream, 'first')
    // The end of the peer is on its way for long.
    sockets.dialer.end = sockets.dialer.destroy = () => sockets.dialer
    stream.end()
    await until('the stream has ended', () => accepted[0]!.destroyed)
    listener.drain()
    await until('the session has ended', () => listener.isEnded)
    for (let i = 0; i < 3; i += 1) {
      const { bytesRead } = sockets.listener
      sockets.dialer.write('still here')
      await until('it is read', () => sockets.listener.bytesRead > bytesRead)
      await clock.advance(15_000)
      assert.equal(sockets.listener.destroyed, false)
    }
    await clock.advance(15_000)
    assert.equal(sockets.listener.destroyed, true)
  })

  it('ends after a while without a stream, from its start on', async (t) => {
    for (const hasStream of [true, false]) {
      const clock = new FakeClock()
      const { dialer, listener, ended } = await startPair(t, undefined, { clock, idleMs: 10_000 })
      if (hasStream) {
        const stream = open(dialer)
        await echoed(stream, 'x')
        await clock.advance(12_000)
        assert.deepEqual([dialer.isEnded, listener.isEnded], [false, false])
        stream.end()
        assert.equal(await readAll(stream), '')
        await until('the stream is forgotten', () => dialer.size + listener.size === 0)
      } else await until('the settings have arrived', () => dialer.isConfirmed && listener.isConfirmed)
      await clock.advance(9_000)
      assert.deepEqual([dialer.isEnded, listener.isEnded], [false, false])
      await clock.advance(1_000)
      await until('both have ended', () => ended.dialer !== undefined && ended.listener !== undefined)
      assert.deepEqual(ended, { dialer: 'in order', listener: 'in order' })
    }
  })

  it('ends soon without a stream that was accepted, however many are denied', async (t) => {
    const clock = new FakeClock()
    const { dialer, listener, ended } = await startPair(t, undefined, {
      clock,
      unusedMs: 10_000,
      onStream: (stream) => {
        stream.on('error', () => undefined).reset(RESET_CODES.denied)
      },
    })
    for (let i = 0; i < 3; i += 1) {
      const denied = open(dialer)
      await until('it is denied', () => denied.destroyed)
      await clock.advance(3_000)
    }
    assert.equal(listener.isEnded, false)
    await clock.advance(1_000)
    await until('both ends have ended', () => ended.dialer === 'in order' && ended.listener === 'in order')
  })

  it('ends without the settings of the peer', async (t) => {
    const clock = new FakeClock()
    const { listener, sockets, ended } = await startPair(t, undefined, { clock })
    await new Promise(setImmediate)
    sockets.listener.pause()
    await clock.advance(5_000)
    await until('the session has ended', () => listener.isEnded)
    assert.match((ended.listener as Error).message, /no settings for 5000 ms/)
  })

  it('asks a silent peer for a sign of life, and ends without one', async (t) => {
    const clock = new FakeClock()
    const { dialer, listener, sockets, ended } = await startPair(t, undefined, { clock })
    const stream = open(dialer)
    await echoed(stream, 'first')
    for (let minute = 0; minute < 2; minute += 1) {
      const before = sockets.listener.bytesWritten
      // The echo, and later the answer, was heard in the first time of silence.
      await clock.advance(15_000)
      await clock.advance(15_000)
      await until('both have answered', () => sockets.listener.bytesWritten - before >= 32)
      await clock.advance(10_000)
    }
    assert.deepEqual([dialer.isEnded, listener.isEnded], [false, false])
    // Neither hears the other any more.
    for (const socket of Object.values<Socket>(sockets)) socket.pause()
    const broken = rejection(readAll(stream))
    await clock.advance(15_000)
    await clock.advance(15_000)
    await clock.advance(10_000)
    assert.match((await broken).message, /has not answered for 25000 ms/)
    assert.ok(ended.dialer instanceof Error)
  })

  it('lets the process exit while no stream is open, or all are unreferenced', async (t) => {
    const { dialer, sockets } = await startPair(t)
    const isReferenced = (): boolean =>
      (sockets.dialer as unknown as { _handle: { hasRef(): boolean } })._handle.hasRef()
    assert.equal(isReferenced(), false)
    const [first, second] = [open(dialer), open(dialer)]
    assert.equal(isReferenced(), true)
    first.unref()
    assert.equal(isReferenced(), true)
    second.destroy()
    assert.equal(isReferenced(), false)
    first.ref()
    assert.equal(isReferenced(), true)
    first.destroy()
    assert.equal(isReferenced(), false)
  })

  it('emits timeout on a stream without activity once, and again after new activity', async (t) => {
    const { dialer } = await startPair(t)
    const stream = open(dialer)
    let count = 0
    stream.on('timeout', () => (count += 1)).setTimeout(10)
    await once(stream, 'timeout')
    await new Promise((resolve) => setTimeout(resolve, 50))
    assert.equal(count, 1)
    stream.write('hello')
    await once(stream, 'timeout')
    assert.equal(count, 2)
    stream.setTimeout(0).destroy()
  })

  it('stays open at our side when the peer has closed a half-open stream after its last byte', async (t) => {
    const { dialer } = await startPair(t, (stream) => {
      closeWhenDestroyed(stream, () => true)
      stream.write('bye')
      stream.destroy()
    })
    const [ending, writing] = [dialer.open(true), dialer.open(true)]
    await Promise.all([ending, writing].map((stream) => once(stream.resume(), 'end')))
    await new Promise(setImmediate)
    assert.deepEqual([ending.destroyed, writing.destroyed], [false, false])
    ending.end()
    await once(ending, 'close')
    assert.equal(ending.errored, null)
    writing.write('more')
    const [error] = (await once(writing, 'error')) as [NodeJS.ErrnoException]
    assert.equal(error.code, 'ECONNRESET')
    await until('both are forgotten', () => dialer.size === 0)
  })

  it('sends what was written just before it is destroyed, and a reset', async (t) => {
    const { accepted, dialer } = await startPair(t, (stream) => {
      stream.write('HTTP/1.1 401 Unauthorized')
      stream.destroy()
    })
    const stream = open(dialer)
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    const [error] = (await once(stream, 'error')) as [NodeJS.ErrnoException]
    assert.equal(error.code, 'ECONNRESET')
    assert.equal(Buffer.concat(chunks).toString(), 'HTTP/1.1 401 Unauthorized')
    assert.equal(accepted.length, 1)
  })

  it('has the members of a socket by which clients decide what to do', async (t) => {
    const { dialer, sockets } = await startPair(t)
    const stream = open(dialer)
    const state = (): unknown[] => [stream.connecting, stream.pending, stream.readyState]
    assert.deepEqual(state(), [false, false, 'open'])
    assert.equal(stream.setTimeout(1_000).timeout, 1_000)
    const { localAddress, localPort, localFamily } = sockets.dialer
    assert.deepEqual(stream.address(), { address: localAddress, port: localPort, family: localFamily })
    stream.end()
    assert.equal(stream.readyState, 'readOnly')
    assert.equal(await readAll(stream), '')
    await until('it is closed', () => stream.closed)
    assert.deepEqual(state(), [false, true, 'closed'])
  })

  it('ends in order when a stream is destroyed that was idle, unless bytes are still to be sent', async (t) => {
    const { accepted, dialer } = await startPair(t, () => undefined)
    for (const [size, code] of [
      [5, undefined],
      [100_000, 'ECONNRESET'],
    ] as const) {
      const stream = open(dialer)
      closeWhenDestroyed(stream, () => true)
      stream.write(Buffer.alloc(size))
      stream.destroy()
      await until('it is accepted', () => accepted.at(-1)?.id === stream.id)
      const end = accepted.at(-1)!
      if (code === undefined) assert.equal((await readAll(end)).length, size)
      else assert.equal((await rejection(readAll(end))).code, code)
      assert.ok(stream.destroyed)
      await until('it is forgotten', () => dialer.size === 0)
    }
  })

  it('does not open the window for a pump whose destination is slower', async (t) => {
    const { accepted, dialer } = await startPair(t, () => undefined)
    const stream = open(dialer)
    stream.write(Buffer.alloc(2 << 20))
    await until('it is accepted', () => accepted.length === 1)
    const [slow] = accepted
    // Takes everything, but asks for a pause each time.
    slow!.readInto(() => false)
    while (slow!.bytesRead < 2 << 20) {
      slow!.resume()
      await new Promise(setImmediate)
    }
    assert.equal(slow!.window, OWN_SETTINGS.windowBytes)
  })

  it('forgets 100,000 streams that end in every order', async (t) => {
    const { dialer, listener, counts } = await startPair(t, (stream) => {
      const way = stream.id % 5
      if (way === 0) stream.destroy()
      else if (way === 1) stream.resume().end()
      else if (way === 2) stream.resume().once('end', () => stream.end())
      else if (way === 3) stream.resume().end('some')
      else stream.pipe(stream)
    })
    let left = 100_000
    const next = async (): Promise<void> => {
      while (left > 0) {
        left -= 1
        const stream = open(dialer)
        const closed = new Promise((resolve) => stream.once('close', resolve))
        if (left % 3 === 0) stream.end('x')
        else if (left % 11 === 1) stream.write('y', () => stream.destroy())
        else stream.end()
        stream.resume()
        await closed
      }
    }
    await Promise.all(Array.from({ length: 200 }, next))
    await until('all are forgotten', () => dialer.size + listener.size === 0)
    assert.deepEqual([dialer.isEnded, listener.isEnded], [false, false])
    assert.deepEqual(counts, { inbound: 1, outbound: 1, streams: 0, opened: 200_000, refused: 0 })
    dialer.destroy()
    await until('the session has ended', () => listener.isEnded)
    assert.deepEqual([counts.inbound, counts.outbound], [0, 0])
  })
})

/** Sends a text to an echoing peer, and waits for it. */
async function echoed(stream: MuxStream, text: string): Promise<void> {
  stream.write(text)
  assert.equal(String(((await once(stream, 'data')) as [Buffer])[0]), text)
}
