// What a peer may send, byte by byte, and what ends the session.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { type TestContext, describe, it } from 'node:test'
import {
  RESET_CODES,
  type FrameType,
  LEAST,
  controlFrame,
  settingsFrame,
  writeHead,
} from '../../src/transport/mux/frames.js'
import { MuxSession, OWN_SETTINGS } from '../../src/transport/mux/session.js'
import { sessionCounts } from '../../src/transport/mux/session-counts.js'
import type { MuxStream } from '../../src/transport/mux/stream.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { until } from '../fixtures/mesh.js'

const SETTINGS = settingsFrame(LEAST)

function frame(type: FrameType, stream: number, payload: Buffer | string = ''): Buffer {
  const bytes = Buffer.from(payload as string)
  const head = Buffer.alloc(8)
  writeHead(head, 0, type, stream, bytes.length)
  return Buffer.concat([head, bytes])
}

function raw(type: number, stream: number, payload: Buffer | string = '', length?: number): Buffer {
  const bytes = Buffer.from(payload as string)
  const head = Buffer.alloc(8)
  head.writeUInt32BE(stream, 0)
  head.writeUInt8(type, 4)
  head.writeUIntBE(length ?? bytes.length, 5, 3)
  return Buffer.concat([head, bytes])
}

const open = (stream: number): Buffer => frame('open', stream)
const hello = frame('data', 1, 'hello')
const setting = (id: number, value: number): Buffer => {
  const bytes = Buffer.alloc(6)
  bytes.writeUInt16BE(id, 0)
  bytes.writeUInt32BE(value, 2)
  return bytes
}
const times = (count: number, each: (i: number) => Buffer): Buffer[] =>
  Array.from({ length: count }, (_, i) => each(i))

/** Bytes after the settings, and the code and message with which the session ends. */
const BROKEN: Readonly<Record<string, readonly [bytes: readonly Buffer[], code: number, message: RegExp]>> = {
  'bytes of a stream that was not opened': [[hello], 1, /stream 1, which was not opened/],
  'an end of a stream that was not opened': [[frame('end', 7)], 1, /stream 7, which was not opened/],
  'a reset of a stream that was not opened': [[controlFrame('reset', 1, 1)], 1, /not opened/],
  'a window of a stream that was not opened': [[controlFrame('window', 1, 1)], 1, /not opened/],
  'a stream that is opened twice': [[open(1), open(1)], 1, /stream 1 again/],
  'a stream below the last one': [[open(5), open(3)], 1, /stream 3 again/],
  'bytes after an end': [[open(1), frame('end', 1), hello], 1, /after the end of stream 1/],
  'two ends': [[open(1), frame('end', 1), frame('end', 1)], 1, /ended stream 1 twice/],
  'stream 0 with bytes': [[frame('data', 0, 'x')], 1, /type 0 for stream 0/],
  'stream 0 that is opened': [[open(0)], 1, /type 1 for stream 0/],
  'a stream above the largest': [[open(0x8000_0000)], 1, /for stream 2147483648/],
  'a ping of a stream': [[frame('ping', 1, '12345678')], 1, /type 6 for stream 1/],
  'settings of a stream': [[raw(8, 1)], 1, /type 8 for stream 1/],
  'settings for the second time': [[SETTINGS], 1, /second time/],
  'an unknown type': [[raw(10, 0)], 1, /unknown type 10/],
  'a stream that the peer has accepted': [[open(1), frame('accept', 1)], 1, /accepted stream 1/],
  'an opening frame with a payload': [[raw(1, 1, 'x')], 1, /type 1 with 1 bytes/],
  'an end with a payload': [[open(1), raw(2, 1, 'x')], 1, /type 2 with 1 bytes/],
  'a short reset': [[open(1), raw(3, 1, 'xyz')], 1, /type 3 with 3 bytes/],
  'a long window': [[open(1), raw(4, 1, '12345')], 1, /type 4 with 5 bytes/],
  'a short goaway': [[raw(5, 0, '1234')], 1, /type 5 with 4 bytes/],
  'a short ping': [[raw(6, 0, '1234567')], 1, /type 6 with 7 bytes/],
  'an empty pong': [[raw(7, 0)], 1, /type 7 with 0 bytes/],
  'a frame that is longer than announced': [[open(1), raw(0, 1, '', 131_073)], 1, /a frame of 131073 bytes/],
  'an extension that is longer than announced': [
    [raw(0x80, 0, '', 0xff_ffff)],
    1,
    /a frame of 16777215 bytes/,
  ],
  'more bytes than accepted': [
    [open(1), ...times(5, () => frame('data', 1, Buffer.alloc(65_536)))],
    2,
    /more bytes of stream 1 than were accepted/,
  ],
  'a window without an end': [
    [open(1), controlFrame('window', 1, 0x7fff_ffff)],
    2,
    /the peer accepts \d+ bytes of stream 1/,
  ],
  'a flood of pings': [times(1_100, () => frame('ping', 0, '12345678')), 3, /carry nothing/],
  'a flood of empty bytes': [[open(1), ...times(1_100, () => frame('data', 1))], 3, /carry nothing/],
  'a flood of empty windows': [
    [open(1), ...times(1_100, () => controlFrame('window', 1, 0))],
    3,
    /carry nothing/,
  ],
  'a flood of empty streams': [
    [open(1), ...times(2_500, (i) => Buffer.concat([open(i + 2), controlFrame('reset', i + 2, 1)]))],
    3,
    /carry nothing/,
  ],
  'a flood of streams': [times(2_100, (i) => open(i + 1)), 3, /carry nothing/],
}

/** First bytes, and the message. */
const BROKEN_FIRST: Readonly<Record<string, readonly [bytes: Buffer, message: RegExp]>> = {
  'another protocol': [Buffer.from('GET / HTTP/1.1\r\n\r\n'), /a frame of|a first frame of type/],
  'no settings': [open(1), /a first frame of type 1/],
  'an extension before the settings': [raw(0x80, 0), /a first frame of type 128/],
  'settings of half a pair': [raw(8, 0, 'xyz'), /type 8 with 3 bytes/],
  'settings without a bound': [raw(8, 0, Buffer.alloc(258)), /type 8 with 258 bytes/],
  'a version of 0': [raw(8, 0, setting(1, 0)), /0 as the setting version/],
  'a window below the least': [raw(8, 0, setting(3, 65_535)), /65535 as the setting windowBytes/],
  'a window above the largest': [raw(8, 0, setting(3, 0x8000_0000)), /2147483648 as the setting windowBytes/],
  'frames of no bytes': [raw(8, 0, setting(2, 0)), /0 as the setting maxFrameBytes/],
}

const ACCEPTED: Readonly<Record<string, readonly Buffer[]>> = {
  'an extension of the session': [raw(0x80, 0, 'anything')],
  'an empty extension of a stream': [raw(0xff, 77)],
  'the end of a stream that has ended': [open(1), controlFrame('reset', 1, 1), frame('end', 1)],
  'bytes of a stream that was reset': [open(1), controlFrame('reset', 1, 99), hello],
  'a pong without a ping': [frame('pong', 0, '12345678')],
  'an empty frame': [open(1), frame('data', 1)],
}

interface Raw {
  readonly socket: Socket
  readonly session: MuxSession
  readonly received: () => Buffer
  readonly error: () => Error | undefined
  readonly texts: string[]
}

async function start(
  t: TestContext,
  onOpened?: (stream: MuxStream, session: MuxSession) => void,
): Promise<Raw> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  const [accepted] = (await once(server, 'connection')) as [Socket]
  t.after(() => {
    server.close()
    socket.destroy()
    accepted.destroy()
  })
  let received = Buffer.alloc(0)
  socket
    .on('error', () => undefined)
    .on('data', (chunk: Buffer) => (received = Buffer.concat([received, chunk])))
  let ended: Error | undefined
  const texts: string[] = []
  const session: MuxSession = new MuxSession(accepted, {
    settings: OWN_SETTINGS,
    // Of no time at all: rates must not depend on the machine.
    clock: new FakeClock(),
    counts: sessionCounts(),
    idleMs: 60_000,
    onEnded: (error) => (ended = error),
    onStream: (stream) => {
      stream.on('error', () => undefined)
      onOpened?.(stream, session)
      if (stream.id === 1_000_000) stream.on('data', (chunk: Buffer) => texts.push(String(chunk)))
    },
  })
  return { socket, session, received: () => received, error: () => ended, texts }
}

/** The code of the last frame, which is a goaway. */
function goawayCode(received: Buffer): number {
  const last = received.subarray(-16)
  assert.deepEqual([last.readUInt32BE(0), last.readUInt32BE(4)], [0, 0x0500_0008])
  return last.readUInt32BE(12)
}

describe('a multiplexed session ends', () => {
  for (const [what, [bytes, code, message]] of Object.entries(BROKEN)) {
    it(`for ${what}`, async (t) => {
      const { socket, session, received, error } = await start(t)
      const closed = once(socket, 'close')
      socket.write(Buffer.concat([SETTINGS, ...bytes]))
      await closed
      assert.match(error()!.message, message)
      assert.equal(goawayCode(received()), code)
      assert.equal(session.size, 0)
    })
  }

  for (const [what, [bytes, message]] of Object.entries(BROKEN_FIRST)) {
    it(`for ${what} at the start`, async (t) => {
      const { socket, received, error } = await start(t)
      const closed = once(socket, 'close')
      socket.write(bytes)
      await closed
      assert.match(error()!.message, message)
      assert.equal(goawayCode(received()), 1)
    })
  }
})

/** Streams that take a decision and are not admitted: what their peer sends, and what becomes of them. */
const NOT_ADMITTED: Readonly<Record<string, readonly [(id: number) => Buffer, number | undefined]>> = {
  denied: [open, RESET_CODES.denied],
  refused: [open, RESET_CODES.refused],
  'given up without a byte': [(id) => Buffer.concat([open(id), controlFrame('reset', id, 1)]), undefined],
  'given up': [
    (id) => Buffer.concat([open(id), frame('data', id, 'x'), controlFrame('reset', id, 1)]),
    undefined,
  ],
}

describe('a multiplexed session with many streams that are not admitted', () => {
  for (const [what, [bytes, code]] of Object.entries(NOT_ADMITTED))
    it(`takes no more streams after 1,000 that were ${what}, and keeps the one that was admitted`, async (t) => {
      const { socket, session, error, received } = await start(t, (stream, owner) => {
        if (stream.id === 1) owner.accept(stream)
        else if (code !== undefined) stream.reset(code)
      })
      socket.write(Buffer.concat([SETTINGS, open(1), ...times(1_000, (i) => bytes(i + 2))]))
      await until('all are over', () => session.size === 1 && session.isConfirmed)
      const isDraining = (): boolean => received().includes(Buffer.from([0, 0, 0, 0, 5, 0, 0, 8]))
      assert.equal(isDraining(), false)
      socket.write(bytes(1_002))
      await until('the session drains', isDraining)
      assert.deepEqual([session.size, session.isEnded], [1, false])
      socket.write(controlFrame('reset', 1, 1))
      await once(socket, 'close')
      assert.equal(error(), undefined)
      assert.equal(goawayCode(received()), 0)
    })
})

describe('a multiplexed session whose peer resets the streams that were admitted', () => {
  it('takes 10,000 resets, and ends for a flood of them', async (t) => {
    const { socket, session, error, received } = await start(t, (stream, owner) => {
      owner.accept(stream)
    })
    const stream = (id: number): Buffer =>
      Buffer.concat([open(id), frame('data', id, 'x'), controlFrame('reset', id, 1)])
    const part = (first: number, count: number): Buffer =>
      Buffer.concat(times(count, (i) => stream(first + i)))
    socket.write(SETTINGS)
    for (let first = 1; first < 10_000; first += 500) {
      socket.write(part(first, 500))
      // Settings, and an answer for each.
      const answers = 32 + 8 * (first + 499)
      await until('they are over', () => session.size === 0 && received().length >= answers)
    }
    assert.equal(session.isEnded, false)
    socket.write(part(10_001, 1))
    await once(socket, 'close')
    assert.match(error()!.message, /reset too many streams/)
    assert.equal(goawayCode(received()), 3)
  })
})

describe('a multiplexed session goes on', () => {
  for (const [what, bytes] of Object.entries(ACCEPTED)) {
    it(`after ${what}, in one piece and byte by byte`, async (t) => {
      const { socket, session, texts } = await start(t)
      const last = Buffer.concat([
        SETTINGS,
        ...bytes,
        open(1_000_000),
        frame('data', 1_000_000, 'still here'),
      ])
      for (let i = 0; i < last.length; i += 1) {
        await new Promise((resolve) => socket.write(last.subarray(i, i + 1), resolve))
      }
      await until('the last bytes have arrived', () => texts.join('') === 'still here')
      assert.equal(session.isEnded, false)
    })
  }
})
