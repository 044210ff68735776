import type { Writable } from 'node:stream'

const SLAB_BYTES = 128 * 1024
const MOST_SPARE = 16
/** With so much waiting for a write that is under way, nothing more is taken. */
const FULL_BYTES = 64 * 1024
/** What fills a TLS record comes in a row, and is worth waiting for the rest of it. */
const RECORD_BYTES = 16 * 1024

const spare: Buffer[] = []

/**
 * Copies small pieces together and writes them at once: fewer, larger writes are what makes a pump fast. The memory is
 * used again.
 */
export class Batch {
  readonly #to: Writable
  readonly #onRoom: () => void
  #slab: Buffer | undefined
  #size = 0
  #isWriting = false
  #isFull = false
  #scheduled: NodeJS.Immediate | undefined
  #onFlushed: (() => void) | undefined

  /** @param onRoom - called when `add` has said that it is full, and is not any more */
  constructor(to: Writable, onRoom: () => void) {
    this.#to = to
    this.#onRoom = onRoom
  }

  /** Takes a copy; returns whether there is room for more. */
  add(bytes: Buffer): boolean {
    if (this.#size + bytes.length > SLAB_BYTES) this.#overflow(bytes)
    else {
      this.#slab ??= spare.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES)
      bytes.copy(this.#slab, this.#size)
      this.#size += bytes.length
    }
    if (!this.#isWriting) {
      if (bytes.length < RECORD_BYTES || this.#size > FULL_BYTES) this.#flush()
      else this.#scheduled ??= setImmediate(this.#flush)
    }
    this.#isFull = this.#isWriting && this.#size >= FULL_BYTES
    return !this.#isFull
  }

  /** Calls back when all that was added has been passed on. */
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
    const bytes = slab.subarray(0, this.#size)
    this.#slab = undefined
    this.#size = 0
    this.#isWriting = true
    this.#to.write(bytes, (error) => {
      // Whoever has given it the bytes hears of it by its close; nothing more is asked for in the meantime.
      if (error) return
      if (slab.length === SLAB_BYTES && spare.length < MOST_SPARE) spare.push(slab)
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

  /** More than was asked for: what was read already cannot be refused. */
  #overflow(bytes: Buffer): void {
    const grown = Buffer.allocUnsafeSlow(this.#size + bytes.length + SLAB_BYTES)
    this.#slab?.copy(grown, 0, 0, this.#size)
    bytes.copy(grown, this.#size)
    this.#slab = grown
    this.#size += bytes.length
  }
}
