import { Duplex } from 'node:stream'
import { systemClock } from '../../base/clock.js'
import { ConnectError } from '../../base/errors.js'
import { resetError } from '../../sockets/network-errors.js'
import { RESET_CODES } from './frames.js'

type Callback = (error?: Error | null) => void

/** What a stream needs of its session. */
export interface StreamSession {
  /** Called when the stream has bytes to send, or an end. */
  ready(stream: MuxStream): void
  /** Called when bytes were taken out of the stream, so that its peer may send more. */
  taken(stream: MuxStream): void
  /** Called when both directions have ended, or the stream was destroyed. */
  closed(stream: MuxStream, resetCode: number | undefined): void
  /** Called when an open stream begins or ceases to keep the process alive. */
  referenced(stream: MuxStream, isReferenced: boolean): void
  readonly addresses: StreamAddresses
}

export interface StreamAddresses {
  readonly remoteAddress?: string | undefined
  readonly remotePort?: number | undefined
  readonly remoteFamily?: string | undefined
  readonly localAddress?: string | undefined
  readonly localPort?: number | undefined
}

/** A chunk that is being sent. */
interface Outgoing {
  readonly bytes: Buffer
  readonly callback: Callback
  /** How many bytes were handed to the session. */
  sent: number
  /** How many of its parts the session has not written yet: until then, the bytes must not change. */
  unwritten: number
}

/** A part of a chunk, and what is to be called when it was written. */
export interface Part {
  readonly bytes: Buffer
  readonly written: () => void
}

/** One connection of a multiplexed session, with the methods of a socket that client libraries call. */
export class MuxStream extends Duplex {
  readonly id: number
  readonly #session: StreamSession
  /** How many bytes the peer accepts now. */
  credit: number
  /** How many bytes the peer may still send. */
  allowance: number
  bytesRead = 0
  bytesWritten = 0
  readonly alpnProtocol = false as const
  /** Called once when the accepting end has authorized the stream. */
  onAccepted: () => void = () => undefined
  #outgoing: Outgoing | undefined
  #onEndSent: Callback | undefined
  #isEndSent = false
  #isEndReceived = false
  /** Set when the peer has reset the stream: it takes no bytes, and no answer. */
  #isReset = false
  #resetCode: number = RESET_CODES.cancel
  #isReferenced = true
  #isAccepted = false
  /** Whether the stream was accepted in this turn, so that its application does not listen yet. */
  #isNew = false
  #timeoutMs = 0
  #activeAt = 0
  #cancelTimeout: () => void = () => undefined

  constructor(
    id: number,
    session: StreamSession,
    {
      allowHalfOpen,
      credit,
      allowance,
    }: { readonly allowHalfOpen: boolean; readonly credit: number; readonly allowance: number },
  ) {
    super({ allowHalfOpen })
    this.id = id
    this.#session = session
    this.credit = credit
    this.allowance = allowance
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

  /** Whether the stream keeps the process alive. */
  get isReferenced(): boolean {
    return this.#isReferenced
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

  /** Ends our side, and destroys the stream when all is sent, as servers of node:http do. */
  destroySoon(): void {
    if (this.writable) this.end()
    if (this.writableFinished) this.destroy()
    else this.once('finish', () => this.destroy())
  }

  /** The peer may send as much as was taken, by any reader. */
  override read(size?: number): unknown {
    const taken: unknown = super.read(size)
    if (taken !== null) this.#session.taken(this)
    return taken
  }

  /** Called when the accepting end has authorized the stream. */
  accepted(): void {
    this.#isAccepted = true
    this.#isNew = true
    setImmediate(() => {
      this.#isNew = false
    })
    this.onAccepted()
  }

  /** Whether bytes or an end wait that the peer accepts. */
  get canSend(): boolean {
    const outgoing = this.#outgoing
    if (outgoing === undefined || outgoing.sent === outgoing.bytes.length)
      return this.#onEndSent !== undefined
    return this.credit > 0
  }

  /** Takes the next bytes to send. @returns undefined if an end is to be sent */
  nextPart(maxBytes: number): Part | undefined {
    const outgoing = this.#outgoing
    if (outgoing === undefined || outgoing.sent === outgoing.bytes.length) return undefined
    const length = Math.min(maxBytes, this.credit, outgoing.bytes.length - outgoing.sent)
    const bytes = outgoing.bytes.subarray(outgoing.sent, outgoing.sent + length)
    outgoing.sent += length
    outgoing.unwritten += 1
    this.credit -= length
    this.bytesWritten += length
    this.#activeAt = performance.now()
    const written = (): void => {
      outgoing.unwritten -= 1
      if (outgoing.unwritten === 0 && outgoing.sent === outgoing.bytes.length) this.#finishChunk(outgoing)
    }
    return { bytes, written }
  }

  /** Called when the end was sent. */
  endSent(): void {
    this.#isEndSent = true
    const callback = this.#onEndSent
    this.#onEndSent = undefined
    callback?.()
    if (this.#isEndReceived) this.#session.closed(this, undefined)
  }

  /** Called for bytes of the peer, which are valid only during the call. */
  receive(bytes: Buffer): void {
    this.bytesRead += bytes.length
    this.#activeAt = performance.now()
    this.push(Buffer.from(bytes))
    // They have gone to the listeners at once.
    if (this.readableLength === 0) this.#session.taken(this)
  }

  /** Called for the end of the peer. */
  receiveEnd(): void {
    this.#isEndReceived = true
    this.push(null)
    if (this.#isEndSent) this.#session.closed(this, undefined)
  }

  /** Called when the peer has reset the stream, or the session has broken. */
  break(error: Error): void {
    if (this.#isNew) {
      setImmediate(() => {
        this.break(error)
      })
      return
    }
    this.#isReset = true
    if (!this.#isEndReceived || this.readableEnded || this.destroyed) {
      this.destroy(error)
      return
    }
    // All bytes of the peer have arrived, and are read first. It takes no more.
    const wasFinished = this.writableFinished
    const outgoing = this.#outgoing
    if (outgoing !== undefined) {
      outgoing.sent = outgoing.bytes.length
      if (outgoing.unwritten === 0) this.#finishChunk(outgoing)
    }
    this.once('end', () => {
      this.destroy(wasFinished ? undefined : error)
    })
  }

  /** Destroys the stream, and tells the peer why. */
  reset(code: number, error?: Error): void {
    this.#resetCode = code
    this.destroy(error)
  }

  override _read(): void {
    // Bytes are pushed as they arrive, within what the peer may send.
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    // An empty frame would say nothing, and a peer that has reset the stream takes none.
    if (this.#isReset || chunk.length === 0) {
      callback()
      return
    }
    this.#outgoing = { bytes: chunk, callback, sent: 0, unwritten: 0 }
    this.#session.ready(this)
  }

  override _writev(chunks: { chunk: Buffer }[], callback: Callback): void {
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), 'binary', callback)
  }

  override _final(callback: Callback): void {
    if (this.#isReset) {
      callback()
      return
    }
    this.#onEndSent = callback
    this.#session.ready(this)
  }

  override _destroy(error: Error | null, callback: Callback): void {
    this.#cancelTimeout()
    const hasEnded = this.#isEndSent && this.#isEndReceived
    const code = isRevoked(error) ? RESET_CODES.revoked : this.#resetCode
    this.#session.closed(this, hasEnded || this.#isReset ? undefined : code)
    const pending = [this.#outgoing?.callback, this.#onEndSent]
    this.#outgoing = undefined
    this.#onEndSent = undefined
    const cause = error ?? resetError('the connection was destroyed')
    process.nextTick(() => {
      for (const each of pending) each?.(cause)
    })
    callback(error)
  }

  #finishChunk(outgoing: Outgoing): void {
    if (this.#outgoing !== outgoing) return
    this.#outgoing = undefined
    outgoing.callback()
  }

  #reference(isReferenced: boolean): this {
    if (this.#isReferenced === isReferenced || this.destroyed) return this
    this.#isReferenced = isReferenced
    this.#session.referenced(this, isReferenced)
    return this
  }

  #armTimeout(ms: number): void {
    this.#cancelTimeout = systemClock.after(ms, () => {
      const leftMs = this.#timeoutMs - (performance.now() - this.#activeAt)
      if (leftMs > 0) {
        this.#armTimeout(leftMs)
        return
      }
      this.#activeAt = performance.now()
      this.#armTimeout(this.#timeoutMs)
      this.emit('timeout')
    })
  }
}

function isRevoked(error: Error | null): boolean {
  return error instanceof ConnectError && error.code === 'ERR_CONNECT_REVOKED'
}
