import { type Socket, isIPv6 } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { tcpSocketOf } from '../../base/node-internals.js'
import type { Generation } from '../../identity/identity-store.js'

interface Handshake {
  readonly socket: Socket
  /** Kept: a socket has no addresses any more when its peer has reset the connection. */
  readonly ends: string
  /** The identity and roots of the listener when the handshake began. */
  readonly generation: Generation
  /** By performance.now(). */
  readonly startedAt: number
  readonly source: string
}

/** A completed or failed handshake. */
export interface FinishedHandshake {
  readonly durationMs: number
  readonly generation: Generation
  /** How many bytes the peer had sent. */
  readonly bytes: number
}

/**
 * Upper bound on the bytes that a peer sends during the handshake: enough for a ClientHello and 16 certificates. It is
 * checked every `SWEEP_MS`; between two checks, OpenSSL limits the certificates to 100 KiB.
 */
const MAX_BYTES = 48 * 1024
const SWEEP_MS = 100

/** Why a pending handshake was ended. */
export type HandshakeFault = { readonly bytes: number } | { readonly durationMs: number }

/**
 * Tracks pending handshakes, and limits their number and duration. At the limit, the oldest handshake of the source address with the
 * most handshakes is destroyed, so that a source that never completes its handshakes cannot lock out other sources.
 */
export class Handshakes {
  readonly #limit: number
  readonly #timeoutMs: number
  readonly #onFault: (socket: Socket, fault: HandshakeFault) => void
  readonly #onEmpty: () => void
  /** By both addresses and ports of the connection, or a number for a Unix socket; oldest first. */
  readonly #pending = new Map<string, Handshake>()
  /** Includes handshakes of closed connections: Node.js emits their error later. */
  readonly #bySocket = new WeakMap<Socket, Handshake>()
  /** Ended by the sweeper. */
  readonly #ended = new WeakSet<Socket>()
  readonly #perSource = new Map<string, number>()
  #count = 0
  #sweeper: NodeJS.Timeout | undefined

  /**
   * @param limits.timeoutMs - how long a handshake may take; OpenSSL ends it at this time, if it has begun to read
   * @param on.fault - called when a connection was ended because its peer has sent too much, or was too slow
   * @param on.empty - called when no handshake is pending any more
   */
  constructor(
    limits: { readonly count: number; readonly timeoutMs: number },
    on: { fault: (socket: Socket, fault: HandshakeFault) => void; empty: () => void },
  ) {
    this.#limit = limits.count
    this.#timeoutMs = limits.timeoutMs
    this.#onFault = on.fault
    this.#onEmpty = on.empty
  }

  get size(): number {
    return this.#pending.size
  }

  begin(socket: Socket, generation: Generation): void {
    if (this.#pending.size >= this.#limit) this.#makeRoom()
    this.#count += 1
    const ends = bothEnds(socket) ?? `unix ${this.#count}`
    const source = sourceOf(socket)
    const handshake = { socket, ends, generation, source, startedAt: performance.now() }
    this.#remove(ends)
    this.#pending.set(ends, handshake)
    this.#bySocket.set(socket, handshake)
    this.#perSource.set(source, (this.#perSource.get(source) ?? 0) + 1)
    this.#sweeper ??= setInterval(() => {
      this.#sweep()
    }, SWEEP_MS).unref()
    socket.once('close', () => {
      if (this.#pending.get(ends) === handshake) this.#remove(ends)
    })
  }

  /** Removes a handshake. Returns undefined when it was destroyed here or cannot be identified. */
  end(socket: TLSSocket): FinishedHandshake | undefined {
    const tcp = tcpSocketOf(socket)
    const handshake = tcp === undefined ? this.#pending.get(bothEnds(socket) ?? '') : this.#bySocket.get(tcp)
    if (handshake === undefined) return undefined
    const { startedAt, generation, ends } = handshake
    this.#bySocket.delete(handshake.socket)
    if (this.#pending.get(ends) === handshake) this.#remove(ends)
    return { durationMs: performance.now() - startedAt, generation, bytes: handshake.socket.bytesRead }
  }

  /** Whether a handshake was ended here, and reported. */
  hasEnded(socket: TLSSocket): boolean {
    const tcp = tcpSocketOf(socket)
    return tcp !== undefined && this.#ended.has(tcp)
  }

  destroy(): void {
    for (const { socket } of this.#pending.values()) socket.destroy()
  }

  #remove(ends: string): void {
    const handshake = this.#pending.get(ends)
    if (handshake === undefined) return
    this.#pending.delete(ends)
    const left = (this.#perSource.get(handshake.source) ?? 1) - 1
    if (left > 0) this.#perSource.set(handshake.source, left)
    else this.#perSource.delete(handshake.source)
    if (this.#pending.size > 0) return
    clearInterval(this.#sweeper)
    this.#sweeper = undefined
    this.#onEmpty()
  }

  #makeRoom(): void {
    const most = Math.max(...this.#perSource.values())
    for (const [ends, { socket, source }] of this.#pending) {
      if (this.#perSource.get(source) !== most) continue
      this.#remove(ends)
      this.#bySocket.delete(socket)
      socket.destroy()
      return
    }
  }

  #sweep(): void {
    const now = performance.now()
    for (const [ends, { socket, startedAt }] of this.#pending) {
      const { bytesRead } = socket
      const durationMs = now - startedAt
      // OpenSSL comes first.
      const isSlow = durationMs > this.#timeoutMs + SWEEP_MS
      if (bytesRead <= MAX_BYTES && !isSlow) continue
      this.#remove(ends)
      this.#bySocket.delete(socket)
      this.#ended.add(socket)
      // Without a byte, nothing has been rejected: the check of an agent, or a connection in advance.
      if (bytesRead > 0) this.#onFault(socket, isSlow ? { durationMs } : { bytes: bytesRead })
      socket.destroy()
    }
  }
}

/** Returns a key that a TCP socket and its TLS socket share; undefined for a Unix socket, which has no addresses. */
function bothEnds(socket: Socket): string | undefined {
  const { remoteAddress, remotePort = '', localAddress = '', localPort = '' } = socket
  if (remoteAddress === undefined) return undefined
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}

/** Returns the remote address; for IPv6 its /64 prefix, because one host may own all addresses of a /64. */
function sourceOf({ remoteAddress = '' }: Socket): string {
  if (!isIPv6(remoteAddress) || remoteAddress.includes('.')) return remoteAddress
  const [head = '', tail] = remoteAddress.split('::', 2)
  const before = head.split(':').filter((group) => group !== '')
  const after = tail?.split(':').filter((group) => group !== '') ?? []
  const zeros = Array<string>(tail === undefined ? 0 : 8 - before.length - after.length).fill('0')
  return [...before, ...zeros, ...after].slice(0, 4).join(':')
}
