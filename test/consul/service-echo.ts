// A protocol that verifies both directions of a connection. The client sends a length and that many bytes. The server
// echoes the bytes, and then sends the hash of what it has received.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TestContext } from 'node:test'
import { WAIT_MS } from './service-mesh.js'

const HASH_BYTES = 32

/** The server. */
export function echo(socket: Duplex): void {
  let header = Buffer.alloc(0)
  let remaining: number | undefined
  const hash = createHash('sha256')
  // The client destroys the connection after the last byte.
  socket.on('error', () => undefined)
  socket.on('data', (chunk: Buffer) => {
    let bytes = chunk
    if (remaining === undefined) {
      header = Buffer.concat([header, bytes])
      if (header.length < 4) return
      remaining = header.readUInt32BE()
      bytes = header.subarray(4)
    }
    remaining -= bytes.length
    hash.update(bytes)
    if (!socket.write(bytes)) {
      socket.pause()
      socket.once('drain', () => socket.resume())
    }
    if (remaining === 0) socket.write(hash.digest())
  })
}

export interface Exchange {
  /** The hash of the bytes that the client has sent. */
  readonly sent: string
  /** The hash that the server has reported. */
  readonly reported: string
  /** The hash of the echo. */
  readonly received: string
}

/** The client. Reads while it writes, and destroys the connection afterwards. */
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
      reported: answer.subarray(size).toString('hex'),
      received: sha256(answer.subarray(0, size)),
    }
  } finally {
    socket.destroy()
  }
}

/** Asserts that both directions of an exchange were complete. */
export function assertIntact({ sent, reported, received }: Exchange): void {
  assert.deepEqual({ reported, received }, { reported: sent, received: sent })
}

/** Exchanges bytes over each connection, one connection after the other. */
export async function assertExchanges(
  connect: () => Promise<Duplex>,
  sizes: readonly number[],
): Promise<void> {
  for (const size of sizes) assertIntact(await exchange(await connect(), size))
}

export interface PlainServer {
  readonly port: number
  /** The number of bytes received on all connections. */
  readonly bytes: () => number
}

/** Starts a plain TCP application with `echo`. */
export async function plainEcho(t: TestContext): Promise<PlainServer> {
  const sockets = new Set<Socket>()
  let bytes = 0
  const server = createServer((socket) => {
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
  return { port: (server.address() as AddressInfo).port, bytes: () => bytes }
}

/** Opens a plain TCP connection on loopback. */
export async function plainConnect(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect', { signal: AbortSignal.timeout(WAIT_MS) })
  return socket
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}
