import type { Writable } from 'node:stream'
import { callSafely } from '../../base/emit-safely.js'
import { SLAB_BYTES, returnSlab, takeSlab } from '../../sockets/slabs.js'
import { HEAD_BYTES, LEAST, writeHead } from './frames.js'

/** How many bytes all streams that wait may send before each has had its turn, and the least that one of them sends. */
const ROUND_BYTES = 262_144
const LEAST_SHARE_BYTES = 16_384
/** The most bytes of a frame that is copied: with its head, it fills whole TLS records, which the peer reads in few pieces. */
const MAX_BYTES = 65_536 - HEAD_BYTES
/** A frame of fewer bytes is not worth its head: it waits for the next write. */
const LEAST_BYTES = 1_024
/** How many frames may wait for a peer that does not read. */
const MAX_WAITING = 10_000

/** A stream that sends. */
export interface FrameSource {
  readonly id: number
  /** Whether bytes or an end wait that the peer accepts. */
  canSend(): boolean
  /**
   * Copies the next bytes.
   * @param written - gets what is to be called when they were written
   * @returns how many bytes; 0 for an end
   */
  copyTo(target: Buffer, at: number, maxBytes: number, written: (() => void)[]): number
  /**
   * Lends the next bytes, if they are many and there is room for `headBytes` before them.
   * @param written - gets what is to be called when they were written
   */
  lend(headBytes: number, maxBytes: number, written: (() => void)[]): Buffer | undefined
}

/**
 * Writes the frames of a session, those of one turn of the event loop and of all streams together. While a write is
 * pending, frames wait, so that a session holds at most one buffer.
 */
export class FrameWriter {
  /** The longest payload that the peer accepts. */
  maxFrameBytes: number = LEAST.maxFrameBytes
  readonly #socket: Writable
  readonly #onFlushed: () => void
  /** Frames that are complete. They go before those of streams. */
  readonly #waiting: Buffer[] = []
  /** The streams that have something to send, in the order of their turns. */
  readonly #sources = new Set<FrameSource>()
  #isScheduled = false
  #isWriting = false
  #isStopped = false

  /** @param onFlushed - called when all frames were written */
  constructor(socket: Writable, onFlushed: () => void) {
    this.#socket = socket
    this.#onFlushed = onFlushed
  }

  /** Whether all frames were written. */
  get isFlushed(): boolean {
    return !this.#isWriting && !this.#hasFrames
  }

  /** Writes a complete frame. @returns false if too many wait already */
  add(frame: Buffer): boolean {
    if (this.#waiting.length >= MAX_WAITING) return false
    this.#waiting.push(frame)
    this.#schedule()
    return true
  }

  /** Writes the bytes and the end of a stream, in turn with other streams. */
  ready(source: FrameSource): void {
    this.#sources.add(source)
    this.#schedule()
  }

  forget(source: FrameSource): void {
    this.#sources.delete(source)
  }

  /** Drops the frames that wait. */
  stop(): void {
    this.#isStopped = true
    this.#waiting.length = 0
    this.#sources.clear()
  }

  get #hasFrames(): boolean {
    return this.#waiting.length + this.#sources.size > 0
  }

  #schedule(): void {
    if (this.#isScheduled || this.#isWriting || this.#isStopped) return
    this.#isScheduled = true
    setImmediate(this.#write)
  }

  readonly #write = (): void => {
    this.#isScheduled = false
    if (this.#isWriting || this.#isStopped) return
    const written: (() => void)[] = []
    const lent = this.#borrow(written)
    if (lent !== undefined) {
      this.#send(lent, undefined, written)
      return
    }
    const slab = takeSlab()
    const size = this.#copyStreams(slab, this.#copyWaiting(slab, SLAB_BYTES), written)
    if (size === 0) returnSlab(slab)
    else this.#send(slab.subarray(0, size), slab, written)
  }

  /** Puts the frames that wait and the head before the bytes of the next stream, where they lie. */
  #borrow(written: (() => void)[]): Buffer | undefined {
    const [source] = this.#sources
    if (source?.canSend() !== true) return undefined
    let size = HEAD_BYTES
    for (const { length } of this.#waiting) size += length
    const bytes = source.lend(size, Math.min(this.#share(this.#sources.size), this.maxFrameBytes), written)
    if (bytes === undefined) return undefined
    const frames = Buffer.from(bytes.buffer, bytes.byteOffset - size, size + bytes.length)
    this.#copyWaiting(frames, size)
    writeHead(frames, size - HEAD_BYTES, 'data', source.id, bytes.length)
    this.#sources.delete(source)
    if (source.canSend()) this.#sources.add(source)
    return frames
  }

  #send(bytes: Buffer, slab: Buffer | undefined, written: (() => void)[]): void {
    this.#isWriting = true
    this.#socket.write(bytes, (error) => {
      this.#isWriting = false
      // The session ends with an error.
      if (error) return
      if (slab !== undefined) returnSlab(slab)
      for (const call of written) callSafely(call)
      if (this.#hasFrames) this.#schedule()
      else this.#onFlushed()
    })
  }

  /** How many bytes each of some streams may send in its turn. */
  #share(streams: number): number {
    return Math.max(LEAST_SHARE_BYTES, Math.floor(ROUND_BYTES / streams))
  }

  #copyWaiting(slab: Buffer, room: number): number {
    let size = 0
    let count = 0
    for (const frame of this.#waiting) {
      if (size + frame.length > room) break
      size += frame.copy(slab, size)
      count += 1
    }
    this.#waiting.splice(0, count)
    return size
  }

  #copyStreams(slab: Buffer, from: number, written: (() => void)[]): number {
    let size = from
    for (const source of this.#sources) {
      const room = SLAB_BYTES - size - HEAD_BYTES
      if (room < LEAST_BYTES) break
      this.#sources.delete(source)
      if (!source.canSend()) continue
      const maxBytes = Math.min(room, this.#share(this.#sources.size + 1), MAX_BYTES, this.maxFrameBytes)
      const length = source.copyTo(slab, size + HEAD_BYTES, maxBytes, written)
      writeHead(slab, size, length === 0 ? 'end' : 'data', source.id, length)
      size += HEAD_BYTES + length
      // At the end, after the others.
      if (source.canSend()) this.#sources.add(source)
    }
    return size
  }
}
