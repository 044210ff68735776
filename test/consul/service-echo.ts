// A small protocol that proves that bytes arrive whole both ways: a length, so many bytes, which come back as they
// are, followed by the hash of what the other end has received.
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TestContext } from 'node:test'
import { WAIT_MS } from './service-mesh.js'

const HASH_BYTES = 32

/** The answering end. */
export function echo(socket: Duplex): void {
  let header = Buffer.alloc(0)
  let left: number | undefined
  const hash = createHash('sha256')
  // The caller hangs up when it has seen enough.
  socket.on('error', () => undefined)
  socket.on('data', (chunk: Buffer) => {
    let bytes = chunk
    if (left === undefined) {
      header = Buffer.concat([header, bytes])
      if (header.length < 4) return
      left = header.readUInt32BE()
      bytes = header.subarray(4)
    }
    left -= bytes.length
    hash.update(bytes)
    if (!socket.write(bytes)) {
      socket.pause()
      socket.once('drain', () => socket.resume())
    }
    if (left === 0) socket.write(hash.digest())
  })
}

export interface Exchange {
  /** The hash of what was sent. */
  readonly sent: string
  /** The hash that the other end told. */
  readonly told: string
  /** The hash of what came back. */
  readonly received: string
}

/** The asking end. Reads as it writes, and ends the connection afterwards. */
export async function exchange(socket: Duplex, size: number): Promise<Exchange> {
  const payload = randomBytes(size)
  const header = Buffer.alloc(4)
  header.writeUInt32BE(size)
  const chunks: Buffer[] = []
  let length = 0
  const whole = new Promise<Buffer>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new Error(`${length} of ${size + HASH_BYTES} bytes came back within ${WAIT_MS} ms`))
    }, WAIT_MS)
    socket.on('data', (chunk: Buffer) => {
      chunks.push(chunk)
      length += chunk.length
      if (length >= size + HASH_BYTES) resolve(Buffer.concat(chunks))
    })
    socket.once('error', reject)
    socket.once('close', () => {
      clearTimeout(timer)
      reject(new Error(`closed after ${length} of ${size + HASH_BYTES} bytes`))
    })
  })
  socket.write(Buffer.concat([header, payload]))
  try {
    const answer = await whole
    return {
      sent: sha256(payload),
      told: answer.subarray(size).toString('hex'),
      received: sha256(answer.subarray(0, size)),
    }
  } finally {
    socket.destroy()
  }
}

export interface PlainServer {
  readonly port: number
  /** How many connections it has had. */
  readonly accepted: () => number
  /** How many bytes have come in on all of them. */
  readonly bytes: () => number
}

/** A plain TCP application that answers with `echo`. */
export async function plainEcho(t: TestContext): Promise<PlainServer> {
  const sockets = new Set<Socket>()
  let accepted = 0
  let bytes = 0
  const server = createServer((socket) => {
    accepted += 1
    sockets.add(socket.once('close', () => sockets.delete(socket)))
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length
    })
    echo(socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { port: (server.address() as AddressInfo).port, accepted: () => accepted, bytes: () => bytes }
}

/** A plain TCP connection to the loopback. */
export async function plainConnect(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect', { signal: AbortSignal.timeout(WAIT_MS) })
  return socket
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}
