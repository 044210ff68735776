/** Types whose data is names, which may be compressed (RFC 1035, 4.1.4). The target of an SRV may not (RFC 2782). */
const namesInData: Record<number, number> = { 2: 1, 5: 1, 6: 2, 12: 1 }
const srv = 33
const headerBytes = 12
const maxPointer = 0x3fff

/** Replaces each name that stood before, or its end, by a pointer. The message must be well-formed and without any. */
export function compress(message: Buffer): Buffer {
  const compressor = new Compressor(message)
  const [questions = 0, ...records] = [4, 6, 8, 10].map((offset) => message.readUInt16BE(offset))
  for (let i = 0; i < questions; i++) compressor.question()
  const total = records.reduce((sum, count) => sum + count, 0)
  for (let i = 0; i < total; i++) compressor.record()
  return compressor.result()
}

class Compressor {
  readonly #message: Buffer
  readonly #chunks: Buffer[]
  readonly #offsets = new Map<string, number>()
  #read = headerBytes
  #written = headerBytes

  constructor(message: Buffer) {
    this.#message = message
    this.#chunks = [message.subarray(0, headerBytes)]
  }

  result(): Buffer {
    return Buffer.concat(this.#chunks)
  }

  question(): void {
    this.#name(true)
    this.#copy(4)
  }

  record(): void {
    this.#name(true)
    const type = this.#message.readUInt16BE(this.#read)
    this.#copy(8)
    const length = this.#message.readUInt16BE(this.#read)
    const end = this.#read + 2 + length
    const lengthField = Buffer.alloc(2)
    this.#read += 2
    this.#write(lengthField)
    const start = this.#written
    for (let names = namesInData[type] ?? 0; names > 0; names--) this.#name(true)
    if (type === srv) {
      this.#copy(6)
      this.#name(false)
    }
    this.#copy(end - this.#read)
    lengthField.writeUInt16BE(this.#written - start)
  }

  /** Every name can be pointed to later, also one that is itself written in full. */
  #name(mayPoint: boolean): void {
    const labels = this.#labels()
    for (const [index, label] of labels.entries()) {
      const rest = labels.slice(index).join('.')
      const known = this.#offsets.get(rest)
      if (known !== undefined && mayPoint) {
        const pointer = Buffer.alloc(2)
        pointer.writeUInt16BE(0xc000 | known)
        this.#write(pointer)
        return
      }
      if (known === undefined && this.#written <= maxPointer) this.#offsets.set(rest, this.#written)
      this.#write(Buffer.from([label.length]), Buffer.from(label, 'latin1'))
    }
    this.#write(Buffer.alloc(1))
  }

  #labels(): string[] {
    const labels: string[] = []
    for (let length = this.#byte(); length > 0; length = this.#byte()) {
      labels.push(this.#message.toString('latin1', this.#read, this.#read + length))
      this.#read += length
    }
    return labels
  }

  #byte(): number {
    const byte = this.#message.readUInt8(this.#read)
    this.#read++
    return byte
  }

  #copy(bytes: number): void {
    this.#write(this.#message.subarray(this.#read, this.#read + bytes))
    this.#read += bytes
  }

  #write(...chunks: Buffer[]): void {
    for (const chunk of chunks) {
      this.#chunks.push(chunk)
      this.#written += chunk.length
    }
  }
}
