import type { Writable } from 'node:stream'
import { callSafely } from '../../base/emit-safely.js'
import { SLAB_BYTES, returnSlab, takeSlab } from '../../sockets/slabs.js'
import { HEAD_BYTES, LEAST, writeHead } from './frames.js'

/** The most bytes of one stream in a frame, while other streams wait and while none does. */
const SHARED_BYTES = 16_384
const ALONE_BYTES = 65_536
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
    const slab = takeSlab()
    const written: (() => void)[] = []
    const size = this.#copyStreams(slab, this.#copyWaiting(slab), written)
    if (size === 0) {
      returnSlab(slab)
      return
    }
    this.#isWriting = true
    this.#socket.write(slab.subarray(0, size), (error) => {
      this.#isWriting = false
      // The session ends with an error.
      if (error) return
      returnSlab(slab)
      for (const call of written) callSafely(call)
      if (this.#hasFrames) this.#schedule()
      else this.#onFlushed()
    })
  }

  #copyWaiting(slab: Buffer): number {
    let size = 0
    let count = 0
    for (const frame of this.#waiting) {
      if (size + frame.length > slab.length) break
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
      const share = this.#sources.size > 0 ? SHARED_BYTES : ALONE_BYTES
      const maxBytes = Math.min(room, share, this.maxFrameBytes)
      const length = source.copyTo(slab, size + HEAD_BYTES, maxBytes, written)
      writeHead(slab, size, length === 0 ? 'end' : 'data', source.id, length)
      size += HEAD_BYTES + length
      // At the end, after the others.
      if (source.canSend()) this.#sources.add(source)
    }
    return size
  }
}
