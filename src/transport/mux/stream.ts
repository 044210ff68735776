import type { X509Certificate } from 'node:crypto'
import type { CipherNameAndProtocol, EphemeralKeyInfo, PeerCertificate, TLSSocket } from 'node:tls'
import { systemClock } from '../../base/clock.js'
import { ConnectError } from '../../base/errors.js'
import { LendingDuplex, type Sink } from '../../sockets/buffered-reads.js'
import { endAndLinger } from '../../sockets/linger.js'
import { resetError } from '../../sockets/network-errors.js'
import { isInSlab } from '../../sockets/slabs.js'
import { ByteQueue } from './byte-queue.js'
import type { FrameSource } from './frame-writer.js'
import { RESET_CODES } from './frames.js'

/** How many bytes a stream that is destroyed may still send. */
const MAX_LAST_BYTES = 2_048
/** So many bytes are sent from where they lie. */
const LEND_BYTES = 32_768

type Callback = (error?: Error | null) => void

/** What a stream needs of its session. */
export interface StreamSession {
  /** Called when the stream has bytes to send, or an end. */
  ready(stream: MuxStream): void
  /** Sends the last bytes of a stream that is being destroyed. */
  sendLast(stream: MuxStream, bytes: Buffer): void
  /** Sends the end of a stream for which no bytes wait. */
  end(stream: MuxStream): void
  /** Called when bytes were taken out of the stream, so that its peer may send more. */
  taken(stream: MuxStream): void
  /** Called when both directions have ended, or the stream was destroyed. */
  closed(stream: MuxStream, resetCode: number | undefined): void
  /** Called when an open stream begins or ceases to keep the process alive. */
  referenced(stream: MuxStream, isReferenced: boolean): void
  readonly addresses: StreamAddresses
  /** The connection, if it is one of TLS. */
  readonly tls: TLSSocket | undefined
}

export interface StreamAddresses {
  readonly remoteAddress?: string | undefined
  readonly remotePort?: number | undefined
  readonly remoteFamily?: string | undefined
  readonly localAddress?: string | undefined
  readonly localPort?: number | undefined
  readonly localFamily?: string | undefined
}

/** Bytes that are being sent. */
interface Outgoing {
  readonly chunks: readonly Buffer[]
  /** The number of bytes. */
  readonly size: number
  readonly callback: Callback
  /** The chunk whose bytes are next, and how many of them were sent. */
  index: number
  at: number
  /** Whether bytes are being written from where they lie. */
  isLent: boolean
}

/** One connection of a multiplexed session, with the methods of a socket that client libraries call. */
export class MuxStream extends LendingDuplex implements FrameSource {
  readonly id: number
  readonly #session: StreamSession
  /** How many bytes the peer accepts now. */
  credit: number
  /** How many bytes the peer may still send. */
  allowance: number
  /** How many bytes the peer may send before any is read. */
  window: number
  bytesRead = 0
  bytesWritten = 0
  readonly alpnProtocol = false as const
  /** Called once when the accepting end has authorized the stream. */
  onAccepted: () => void = () => undefined
  /** What has arrived and was not asked for yet. */
  readonly #arrived = new ByteQueue()
  /** Whether the reader wants more than it has got. */
  #isAsked = false
  #isEndPushed = false
  #sink: Sink | undefined
  #outgoing: Outgoing | undefined
  #onEndSent: Callback | undefined
  #isEndSent = false
  #isEndReceived = false
  /** Set when the peer has reset the stream: it takes no bytes, and no answer. */
  #isReset = false
  /** The error of a write after the peer has closed the stream. */
  #whenWritten: Error | undefined
  #resetCode: number = RESET_CODES.cancel
  #isReferenced = true
  #isAccepted = false
  /** Whether the stream was accepted in this turn, so that its application does not listen yet. */
  #isNew = false
  #timeoutMs = 0
  #activeAt = 0
  /** As for a socket, `timeout` is emitted once, and again after new activity. */
  #hasTimedOut = false
  #cancelTimeout: () => void = () => undefined

  /**
   * @param credit - how many bytes the peer accepts
   * @param window - how many bytes it may send
   */
  constructor(
    id: number,
    session: StreamSession,
    {
      allowHalfOpen,
      credit,
      window,
    }: { readonly allowHalfOpen: boolean; readonly credit: number; readonly window: number },
  ) {
    // Bytes wait in the queue, where small pieces share a buffer.
    super({ allowHalfOpen, readableHighWaterMark: 1 })
    this.id = id
    this.#session = session
    this.credit = credit
    this.allowance = window
    this.window = window
  }

  get remoteAddress(): string | undefined {
    return this.#session.addresses.remoteAddress
  }

  get remotePort(): number | undefined {
    return this.#session.addresses.remotePort
  }

  get remoteFamily(): string | undefined {
    return this.#session.addresses.remoteFamily
  }

  get localAddress(): string | undefined {
    return this.#session.addresses.localAddress
  }

  get localPort(): number | undefined {
    return this.#session.addresses.localPort
  }

  /** Whether the accepting end has authorized the stream. */
  get isAccepted(): boolean {
    return this.#isAccepted
  }

  /** Whether the peer has ended its side. */
  get hasEnded(): boolean {
    return this.#isEndReceived
  }

  /** How many bytes have arrived and were not read. */
  get unread(): number {
    return this.readableLength + this.#arrived.length
  }

  /** Whether the reader has taken all that has arrived, and wants more. */
  get keepsUp(): boolean {
    return this.unread === 0 && (this.#sink === undefined || this.#isAsked)
  }

  /** Whether the stream keeps the process alive. */
  get isReferenced(): boolean {
    return this.#isReferenced
  }

  /** Always false, as of a socket that is connected. */
  get connecting(): boolean {
    return false
  }

  get pending(): boolean {
    return this.destroyed
  }

  get readyState(): 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.readable) return this.writable ? 'open' : 'readOnly'
    return this.writable ? 'writeOnly' : 'closed'
  }

  /** The time of `setTimeout`, in milliseconds. */
  get timeout(): number | undefined {
    return this.#timeoutMs === 0 ? undefined : this.#timeoutMs
  }

  /** The local end of the session. */
  address(): { address?: string | undefined; port?: number | undefined; family?: string | undefined } {
    const { localAddress: address, localPort: port, localFamily: family } = this.#session.addresses
    return { address, port, family }
  }

  /** Destroys the stream, which resets it for the peer. */
  resetAndDestroy(): this {
    return this.destroy()
  }

  /** As of the TLS socket of the session, for those who look at it. */
  get encrypted(): boolean {
    return this.#session.tls !== undefined
  }

  get authorized(): boolean {
    return this.encrypted
  }

  getPeerX509Certificate(): X509Certificate | undefined {
    return this.#session.tls?.getPeerX509Certificate()
  }

  getPeerCertificate(isDetailed?: boolean): PeerCertificate | undefined {
    return this.#session.tls?.getPeerCertificate(isDetailed)
  }

  getX509Certificate(): X509Certificate | undefined {
    return this.#session.tls?.getX509Certificate()
  }

  getCipher(): CipherNameAndProtocol | undefined {
    return this.#session.tls?.getCipher()
  }

  getProtocol(): string | null | undefined {
    return this.#session.tls?.getProtocol()
  }

  getEphemeralKeyInfo(): EphemeralKeyInfo | object | null | undefined {
    return this.#session.tls?.getEphemeralKeyInfo()
  }

  /** No effect: the session sends at once. */
  setNoDelay(): this {
    return this
  }

  /** No effect: the session looks for signs of life. */
  setKeepAlive(): this {
    return this
  }

  setTimeout(timeoutMs: number, callback?: () => void): this {
    this.#timeoutMs = timeoutMs
    this.#cancelTimeout()
    if (callback !== undefined) {
      if (timeoutMs > 0) this.once('timeout', callback)
      else this.off('timeout', callback)
    }
    if (timeoutMs > 0 && !this.destroyed) {
      this.#activeAt = performance.now()
      this.#armTimeout(timeoutMs)
    }
    return this
  }

  ref(): this {
    return this.#reference(true)
  }

  unref(): this {
    return this.#reference(false)
  }

  /** Ends our side, and destroys the stream when the peer has ended too, as sockets of this library do. */
  destroySoon(): void {
    endAndLinger(this)
  }

  override endNow(): void {
    // Bytes may also wait behind those that are being written.
    if (this.#hasBytes() || this.writableLength > (this.#outgoing?.size ?? 0)) return
    if (this.#isEndSent || this.#isReset) return
    this.#isEndSent = true
    this.#resetCode = RESET_CODES.closed
    this.#session.end(this)
  }

  /** The peer may send as much as was taken or is asked for, by any reader. */
  override read(size?: number): unknown {
    const taken: unknown = super.read(size)
    this.#session.taken(this)
    this.#closeIfEnded()
    return taken
  }

  override readInto(sink: Sink): boolean {
    this.#sink = sink
    // What has arrived since follows the bytes that are held.
    this.#isAsked = false
    let wantsMore = true
    for (let held = this.read() as Buffer | null; held !== null; held = this.read() as Buffer | null)
      wantsMore = sink(held)
    this.#isAsked = wantsMore
    this.#deliver()
    return this.#isAsked
  }

  override resume(): this {
    super.resume()
    if (this.#sink !== undefined && !this.#isAsked) {
      this.#isAsked = true
      this.#deliver()
    }
    return this
  }

  /** Called when the accepting end has authorized the stream. */
  accepted(): void {
    this.#isAccepted = true
    this.#isNew = true
    setImmediate(() => {
      this.#isNew = false
      this.#endUnread()
    })
    this.onAccepted()
  }

  canSend(): boolean {
    return this.#hasBytes() ? this.credit > 0 : this.#onEndSent !== undefined && !this.#isEndSent
  }

  #hasBytes(): boolean {
    return this.#outgoing !== undefined && this.#outgoing.index < this.#outgoing.chunks.length
  }

  lend(headBytes: number, maxBytes: number, written: (() => void)[]): Buffer | undefined {
    const outgoing = this.#outgoing
    if (outgoing === undefined) return undefined
    const bytes = nextInSlab(outgoing, headBytes, Math.min(maxBytes, this.credit))
    if (bytes === undefined) return undefined
    outgoing.isLent = true
    written.push(() => {
      outgoing.isLent = false
      if (this.#isReset) this.#finishChunks(outgoing)
    })
    this.#sent(outgoing, bytes.length, written)
    return bytes
  }

  copyTo(target: Buffer, at: number, maxBytes: number, written: (() => void)[]): number {
    const outgoing = this.#outgoing
    if (outgoing === undefined || !this.#hasBytes()) {
      this.#isEndSent = true
      written.push(this.#endWritten)
      return 0
    }
    const length = copyChunks(outgoing, target.subarray(at, at + Math.min(maxBytes, this.credit)))
    this.#sent(outgoing, length, written)
    return length
  }

  #sent(outgoing: Outgoing, bytes: number, written: (() => void)[]): void {
    if (!this.#hasBytes())
      written.push(() => {
        this.#finishChunks(outgoing)
      })
    this.credit -= bytes
    this.bytesWritten += bytes
    this.#isActive()
  }

  #isActive(): void {
    if (this.#timeoutMs === 0) return
    this.#activeAt = performance.now()
    if (this.#hasTimedOut) this.#armTimeout(this.#timeoutMs)
  }

  /** Called for bytes of the peer, which are valid only during the call. */
  receive(bytes: Buffer): void {
    this.bytesRead += bytes.length
    // It is about to end.
    if (this.destroyed) return
    this.#isActive()
    if (!this.#isAsked || this.#arrived.length > 0) this.#arrived.append(bytes)
    else this.#pass(this.#sink === undefined ? Buffer.from(bytes) : bytes)
  }

  /** Called for the end of the peer. */
  receiveEnd(): void {
    this.#isEndReceived = true
    this.#deliver()
    this.#closeIfEnded()
  }

  /**
   * Called when the peer has reset the stream, or the session has broken.
   * @param isClosed - whether the peer has closed it after its last byte, which is an error only for one who writes
   */
  break(error: Error, isClosed = false): void {
    if (this.#isNew) {
      setImmediate(() => {
        this.break(error, isClosed)
      })
      return
    }
    this.#isReset = true
    if (isClosed && this.#isEndReceived && this.writableLength === 0 && !this.destroyed) {
      this.#whenWritten = error
      return
    }
    if (!this.#isEndReceived || this.destroyed) {
      this.destroy(error)
      return
    }
    // The peer has sent all its bytes. It is an error only if there are more of ours, or may be.
    const mayWrite = this.allowHalfOpen && !this.writableEnded
    const failure = this.#outgoing !== undefined || this.writableLength > 0 || mayWrite ? error : undefined
    if (this.readableEnded) {
      this.destroy(failure)
      return
    }
    // They are read first. In another turn, so that a writer that never waits cannot block them.
    const outgoing = this.#outgoing
    setImmediate(() => {
      if (outgoing?.isLent === false) this.#finishChunks(outgoing)
      this.#endWritten()
    })
    this.once('end', () => {
      this.destroy(failure)
    })
  }

  /** Destroys the stream, and tells the peer why. */
  reset(code: number, error?: Error): void {
    this.#resetCode = code
    this.destroy(error)
  }

  override _read(): void {
    if (this.#sink === undefined) this.#isAsked = true
    this.#deliver()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    this.#sendChunks([chunk], callback)
  }

  override _writev(chunks: { chunk: Buffer }[], callback: Callback): void {
    this.#sendChunks(
      chunks.map(({ chunk }) => chunk),
      callback,
    )
  }

  override _final(callback: Callback): void {
    if (this.#isReset) {
      setImmediate(callback)
      return
    }
    this.#onEndSent = callback
    this.#session.ready(this)
  }

  override _destroy(error: Error | null, callback: Callback): void {
    this.#cancelTimeout()
    this.#sendLast()
    const hasEnded = this.#isEndSent && this.#isEndReceived
    const code = isRevoked(error) ? RESET_CODES.revoked : this.#resetCode
    this.#session.closed(this, hasEnded || this.#isReset ? undefined : code)
    const pending = [this.#outgoing?.callback, this.#onEndSent].filter((each) => each !== undefined)
    this.#outgoing = undefined
    this.#onEndSent = undefined
    this.#arrived.clear()
    if (pending.length > 0) {
      const cause = error ?? resetError('the connection was destroyed')
      process.nextTick(() => {
        for (const each of pending) each(cause)
      })
    }
    callback(error)
  }

  /**
   * Sends the bytes that were just written, as far as the peer accepts them: a socket hands them to the kernel before it can
   * be destroyed.
   */
  #sendLast(): void {
    const outgoing = this.#outgoing
    if (outgoing === undefined || this.#isReset) return
    const bytes = Buffer.allocUnsafe(Math.min(this.credit, MAX_LAST_BYTES))
    const length = copyChunks(outgoing, bytes)
    if (length > 0) this.#session.sendLast(this, bytes.subarray(0, length))
  }

  /** Passes on what has arrived, as far as the reader wants it. */
  #deliver(): void {
    while (this.#isAsked && !this.destroyed) {
      const bytes = this.#arrived.shift()
      if (bytes === undefined) break
      this.#pass(bytes)
    }
    if (!this.#isEndReceived || this.#isEndPushed || this.#arrived.length > 0) return
    this.#isEndPushed = true
    this.push(null)
    this.#endUnread()
  }

  /** Emits the end of a stream without a reader, as sockets do, once its application has had time to listen. */
  #endUnread(): void {
    if (this.#isEndPushed && this.#isAccepted && !this.#isNew && this.readableLength === 0) super.read(0)
  }

  #pass(bytes: Buffer): void {
    if (this.#sink === undefined) {
      this.#isAsked = false
      this.push(bytes)
    } else this.#isAsked = this.#sink(bytes)
    this.#session.taken(this)
    this.#closeIfEnded()
  }

  #sendChunks(chunks: readonly Buffer[], callback: Callback): void {
    const filled = chunks.filter(({ length }) => length > 0)
    // An empty frame would say nothing, and a peer that has reset the stream takes none.
    if (this.#isReset || filled.length === 0) {
      setImmediate(callback, filled.length > 0 ? this.#whenWritten : undefined)
      return
    }
    const size = filled.reduce((sum, { length }) => sum + length, 0)
    this.#outgoing = { chunks: filled, size, callback, index: 0, at: 0, isLent: false }
    this.#session.ready(this)
  }

  #finishChunks(outgoing: Outgoing): void {
    if (this.#outgoing !== outgoing) return
    this.#outgoing = undefined
    outgoing.callback()
  }

  readonly #endWritten = (): void => {
    const callback = this.#onEndSent
    this.#onEndSent = undefined
    callback?.()
    this.#closeIfEnded()
  }

  /** With bytes that were not read, the stream still counts. */
  #closeIfEnded(): void {
    if (this.#isEndSent && this.#onEndSent === undefined && this.#isEndReceived && this.unread === 0)
      this.#session.closed(this, undefined)
  }

  #reference(isReferenced: boolean): this {
    if (this.#isReferenced === isReferenced || this.destroyed) return this
    this.#isReferenced = isReferenced
    this.#session.referenced(this, isReferenced)
    return this
  }

  #armTimeout(ms: number): void {
    this.#hasTimedOut = false
    this.#cancelTimeout = systemClock.after(ms, () => {
      const leftMs = this.#timeoutMs - (performance.now() - this.#activeAt)
      if (leftMs > 0) {
        this.#armTimeout(leftMs)
        return
      }
      this.#hasTimedOut = true
      this.emit('timeout')
    })
  }
}

/** Copies the next bytes, and counts them as sent. @returns how many fit */
function copyChunks(outgoing: Outgoing, target: Buffer): number {
  let length = 0
  while (length < target.length) {
    const chunk = outgoing.chunks[outgoing.index]
    if (chunk === undefined) break
    const copied = chunk.copy(target, length, outgoing.at)
    length += copied
    outgoing.at += copied
    if (outgoing.at < chunk.length) break
    outgoing.index += 1
    outgoing.at = 0
  }
  return length
}

/** Returns the next bytes where they lie, and counts them as sent, if they are many and have room before them. */
function nextInSlab(outgoing: Outgoing, headBytes: number, maxBytes: number): Buffer | undefined {
  const { index, at } = outgoing
  const chunk = outgoing.chunks[index]
  if (chunk === undefined || !isInSlab(chunk) || chunk.byteOffset + at < headBytes) return undefined
  const bytes = chunk.subarray(at, at + maxBytes)
  if (bytes.length < LEND_BYTES) return undefined
  const isLast = at + bytes.length === chunk.length
  outgoing.index += isLast ? 1 : 0
  outgoing.at = isLast ? 0 : at + bytes.length
  return bytes
}

function isRevoked(error: Error | null): boolean {
  return error instanceof ConnectError && error.code === 'ERR_CONNECT_REVOKED'
}
