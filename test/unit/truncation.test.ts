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
import { adoptReads, isEndOfTcp } from '../../src/base/node-internals.js'
import { readInto } from '../../src/sockets/buffered-reads.js'
import { closeWhenDestroyed } from '../../src/sockets/destruction.js'
import { endAfterHandshake, refuseTruncation } from '../../src/sockets/truncation.js'
import { WAIT_MS } from '../fixtures/mesh.js'
import { leaf, root } from '../fixtures/pki.js'

const { pem: cert, key } = leaf(root())
const CREDENTIALS = { cert, key: key.export({ type: 'pkcs8', format: 'pem' }) }
const VERSIONS: readonly SecureVersion[] = ['TLSv1.2', 'TLSv1.3']
const SIDES = ['client', 'server'] as const
/** More than the buffers of the reader hold. */
const LARGE_BYTES = 2 << 20

type Side = (typeof SIDES)[number]

/** What carries the records of a TLS engine. It never ends the TCP connection by itself. */
class Wire extends Duplex {
  readonly #raw: Socket
  /** Records that are held back, to be sent in one write. */
  #held: Buffer[] | undefined

  constructor(raw: Socket) {
    super({ allowHalfOpen: true })
    this.#raw = raw
    raw.on('data', (chunk: Buffer) => this.push(chunk))
    raw.on('end', () => this.push(null))
    raw.on('error', () => undefined)
  }

  /** Holds back everything from now on, until `release`. */
  hold(): void {
    this.#held = []
  }

  release(): Buffer {
    const all = Buffer.concat(this.#held ?? [])
    this.#held = undefined
    return all
  }

  override _read(): void {
    // The raw socket flows.
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
  /** Sends a close_notify, and leaves the TCP connection open. */
  closeNotify(): Promise<void>
  /** Ends the TCP connection, and sends these bytes before that. */
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

/** A connection whose end at `side` is under test. */
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

const ONE_BUFFER = 'one buffer for all reads'

const READERS: Record<string, Reader> = {
  'a listener of data': (socket) => {
    let bytes = 0
    socket.on('data', (chunk: Buffer) => (bytes += chunk.length))
    return outcome(socket, () => bytes)
  },
  'an iterator that is slow': async (socket) => {
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

/** A connection whose end is never reported fails its test, and does not hang it. */
function inTime(outcome: Promise<Outcome>): Promise<Outcome> {
  return Promise.race([outcome, sleep(WAIT_MS, { bytes: NaN, by: 'nothing' }, { ref: false })])
}

interface Ending {
  readonly name: string
  /** Ends the connection, after `data`. */
  readonly end: (pair: Pair, data: Buffer) => Promise<void>
  readonly by: 'end' | 'ECONNRESET'
}

const ENDINGS: readonly Ending[] = [
  {
    name: 'close_notify, and FIN a moment later',
    end: async ({ peer }, data) => {
      await peer.write(data)
      await peer.closeNotify()
      await sleep(20)
      peer.fin()
    },
    by: 'end',
  },
  {
    name: 'data, close_notify, and FIN in one write',
    end: async ({ peer }, data) => {
      peer.wire.hold()
      await peer.write(data)
      await peer.closeNotify()
      peer.fin(peer.wire.release())
    },
    by: 'end',
  },
  {
    name: 'close_notify, and no FIN',
    end: async ({ peer }, data) => {
      await peer.write(data)
      await peer.closeNotify()
    },
    by: 'end',
  },
  {
    name: 'close_notify, and a reset once the end is reported',
    end: async ({ socket, peer }, data) => {
      socket.once('end', () => {
        peer.reset()
      })
      await peer.write(data)
      await peer.closeNotify()
    },
    by: 'end',
  },
  {
    name: 'FIN without close_notify, a moment after the data',
    end: async ({ peer }, data) => {
      await peer.write(data)
      await sleep(20)
      peer.fin()
    },
    by: 'ECONNRESET',
  },
  {
    name: 'data and FIN in one write, without close_notify',
    end: async ({ peer }, data) => {
      peer.wire.hold()
      await peer.write(data)
      peer.fin(peer.wire.release())
    },
    by: 'ECONNRESET',
  },
  {
    name: 'FIN in the middle of a record',
    end: async ({ peer }, data) => {
      await peer.write(data)
      peer.wire.hold()
      await peer.write(Buffer.alloc(1_000))
      peer.fin(peer.wire.release().subarray(0, 500))
    },
    by: 'ECONNRESET',
  },
]

for (const version of VERSIONS) {
  for (const side of SIDES) {
    describe(`refuseTruncation: a ${side} with ${version}`, () => {
      for (const [reader, read] of Object.entries(READERS)) {
        for (const size of [0, 5, LARGE_BYTES]) {
          for (const { name, end, by } of ENDINGS) {
            it(`${name}, ${size} bytes, ${reader}: ${by}`, async (t) => {
              const pair = await open(t, side, version, refuseTruncation)
              const reading = read(pair.socket)
              await end(pair, Buffer.alloc(size))
              assert.deepEqual(await inTime(reading), { bytes: size, by })
            })
          }
        }

        it(`reset, ${reader}: ECONNRESET`, async (t) => {
          const pair = await open(t, side, version, refuseTruncation)
          const reading = read(pair.socket)
          await pair.peer.write(Buffer.alloc(5))
          await sleep(20)
          pair.peer.reset()
          assert.equal((await inTime(reading)).by, 'ECONNRESET')
        })
      }

      for (const [reader, read] of Object.entries(READERS)) {
        // The last reader gets what was buffered before from its caller.
        if (reader === ONE_BUFFER) continue
        for (const size of [5, LARGE_BYTES]) {
          it(`reports ${size} bytes and then a truncation to ${reader} that comes later`, async (t) => {
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

      it('reports the bytes before a truncation to a pump that comes later', async (t) => {
        const { socket, peer } = await open(t, side, version, refuseTruncation)
        await peer.write(Buffer.from('hello'))
        peer.fin()
        await sleep(50)
        let heard = ''
        const ended = outcome(socket, () => heard.length)
        readInto(socket, (bytes) => {
          heard += bytes.toString()
          return true
        })
        socket.resume()
        assert.deepEqual([await inTime(ended), heard], [{ bytes: 5, by: 'ECONNRESET' }, 'hello'])
      })

      it('says that the answer may be cut short', async (t) => {
        const { socket, peer } = await open(t, side, version, refuseTruncation)
        const failed = once(socket.resume(), 'error') as Promise<[Error]>
        peer.fin()
        assert.match((await failed)[0].message, /without a close_notify; the received data may be truncated/)
      })
    })

    describe(`isEndOfTcp: a ${side} with ${version}`, () => {
      const asked = async (t: TestContext, end: (peer: Peer) => unknown): Promise<boolean> => {
        let answer: boolean | undefined
        const { socket, peer } = await open(t, side, version, (secure) => {
          secure.push = function push(this: TLSSocket, chunk: unknown): boolean {
            if (chunk === null) answer ??= isEndOfTcp(this)
            return TLSSocket.prototype.push.call(this, chunk)
          }
        })
        const ended = once(socket.resume(), 'end')
        await end(peer)
        await ended
        assert.notEqual(answer, undefined)
        return answer!
      }

      it('is true after a bare FIN', async (t) => {
        assert.equal(
          await asked(t, (peer) => {
            peer.fin()
          }),
          true,
        )
      })

      it('is false after a close_notify', async (t) => {
        assert.equal(await asked(t, (peer) => peer.closeNotify()), false)
      })
    })
  }

  describe(`the end that a server sends, with ${version}`, () => {
    /** What a client sees of a server that does this with a socket in the turn of its handshake. */
    const seen = async (t: TestContext, end: (socket: TLSSocket) => void): Promise<Outcome> => {
      const server = createTlsServer({ ...CREDENTIALS, minVersion: version, maxVersion: version }, end)
      const socket = tlsConnect({ port: await listen(server), host: '127.0.0.1', rejectUnauthorized: false })
      await once(socket, 'secureConnect')
      refuseTruncation(socket)
      t.after(() => {
        socket.destroy()
        server.close()
      })
      return inTime(READERS['a listener of data']!(socket))
    }

    it('endAfterHandshake: has a close_notify', async (t) => {
      const ended = await seen(t, (socket) => {
        endAfterHandshake(socket)
        socket.end('bye')
      })
      assert.deepEqual(ended, { bytes: 3, by: 'end' })
    })

    for (const [isDone, by] of [
      [true, 'end'],
      [false, 'ECONNRESET'],
    ] as const) {
      it(`closeWhenDestroyed, isDone ${isDone}: ${by}`, async (t) => {
        const ended = await seen(t, (socket) => {
          closeWhenDestroyed(socket, () => isDone)
          socket.write('bye')
          setTimeout(() => socket.destroy(), 20)
        })
        assert.deepEqual(ended, { bytes: 3, by })
      })
    }
  })
}
