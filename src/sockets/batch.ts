import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { LendingDuplex } from './buffered-reads.js'
import { HEAD_ROOM, SLAB_BYTES, returnSlab, takeSlab } from './slabs.js'

/** `add` asks for a pause when this many bytes wait behind a pending write. */
const FULL_BYTES = 64 * 1024
/** So few bytes are copied, so that many connections that wait for small writes do not hold a slab each. */
const SMALL_BYTES = 4 * 1024
/** A piece of this size or more is usually followed by another in the same turn, which is worth waiting for. */
const RECORD_BYTES = 8 * 1024

/** Collects small pieces in a reused buffer and writes them together: fewer, larger writes make a pump fast. */
export class Batch {
  readonly #destination: Writable
  readonly #onRoom: () => void
  /** Whether the destination is done with bytes when it calls back. Other streams may pass them on by reference. */
  readonly #returnsSlabs: boolean
  #slab: Buffer | undefined
  #size = 0
  #isWriting = false
  #isFull = false
  #scheduled: NodeJS.Immediate | undefined
  #onFlushed: (() => void) | undefined

  /** @param onRoom - called when there is room again after `add` has returned false */
  constructor(destination: Writable, onRoom: () => void) {
    this.#destination = destination
    this.#onRoom = onRoom
    this.#returnsSlabs = destination instanceof Socket || destination instanceof LendingDuplex
  }

  /** Copies bytes into the batch. @returns whether there is room for more */
  add(bytes: Buffer): boolean {
    if (HEAD_ROOM + this.#size + bytes.length > SLAB_BYTES) this.#overflow(bytes)
    else {
      this.#slab ??= this.#returnsSlabs ? takeSlab() : Buffer.allocUnsafeSlow(SLAB_BYTES)
      bytes.copy(this.#slab, HEAD_ROOM + this.#size)
      this.#size += bytes.length
    }
    if (!this.#isWriting) {
      if (bytes.length < RECORD_BYTES || this.#size > FULL_BYTES) this.#flush()
      else this.#scheduled ??= setImmediate(this.#flush)
    }
    this.#isFull = this.#isWriting && this.#size >= FULL_BYTES
    return !this.#isFull
  }

  /** Calls back when all bytes have been written. */
  end(callback: () => void): void {
    this.#onFlushed = callback
    if (!this.#isWriting) this.#flush()
    if (!this.#isWriting) callback()
  }

  readonly #flush = (): void => {
    clearImmediate(this.#scheduled)
    this.#scheduled = undefined
    const slab = this.#slab
    if (this.#isWriting || slab === undefined) return
    const filled = slab.subarray(HEAD_ROOM, HEAD_ROOM + this.#size)
    const isSmall = this.#size <= SMALL_BYTES
    const bytes = isSmall ? Buffer.from(filled) : filled
    if (isSmall) returnSlab(slab)
    this.#slab = undefined
    this.#size = 0
    this.#isWriting = true
    this.#destination.write(bytes, (error) => {
      // The `close` event of the destination reports the error. No more bytes are requested until then.
      if (error) return
      if (!isSmall && this.#returnsSlabs) returnSlab(slab)
      this.#written()
    })
  }

  #written(): void {
    this.#isWriting = false
    if (this.#slab !== undefined) this.#flush()
    else if (this.#onFlushed !== undefined) this.#onFlushed()
    if (!this.#isFull || this.#size >= FULL_BYTES) return
    this.#isFull = false
    this.#onRoom()
  }

  /** Grows the buffer: bytes that were read already cannot be refused. */
  #overflow(bytes: Buffer): void {
    const grown = Buffer.allocUnsafeSlow(this.#size + bytes.length + SLAB_BYTES)
    this.#slab?.copy(grown, HEAD_ROOM, HEAD_ROOM, HEAD_ROOM + this.#size)
    bytes.copy(grown, HEAD_ROOM + this.#size)
    this.#slab = grown
    this.#size += bytes.length
  }
}
