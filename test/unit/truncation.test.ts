// Ends of TLS connections over real sockets. The peer is a TLS engine whose bytes, close_notify, and FIN the test sends.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net'
import { Duplex } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type SecureVersion,
  TLSSocket,
  createSecureContext,
  connect as tlsConnect,
  createServer as createTlsServer,
} from 'node:tls'
import { adoptReads } from '../../src/base/node-internals.js'
import { readInto } from '../../src/sockets/buffered-reads.js'
import { closeWhenDestroyed } from '../../src/sockets/destruction.js'
import { endAfterHandshake, refuseTruncation } from '../../src/sockets/truncation.js'
import { WAIT_MS } from '../fixtures/mesh.js'
import { leaf, root } from '../fixtures/pki.js'

const { pem: cert, key } = leaf(root())
const CREDENTIALS = { cert, key: key.export({ type: 'pkcs8', format: 'pem' }) }
const VERSIONS: readonly SecureVersion[] = ['TLSv1.2', 'TLSv1.3']
const SIDES = ['client', 'server'] as const
/** More than fits into the buffers of the reader. */
const LARGE_BYTES = 2 << 20

type Side = (typeof SIDES)[number]

/** The transport of a TLS engine. It does not end the TCP connection when the engine ends. */
class Wire extends Duplex {
  readonly #raw: Socket
  /** Records that are held, to be sent in one write. */
  #held: Buffer[] | undefined

  constructor(raw: Socket) {
    super({ allowHalfOpen: true })
    this.#raw = raw
    raw.on('data', (chunk: Buffer) => this.push(chunk))
    raw.on('end', () => this.push(null))
    raw.on('error', () => undefined)
  }

  /** Holds all records until `release`. */
  hold(): void {
    this.#held = []
  }

  release(): Buffer {
    const all = Buffer.concat(this.#held ?? [])
    this.#held = undefined
    return all
  }

  override _read(): void {
    // The raw socket pushes its data.
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    if (this.#held === undefined) this.#raw.write(chunk, callback)
    else {
      this.#held.push(chunk)
      callback()
    }
  }
}

interface Peer {
  /** Sends application data. */
  write(data: Buffer): Promise<void>
  /** Sends a close_notify, without a FIN. */
  closeNotify(): Promise<void>
  /** Sends these bytes and a FIN. */
  fin(bytes?: Buffer): void
  reset(): void
  readonly wire: Wire
}

interface Pair {
  /** The socket under test. */
  readonly socket: TLSSocket
  readonly peer: Peer
}

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

/** Opens a connection. `side` is the role of the socket under test. */
async function open(
  t: TestContext,
  side: Side,
  version: SecureVersion,
  onSecure: (socket: TLSSocket) => void,
): Promise<Pair> {
  const range = { minVersion: version, maxVersion: version }
  let socket: TLSSocket
  let raw: Socket
  let engine: TLSSocket
  let wire: Wire
  if (side === 'server') {
    const server = createTlsServer({ ...CREDENTIALS, ...range, allowHalfOpen: true })
    const accepted = new Promise<TLSSocket>((resolve) =>
      server.once('secureConnection', (secure) => {
        onSecure(secure)
        resolve(secure)
      }),
    )
    raw = connect({ port: await listen(server), host: '127.0.0.1', allowHalfOpen: true })
    wire = new Wire(raw)
    engine = tlsConnect({ socket: wire, rejectUnauthorized: false, ...range })
    const connected = once(engine, 'secureConnect')
    socket = await accepted
    await connected
    server.close()
  } else {
    const server = createServer({ allowHalfOpen: true })
    const accepted = once(server, 'connection') as Promise<[Socket]>
    socket = tlsConnect({
      port: await listen(server),
      host: '127.0.0.1',
      rejectUnauthorized: false,
      ...range,
    })
    ;[raw] = await accepted
    wire = new Wire(raw)
    engine = new TLSSocket(wire, {
      isServer: true,
      secureContext: createSecureContext({ ...CREDENTIALS, ...range }),
    })
    // OpenSSL sends no close_notify before the session tickets of TLS 1.3, which follow the handshake.
    await Promise.all([once(socket, 'secureConnect'), once(socket, 'session')])
    onSecure(socket)
    server.close()
  }
  assert.equal(socket.getProtocol(), version)
  engine.on('error', () => undefined).resume()
  t.after(() => {
    socket.destroy()
    engine.destroy()
    raw.destroy()
  })
  const peer: Peer = {
    wire,
    // Node.js never finishes an empty write to a TLS socket over a stream.
    write: (data) =>
      new Promise((resolve) => {
        if (data.length === 0) resolve()
        else
          engine.write(data, () => {
            resolve()
          })
      }),
    closeNotify: () =>
      new Promise((resolve) =>
        engine.end(() => {
          resolve()
        }),
      ),
    fin: (bytes = Buffer.alloc(0)) => raw.end(bytes),
    reset: () => raw.resetAndDestroy(),
  }
  return { socket, peer }
}

interface Outcome {
  readonly bytes: number
  /** `end`, or the code of the error. */
  readonly by: string
}

type Reader = (socket: TLSSocket) => Promise<Outcome>

/** Resolves when the socket has ended or failed. */
function outcome(socket: TLSSocket, bytes: () => number): Promise<Outcome> {
  return new Promise((resolve) => {
    socket.once('end', () => {
      resolve({ bytes: bytes(), by: 'end' })
    })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      resolve({ bytes: bytes(), by: error.code ?? error.message })
    })
  })
}

const ONE_BUFFER = 'a single buffer for all reads'

const READERS: Record<string, Reader> = {
  'a data listener': (socket) => {
    let bytes = 0
    socket.on('data', (chunk: Buffer) => (bytes += chunk.length))
    return outcome(socket, () => bytes)
  },
  'a slow iterator': async (socket) => {
    let bytes = 0
    try {
      for await (const chunk of socket) {
        bytes += (chunk as Buffer).length
        await sleep(1)
      }
      return { bytes, by: 'end' }
    } catch (error) {
      return { bytes, by: (error as NodeJS.ErrnoException).code ?? String(error) }
    }
  },
  [ONE_BUFFER]: (socket) => {
    let bytes = 0
    const buffer = Buffer.alloc(65_536)
    const isAdopted = adoptReads(socket, buffer, (size) => {
      bytes += size
      return true
    })
    assert.ok(isAdopted)
    socket.resume()
    return outcome(socket, () => bytes)
  },
}

/** Bounds the wait, so that a missing end fails the test instead of hanging it. */
function inTime(outcome: Promise<Outcome>): Promise<Outcome> {
  return Promise.race([outcome, sleep(WAIT_MS, { bytes: NaN, by: 'timeout' }, { ref: false })])
}

type Step =
  | 'data'
  | 'close_notify'
  | 'FIN'
  | 'half a record and FIN'
  | 'a pause'
  /** The following bytes and the FIN are sent in one write. */
  | 'in one write:'
  | 'a reset after the end:'

/** What a peer sends, and what the reader must report. */
const ENDINGS: readonly (readonly [by: 'end' | 'ECONNRESET', ...steps: Step[]])[] = [
  ['end', 'data', 'close_notify', 'a pause', 'FIN'],
  ['end', 'in one write:', 'data', 'close_notify', 'FIN'],
  ['end', 'data', 'close_notify'],
  ['end', 'a reset after the end:', 'data', 'close_notify'],
  ['ECONNRESET', 'data', 'a pause', 'FIN'],
  ['ECONNRESET', 'in one write:', 'data', 'FIN'],
  ['ECONNRESET', 'data', 'half a record and FIN'],
]

async function perform(step: Step, { socket, peer }: Pair, data: Buffer): Promise<void> {
  switch (step) {
    case 'data':
      return peer.write(data)
    case 'close_notify':
      return peer.closeNotify()
    case 'a pause':
      return sleep(20)
    case 'in one write:':
      peer.wire.hold()
      return
    case 'FIN':
      peer.fin(peer.wire.release())
      return
    case 'half a record and FIN':
      peer.wire.hold()
      await peer.write(Buffer.alloc(1_000))
      peer.fin(peer.wire.release().subarray(0, 500))
      return
    case 'a reset after the end:':
      socket.once('end', () => {
        peer.reset()
      })
  }
}

for (const version of VERSIONS) {
  for (const side of SIDES) {
    describe(`refuseTruncation at a ${side} with ${version}`, () => {
      for (const [reader, read] of Object.entries(READERS)) {
        for (const size of [0, 5, LARGE_BYTES]) {
          for (const [by, ...steps] of ENDINGS) {
            it(`reports ${by} to ${reader} after ${steps.join(', ')}, with ${size} bytes`, async (t) => {
              const pair = await open(t, side, version, refuseTruncation)
              const reading = read(pair.socket)
              for (const step of steps) await perform(step, pair, Buffer.alloc(size))
              assert.deepEqual(await inTime(reading), { bytes: size, by })
            })
          }
        }

        it(`reports a reset to ${reader}`, async (t) => {
          const pair = await open(t, side, version, refuseTruncation)
          const reading = read(pair.socket)
          await pair.peer.write(Buffer.alloc(5))
          await sleep(20)
          pair.peer.reset()
          assert.equal((await inTime(reading)).by, 'ECONNRESET')
        })
      }

      for (const [reader, read] of Object.entries(READERS)) {
        // This reader does not read bytes that are already buffered.
        if (reader === ONE_BUFFER) continue
        for (const size of [5, LARGE_BYTES]) {
          it(`reports ${size} bytes and then a truncation to ${reader} that starts later`, async (t) => {
            const { socket, peer } = await open(t, side, version, refuseTruncation)
            void peer.write(Buffer.alloc(size)).then(() => {
              peer.fin()
            })
            await sleep(50)
            assert.equal(socket.destroyed, false)
            assert.deepEqual(await inTime(read(socket)), { bytes: size, by: 'ECONNRESET' })
          })
        }
      }

      it('reports the bytes before a truncation to a pump that starts later', async (t) => {
        const { socket, peer } = await open(t, side, version, refuseTruncation)
        await peer.write(Buffer.from('hello'))
        peer.fin()
        await sleep(50)
        let received = ''
        const ended = outcome(socket, () => received.length)
        readInto(socket, (bytes) => {
          received += bytes.toString()
          return true
        })
        socket.resume()
        assert.deepEqual([await inTime(ended), received], [{ bytes: 5, by: 'ECONNRESET' }, 'hello'])
      })

      it('reports in the error that the data may be truncated', async (t) => {
        const { socket, peer } = await open(t, side, version, refuseTruncation)
        const failed = once(socket.resume(), 'error') as Promise<[Error]>
        peer.fin()
        assert.match((await failed)[0].message, /without a close_notify; the received data may be truncated/)
      })
    })
  }

  describe(`The end of a server with ${version}`, () => {
    /** What a client receives from a server that runs `end` in the turn of the handshake. */
    const receive = async (t: TestContext, end: (socket: TLSSocket) => void): Promise<Outcome> => {
      const server = createTlsServer({ ...CREDENTIALS, minVersion: version, maxVersion: version }, end)
      const socket = tlsConnect({ port: await listen(server), host: '127.0.0.1', rejectUnauthorized: false })
      await once(socket, 'secureConnect')
      refuseTruncation(socket)
      t.after(() => {
        socket.destroy()
        server.close()
      })
      return inTime(READERS['a data listener']!(socket))
    }

    it('has a close_notify with endAfterHandshake', async (t) => {
      const ended = await receive(t, (socket) => {
        endAfterHandshake(socket)
        socket.end('bye')
      })
      assert.deepEqual(ended, { bytes: 3, by: 'end' })
    })

    for (const [isIdle, by] of [
      [true, 'end'],
      [false, 'ECONNRESET'],
    ] as const) {
      it(`is reported as ${by} with closeWhenDestroyed if the connection is ${isIdle ? 'idle' : 'busy'}`, async (t) => {
        const ended = await receive(t, (socket) => {
          closeWhenDestroyed(socket, () => isIdle)
          socket.write('bye')
          setTimeout(() => socket.destroy(), 20)
        })
        assert.deepEqual(ended, { bytes: 3, by })
      })
    }
  })
}
