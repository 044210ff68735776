/**
 * The frames of a multiplexed session. Each has a head of 8 bytes, all numbers big-endian:
 *
 * ```text
 * stream (4)   type (1)   length of the payload (3)   payload
 * ```
 *
 * Stream 0 is the session itself. A type with the high bit set is an extension, which a receiver skips.
 */
const FRAME_TYPES = {
  /** Bytes of a stream. */
  data: 0,
  /** The dialing end opens a stream. */
  open: 1,
  /** The sender sends no more bytes of the stream. */
  end: 2,
  /** Both directions of a stream end at once. Payload: a code of `RESET_CODES` (4). */
  reset: 3,
  /** The receiver of a stream accepts more bytes. Payload: how many (4). */
  window: 4,
  /** The sender accepts no more streams. Payload: the last stream that it has accepted (4), a code of `GOAWAY_CODES` (4). */
  goaway: 5,
  /** Asks for a sign of life. Payload: any (8). */
  ping: 6,
  /** Answers a ping with its payload. */
  pong: 7,
  /** The first frame of each end. Payload: pairs of an identifier of `SETTING_IDS` (2) and its value (4). */
  settings: 8,
  /** The accepting end has authorized a stream. */
  accept: 9,
} as const

export type FrameType = keyof typeof FRAME_TYPES

/** Why a stream was reset. */
export const RESET_CODES = {
  /** Its application has destroyed it. */
  cancel: 1,
  /** The peer is not authorized. */
  denied: 2,
  /** It was not accepted, and can be opened in another session. */
  refused: 3,
  /** The peer is no longer authorized or trusted. */
  revoked: 4,
  /** Its application has closed it after the last byte. */
  closed: 5,
} as const

/** Why a session ends. */
export const GOAWAY_CODES = {
  /** Its streams go on, and new ones belong to another session. */
  drain: 0,
  /** A frame against the rules. */
  protocol: 1,
  /** More bytes than the receiver had accepted. */
  window: 2,
  /** Too many frames without a purpose. */
  flood: 3,
  /** No sign of life. */
  timeout: 4,
} as const

export type GoawayReason = keyof typeof GOAWAY_CODES

const SETTING_IDS = { version: 1, maxFrameBytes: 2, windowBytes: 3, maxStreams: 4 } as const

/** The settings of one end. */
export type MuxSettings = Readonly<Record<keyof typeof SETTING_IDS, number>>

export const HEAD_BYTES = 8
export const MAX_STREAM_ID = 0x7fff_ffff
/** What every receiver accepts: a stream can send this before the settings of its peer have arrived. */
export const LEAST: MuxSettings = { version: 1, maxFrameBytes: 16_384, windowBytes: 65_536, maxStreams: 1 }

/** Upper bound on a payload that is kept until it is complete. */
const MAX_CONTROL_BYTES = 256

/** The peer has broken a rule of the protocol, or is silent: the session ends. */
export class MuxError extends Error {
  readonly reason: GoawayReason

  constructor(reason: GoawayReason, message: string) {
    super(message)
    this.reason = reason
  }
}

/** Receives the frames of a peer. Payloads are valid only during the call. */
export interface FrameHandler {
  /** Called for each part of the payload of a data frame as it arrives, and once for an empty one. */
  data(stream: number, bytes: Buffer): void
  open(stream: number): void
  accept(stream: number): void
  end(stream: number): void
  reset(stream: number, code: number): void
  window(stream: number, bytes: number): void
  goaway(lastStream: number, code: number): void
  ping(payload: Buffer): void
  pong(payload: Buffer): void
  settings(settings: MuxSettings): void
}

/** The length of the payload, by type; undefined for those that vary. */
const LENGTHS: readonly (number | undefined)[] = [undefined, 0, 0, 4, 4, 8, 8, 8, undefined, 0]
/** The types of frames of the session itself. */
const OF_SESSION: readonly number[] = [
  FRAME_TYPES.goaway,
  FRAME_TYPES.ping,
  FRAME_TYPES.pong,
  FRAME_TYPES.settings,
]

/** Reads frames from chunks of any size. Data is passed on as it arrives; only short payloads are kept. */
export class FrameReader {
  readonly #handler: FrameHandler
  readonly #maxFrameBytes: number
  readonly #head = Buffer.alloc(HEAD_BYTES)
  readonly #payload = Buffer.alloc(MAX_CONTROL_BYTES)
  /** How many bytes of the head are there. */
  #headBytes = 0
  #stream = 0
  #type = 0
  /** How many bytes of the payload are missing. */
  #missing = 0
  /** How many bytes of a payload are kept. */
  #kept = 0
  #hasSettings = false
  #isStopped = false

  /** @param maxFrameBytes - the longest payload that was announced to the peer */
  constructor(handler: FrameHandler, maxFrameBytes: number) {
    this.#handler = handler
    this.#maxFrameBytes = maxFrameBytes
  }

  /** Ignores all that follows, also in the chunk that is being read. */
  stop(): void {
    this.#isStopped = true
  }

  /** @throws MuxError */
  read(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length && !this.#isStopped) {
      if (this.#headBytes < HEAD_BYTES) {
        if (this.#headBytes === 0 && chunk.length - at >= HEAD_BYTES) {
          this.#headBytes = HEAD_BYTES
          this.#begin(chunk, at)
          at += HEAD_BYTES
        } else {
          const taken = chunk.copy(this.#head, this.#headBytes, at, at + HEAD_BYTES - this.#headBytes)
          this.#headBytes += taken
          at += taken
          if (this.#headBytes < HEAD_BYTES) return
          this.#begin(this.#head, 0)
        }
        if (this.#missing === 0) this.#finish(EMPTY)
        continue
      }
      const part = at === 0 && chunk.length <= this.#missing ? chunk : chunk.subarray(at, at + this.#missing)
      at += part.length
      this.#missing -= part.length
      if (this.#type === FRAME_TYPES.data) {
        if (this.#missing === 0) this.#headBytes = 0
        this.#handler.data(this.#stream, part)
      } else if (isExtension(this.#type)) {
        if (this.#missing === 0) this.#headBytes = 0
      } else if (this.#kept === 0 && this.#missing === 0) this.#finish(part)
      else {
        part.copy(this.#payload, this.#kept)
        this.#kept += part.length
        if (this.#missing === 0) this.#finish(this.#payload.subarray(0, this.#kept))
      }
    }
  }

  /** Checks a complete head. */
  #begin(head: Buffer, at: number): void {
    const stream = head.readUInt32BE(at)
    const type = head.readUInt8(at + 4)
    const length = head.readUIntBE(at + 5, 3)
    this.#stream = stream
    this.#type = type
    this.#missing = length
    this.#kept = 0
    if (length > this.#maxFrameBytes) throw broken(`a frame of ${length} bytes`)
    if (!this.#hasSettings && type !== FRAME_TYPES.settings) throw broken(`a first frame of type ${type}`)
    if (isExtension(type)) return
    if (type > FRAME_TYPES.accept) throw broken(`a frame of the unknown type ${type}`)
    if (stream > MAX_STREAM_ID || OF_SESSION.includes(type) !== (stream === 0))
      throw broken(`a frame of type ${type} for stream ${stream}`)
    if (type === FRAME_TYPES.data) return
    const expected = LENGTHS[type]
    const isRight =
      expected === undefined ? length % 6 === 0 && length <= MAX_CONTROL_BYTES : length === expected
    if (!isRight) throw broken(`a frame of type ${type} with ${length} bytes`)
  }

  #finish(payload: Buffer): void {
    this.#headBytes = 0
    const handler = this.#handler
    const stream = this.#stream
    switch (this.#type) {
      case FRAME_TYPES.data:
        handler.data(stream, payload)
        return
      case FRAME_TYPES.open:
        handler.open(stream)
        return
      case FRAME_TYPES.accept:
        handler.accept(stream)
        return
      case FRAME_TYPES.end:
        handler.end(stream)
        return
      case FRAME_TYPES.reset:
        handler.reset(stream, payload.readUInt32BE(0))
        return
      case FRAME_TYPES.window:
        handler.window(stream, payload.readUInt32BE(0))
        return
      case FRAME_TYPES.goaway:
        handler.goaway(payload.readUInt32BE(0), payload.readUInt32BE(4))
        return
      case FRAME_TYPES.ping:
        handler.ping(payload)
        return
      case FRAME_TYPES.pong:
        handler.pong(payload)
        return
      case FRAME_TYPES.settings:
        if (this.#hasSettings) throw broken('settings for the second time')
        this.#hasSettings = true
        handler.settings(parseSettings(payload))
    }
  }
}

const EMPTY = Buffer.alloc(0)

function isExtension(type: number): boolean {
  return type >= 0x80
}

function broken(found: string): MuxError {
  return new MuxError('protocol', `the peer has sent ${found}`)
}

/** Reads settings. Unknown ones are skipped, and missing ones have the least value. */
function parseSettings(payload: Buffer): MuxSettings {
  const settings: Record<keyof MuxSettings, number> = { ...LEAST }
  for (let at = 0; at < payload.length; at += 6) {
    const id = payload.readUInt16BE(at)
    const value = payload.readUInt32BE(at + 2)
    const name = SETTING_NAMES.find((each) => SETTING_IDS[each] === id)
    if (name === undefined) continue
    if (value < LEAST[name] || value > MAX_STREAM_ID) throw broken(`${value} as the setting ${name}`)
    settings[name] = value
  }
  return settings
}

const SETTING_NAMES = Object.keys(SETTING_IDS) as (keyof MuxSettings)[]

/** Writes the head of a frame, whose payload follows. */
export function writeHead(target: Buffer, at: number, type: FrameType, stream: number, length: number): void {
  target.writeUInt32BE(stream, at)
  target.writeUInt32BE(FRAME_TYPES[type] * 0x100_0000 + length, at + 4)
}

/** A frame whose payload is a list of numbers of 4 bytes. */
export function controlFrame(type: FrameType, stream: number, ...numbers: readonly number[]): Buffer {
  const frame = Buffer.allocUnsafe(HEAD_BYTES + 4 * numbers.length)
  writeHead(frame, 0, type, stream, 4 * numbers.length)
  for (const [i, number] of numbers.entries()) frame.writeUInt32BE(number, HEAD_BYTES + 4 * i)
  return frame
}

export function dataFrame(stream: number, bytes: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(HEAD_BYTES + bytes.length)
  writeHead(frame, 0, 'data', stream, bytes.length)
  bytes.copy(frame, HEAD_BYTES)
  return frame
}

/** A ping, or its answer. */
export function pingFrame(type: 'ping' | 'pong', payload: Buffer): Buffer {
  return controlFrame(type, 0, payload.readUInt32BE(0), payload.readUInt32BE(4))
}

export function settingsFrame(settings: MuxSettings): Buffer {
  const frame = Buffer.allocUnsafe(HEAD_BYTES + 6 * SETTING_NAMES.length)
  writeHead(frame, 0, 'settings', 0, 6 * SETTING_NAMES.length)
  for (const [i, name] of SETTING_NAMES.entries()) {
    frame.writeUInt16BE(SETTING_IDS[name], HEAD_BYTES + 6 * i)
    frame.writeUInt32BE(settings[name], HEAD_BYTES + 6 * i + 2)
  }
  return frame
}
