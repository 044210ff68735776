import type { Socket } from 'node:net'

const HANDSHAKE_RECORD = 22
const CLIENT_HELLO = 1
const ALPN_EXTENSION = 16
const RECORD_HEAD = 5
const MESSAGE_HEAD = 4
/** The largest payload of a record (RFC 8446, section 5.1). */
const MAX_RECORD_BYTES = 16_384
/** Clients send one; more would cost time before they are known. */
const MAX_RECORDS = 64
/** A longer message is not read: OpenSSL decides about it. */
const MAX_HELLO_BYTES = 32_768

/**
 * Returns the ALPN protocols that a client offers in its first message (RFC 8446, section 4.1.2; RFC 7301), none if that
 * cannot be read: OpenSSL reads it again, and refuses what is wrong.
 * @param bytes - the first bytes of the client
 * @returns undefined if more bytes are needed
 */
export function offeredProtocols(bytes: Buffer): readonly string[] | undefined {
  const hello = messageOf(bytes)
  if (hello === undefined) return undefined
  try {
    return protocolsOf(new Cursor(hello))
  } catch {
    return []
  }
}

/**
 * Reads the ClientHello of an accepted connection, puts it back, and calls back with the ALPN protocols that it offers. For a
 * client that ends first, there are none, and the TLS server reports it.
 */
export function onceOffered(socket: Socket, callback: (protocols: readonly string[]) => void): void {
  const read: Buffer[] = []
  const finish = (protocols: readonly string[]): void => {
    socket.off('readable', onReadable).off('end', onEnd)
    if (read.length > 0) socket.unshift(Buffer.concat(read))
    callback(protocols)
  }
  const onReadable = (): void => {
    const chunk = socket.read() as Buffer | null
    if (chunk === null) return
    read.push(chunk)
    const protocols = offeredProtocols(Buffer.concat(read))
    if (protocols !== undefined) finish(protocols)
  }
  const onEnd = (): void => {
    finish([])
  }
  // There is no other listener until the socket is in TLS.
  socket.on('error', () => undefined)
  socket.on('readable', onReadable).once('end', onEnd)
}

/** Joins the records of the first message, without its head. @returns undefined if more bytes are needed */
function messageOf(bytes: Buffer): Buffer | undefined {
  const parts: Buffer[] = []
  let at = 0
  let joined = 0
  let wanted = MESSAGE_HEAD
  while (joined < wanted) {
    if (parts.length === MAX_RECORDS) return NOTHING
    if (at < bytes.length && bytes[at] !== HANDSHAKE_RECORD) return NOTHING
    if (bytes.length < at + RECORD_HEAD) return undefined
    const length = bytes.readUInt16BE(at + 3)
    if (length === 0 || length > MAX_RECORD_BYTES) return NOTHING
    const end = at + RECORD_HEAD + length
    if (bytes.length < end) return undefined
    parts.push(bytes.subarray(at + RECORD_HEAD, end))
    at = end
    joined += length
    if (wanted > MESSAGE_HEAD || joined < MESSAGE_HEAD) continue
    const head = Buffer.concat(parts)
    wanted = MESSAGE_HEAD + head.readUIntBE(1, 3)
    if (head[0] !== CLIENT_HELLO || wanted > MAX_HELLO_BYTES) return NOTHING
  }
  return Buffer.concat(parts).subarray(MESSAGE_HEAD, wanted)
}

const NOTHING = Buffer.alloc(0)

/** @throws RangeError for a message that ends too early */
function protocolsOf(hello: Cursor): string[] {
  // Version and random.
  hello.take(2 + 32)
  // Session, ciphers, and compression.
  hello.take(hello.number(1))
  hello.take(hello.number(2))
  hello.take(hello.number(1))
  const extensions = new Cursor(hello.take(hello.number(2)))
  while (!extensions.isAtEnd) {
    const type = extensions.number(2)
    const content = extensions.take(extensions.number(2))
    if (type !== ALPN_EXTENSION) continue
    const outer = new Cursor(content)
    const list = new Cursor(outer.take(outer.number(2)))
    const names: string[] = []
    while (!list.isAtEnd) names.push(list.take(list.number(1)).toString('latin1'))
    return names
  }
  return []
}

/** Reads bytes in order. */
class Cursor {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  /** @throws RangeError */
  number(bytes: 1 | 2): number {
    const number = this.#bytes.readUIntBE(this.#at, bytes)
    this.#at += bytes
    return number
  }

  /** @throws RangeError */
  take(length: number): Buffer {
    const taken = this.#bytes.subarray(this.#at, this.#at + length)
    if (taken.length < length) throw new RangeError('the message ends too early')
    this.#at += length
    return taken
  }
}
