const FIRST_BYTES = 512
const MAX_BYTES = 65_536

/** Bytes that wait for a reader. Many small pieces share a buffer, so that they take little more than their bytes. */
export class ByteQueue {
  readonly #buffers: Buffer[] = []
  /** How many bytes of the last buffer are used; all of the others are. */
  #used = 0
  #length = 0

  /** The number of bytes. */
  get length(): number {
    return this.#length
  }

  /** Copies bytes to the end of the queue. */
  append(bytes: Buffer): void {
    const last = this.#buffers.at(-1)
    const copied = last === undefined ? 0 : bytes.copy(last, this.#used)
    this.#used += copied
    if (copied < bytes.length) {
      const left = bytes.length - copied
      // Twice what waits, so that the number of buffers grows slowly, and so does what they hold unused.
      const size = Math.max(left, Math.min(MAX_BYTES, Math.max(FIRST_BYTES, this.#length)))
      const buffer = Buffer.allocUnsafeSlow(size)
      bytes.copy(buffer, 0, copied)
      this.#buffers.push(buffer)
      this.#used = left
    }
    this.#length += bytes.length
  }

  /** Takes the first bytes; undefined when there are none. */
  shift(): Buffer | undefined {
    const buffer = this.#buffers.shift()
    if (buffer === undefined) return undefined
    const bytes = this.#buffers.length === 0 ? buffer.subarray(0, this.#used) : buffer
    this.#length -= bytes.length
    return bytes
  }

  clear(): void {
    this.#buffers.length = 0
    this.#length = 0
  }
}
