import type { Duplex } from 'node:stream'
import type { Clock } from '../../base/clock.js'
import { toError } from '../../base/errors.js'
import { TokenBucket } from '../../base/token-bucket.js'
import { resetError } from '../../sockets/network-errors.js'
import {
  type FrameHandler,
  FrameReader,
  GOAWAY_CODES,
  type GoawayReason,
  HEAD_BYTES,
  LEAST,
  MAX_STREAM_ID,
  MuxError,
  type MuxSettings,
  RESET_CODES,
  controlFrame,
  frameHead,
  pingFrame,
  settingsFrame,
} from './frames.js'
import { MuxStream, type StreamAddresses, type StreamSession } from './stream.js'

/** The connection of a session. */
export type SessionSocket = Duplex & StreamAddresses & { ref?(): unknown; unref?(): unknown }

export interface SessionOptions {
  readonly settings: MuxSettings
  readonly clock: Clock
  /** Called for each stream that the peer opens. @default the peer must not open any */
  readonly onStream?: (stream: MuxStream) => void
  /** Called when the last stream has ended. */
  readonly onIdle?: () => void
  /** Called when the session has ended. @param error - undefined after an orderly drain */
  readonly onEnded?: (error: Error | undefined) => void
}

/** The ALPN protocol of a session. */
export const ALPN_NAME = 'consul-connect-mux/1'

/** What this version announces. */
export const OWN_SETTINGS: MuxSettings = {
  version: 1,
  maxFrameBytes: 65_536,
  windowBytes: 262_144,
  maxStreams: 1_000,
}

/** How long a session may be silent before it is asked for a sign of life, in milliseconds. */
const SILENCE_MS = 15_000
/** How long the answer may take. */
const ANSWER_MS = 10_000
/** How many frames that carry nothing a peer may send; streams that end in order make up for them. */
const USELESS = { burst: 1_000, perSecond: 10 }
/** How many of its own streams a peer may reset. */
const RESETS = { burst: 10_000, perSecond: 2_000 }
/** How many frames may wait for a peer that does not read. */
const MAX_WAITING_FRAMES = 10_000
/** How many bytes are handed to the connection before it has written them. */
const MAX_WAITING_BYTES = 262_144
/** The longest payload that is sent: others wait for it. */
const MAX_SENT_BYTES = 65_536 - HEAD_BYTES
/** How long a session waits for the peer to close it, in milliseconds. */
const ENDING_MS = 5_000

/** The session accepts no more streams, or the peer has refused one: it can be opened in another session. */
export class StreamRefusedError extends Error {}

/**
 * Many connections over one. Streams are independent: a slow one stops neither the others nor the reading of frames. One
 * end opens all streams, the dialing one.
 */
export class MuxSession implements StreamSession {
  readonly #socket: SessionSocket
  readonly #options: SessionOptions
  readonly #reader: FrameReader
  readonly #streams = new Map<number, MuxStream>()
  /** The streams that have bytes or an end to send, in the order of their turns. */
  readonly #sending = new Set<MuxStream>()
  /** The streams whose peer is to be told that it may send more. */
  readonly #granting = new Set<MuxStream>()
  readonly #control: Buffer[] = []
  #pong: Buffer | undefined
  #peer: MuxSettings | undefined
  #lastStream = 0
  readonly #useless: TokenBucket
  readonly #resets: TokenBucket
  #referenced = 0
  #isFlushScheduled = false
  #isDraining = false
  #isEnded = false
  /** Whether a byte has arrived since the last look. */
  #hasHeard = false
  #cancelSilence: () => void = () => undefined

  constructor(socket: SessionSocket, options: SessionOptions) {
    this.#socket = socket
    this.#options = options
    this.#reader = new FrameReader(this.#frames, options.settings.maxFrameBytes)
    this.#useless = new TokenBucket(options.clock, USELESS)
    this.#resets = new TokenBucket(options.clock, RESETS)
    socket.on('data', this.#onData)
    socket.on('drain', () => {
      this.#schedule()
    })
    socket.on('error', (error) => {
      this.#end(error)
    })
    socket.once('end', () => {
      this.#end(this.#isDrained ? undefined : resetError('the peer has closed the session of the connection'))
    })
    socket.once('close', () => {
      this.#end(this.#isDrained ? undefined : resetError('the session of the connection was cut'))
    })
    this.#queue(settingsFrame(options.settings))
    this.#watchSilence()
    socket.unref?.()
  }

  get addresses(): StreamAddresses {
    return this.#socket
  }

  /** The number of open streams. */
  get size(): number {
    return this.#streams.size
  }

  /** Whether a stream can be opened. Until the settings of the peer are known, it may refuse some. */
  get hasRoom(): boolean {
    const { maxStreams } = this.#peer ?? this.#options.settings
    return (
      !this.#isEnded &&
      !this.#isDraining &&
      this.#streams.size < maxStreams &&
      this.#lastStream < MAX_STREAM_ID
    )
  }

  get isEnded(): boolean {
    return this.#isEnded
  }

  /** @throws StreamRefusedError */
  open(allowHalfOpen: boolean): MuxStream {
    if (!this.hasRoom) throw new StreamRefusedError('the session accepts no more streams')
    this.#lastStream += 1
    const stream = this.#add(this.#lastStream, allowHalfOpen)
    this.#queue(controlFrame('open', stream.id))
    return stream
  }

  /** Opens and accepts no more streams. The session ends with the last one. */
  drain(): void {
    if (this.#isDraining || this.#isEnded) return
    this.#queue(controlFrame('goaway', 0, this.#lastStream, GOAWAY_CODES.drain))
    this.#beginDrain()
  }

  /** Ends the session and its streams, with an error. */
  destroy(error: Error = resetError('the session of the connection was closed')): void {
    this.#end(error)
  }

  /** Tells the peer that a stream which it has opened is authorized. */
  accept(stream: MuxStream): void {
    if (stream.destroyed) return
    stream.accepted()
    this.#queue(controlFrame('accept', stream.id))
  }

  ready(stream: MuxStream): void {
    if (this.#isEnded || !stream.canSend) return
    this.#sending.add(stream)
    this.#schedule()
  }

  taken(stream: MuxStream): void {
    if (!this.#isGrantDue(stream)) return
    this.#granting.add(stream)
    this.#schedule()
  }

  closed(stream: MuxStream, resetCode: number | undefined): void {
    if (this.#streams.get(stream.id) !== stream) return
    this.#streams.delete(stream.id)
    this.#sending.delete(stream)
    this.#granting.delete(stream)
    if (stream.isReferenced) this.#count(false)
    if (this.#isEnded) return
    if (resetCode !== undefined) this.#queue(controlFrame('reset', stream.id, resetCode))
    else if (stream.hasEnded) this.#useless.giveBack()
    this.#endIfDrained()
    if (this.#streams.size === 0) this.#options.onIdle?.()
  }

  referenced(stream: MuxStream, isReferenced: boolean): void {
    if (this.#streams.get(stream.id) === stream) this.#count(isReferenced)
  }

  #count(isReferenced: boolean): void {
    this.#referenced += isReferenced ? 1 : -1
    if (this.#referenced === 0) this.#socket.unref?.()
    else if (isReferenced && this.#referenced === 1) this.#socket.ref?.()
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#hasHeard = true
    try {
      this.#reader.read(chunk)
    } catch (error) {
      this.#refuse(error instanceof MuxError ? error : new MuxError('protocol', toError(error).message))
    }
  }

  readonly #frames: FrameHandler = {
    settings: (settings) => {
      this.#peer = settings
      const more = settings.windowBytes - LEAST.windowBytes
      for (const stream of this.#streams.values()) this.#addCredit(stream, more)
    },
    open: (id) => {
      const { onStream, settings } = this.#options
      if (onStream === undefined) throw new MuxError('protocol', `the peer has opened stream ${id}`)
      if (id <= this.#lastStream) throw new MuxError('protocol', `the peer has opened stream ${id} again`)
      if (this.#isDraining) {
        this.#wasUseless()
        return
      }
      this.#lastStream = id
      if (this.#streams.size >= settings.maxStreams) {
        this.#queue(controlFrame('reset', id, RESET_CODES.refused))
        this.#wasUseless()
        return
      }
      const stream = this.#add(id, false)
      guarded(() => {
        onStream(stream)
      })
    },
    accept: (id) => {
      if (this.#options.onStream !== undefined)
        throw new MuxError('protocol', `the peer has accepted stream ${id}`)
      const stream = this.#find(id)
      if (stream?.isAccepted === true)
        throw new MuxError('protocol', `the peer has accepted stream ${id} twice`)
      stream?.accepted()
    },
    data: (id, bytes) => {
      const stream = this.#find(id)
      if (bytes.length === 0) this.#wasUseless()
      // The peer did not know yet that the stream has ended here.
      if (stream === undefined || bytes.length === 0) return
      if (stream.hasEnded)
        throw new MuxError('protocol', `the peer has sent bytes after the end of stream ${id}`)
      stream.allowance -= bytes.length
      if (stream.allowance < 0)
        throw new MuxError('window', `the peer has sent more bytes of stream ${id} than were accepted`)
      guarded(() => {
        stream.receive(bytes)
      })
    },
    end: (id) => {
      const stream = this.#find(id)
      if (stream === undefined) {
        this.#wasUseless()
        return
      }
      if (stream.hasEnded) throw new MuxError('protocol', `the peer has ended stream ${id} twice`)
      guarded(() => {
        stream.receiveEnd()
      })
    },
    reset: (id, code) => {
      const stream = this.#find(id)
      if (stream === undefined) {
        this.#wasUseless()
        return
      }
      // The accepting end decides how often it resets what this end opens.
      if (this.#options.onStream !== undefined) {
        if (stream.bytesRead + stream.bytesWritten === 0) this.#wasUseless()
        if (!this.#resets.tryTake()) throw new MuxError('flood', 'the peer has reset too many streams')
      }
      // As with a connection of its own, which is open before the peer has decided.
      if (code === RESET_CODES.denied && !stream.isAccepted) stream.accepted()
      stream.break(resetOf(code))
    },
    window: (id, bytes) => {
      const stream = this.#find(id)
      // A stream may have ended while the frame was on its way.
      if (bytes === 0 || stream === undefined) this.#wasUseless()
      if (stream !== undefined) this.#addCredit(stream, bytes)
    },
    goaway: (lastStream, code) => {
      this.#wasUseless()
      if (code !== GOAWAY_CODES.drain) {
        this.#end(resetError(`the peer has ended the session of the connection (${reasonOf(code)})`))
        return
      }
      // They were not accepted.
      if (this.#options.onStream === undefined) {
        for (const stream of [...this.#streams.values()])
          if (stream.id > lastStream) stream.break(new StreamRefusedError('the peer accepts no more streams'))
      }
      this.#beginDrain()
    },
    ping: (payload) => {
      this.#wasUseless()
      // The latest one answers for those before it.
      this.#pong = pingFrame('pong', payload)
      this.#schedule()
    },
    pong: () => {
      this.#wasUseless()
    },
  }

  /** Returns an open stream; undefined if it has ended, or was not accepted. */
  #find(id: number): MuxStream | undefined {
    if (id > this.#lastStream && !this.#isDraining)
      throw new MuxError('protocol', `the peer has sent a frame of stream ${id}, which was not opened`)
    return this.#streams.get(id)
  }

  #add(id: number, allowHalfOpen: boolean): MuxStream {
    const stream = new MuxStream(id, this, {
      allowHalfOpen,
      credit: (this.#peer ?? LEAST).windowBytes,
      allowance: this.#options.settings.windowBytes,
    })
    this.#streams.set(id, stream)
    this.#count(true)
    return stream
  }

  #addCredit(stream: MuxStream, bytes: number): void {
    stream.credit += bytes
    if (stream.credit > MAX_STREAM_ID)
      throw new MuxError('window', `the peer accepts ${stream.credit} bytes of stream ${stream.id}`)
    this.ready(stream)
  }

  /** How many more bytes of a stream can be accepted. Less than 0 if its application has put bytes back. */
  #grantOf(stream: MuxStream): number {
    return this.#options.settings.windowBytes - stream.allowance - stream.readableLength
  }

  #isGrantDue(stream: MuxStream): boolean {
    if (this.#isEnded || stream.hasEnded || stream.destroyed) return false
    return this.#grantOf(stream) >= this.#options.settings.windowBytes / 2
  }

  #wasUseless(): void {
    if (!this.#useless.tryTake())
      throw new MuxError('flood', 'the peer has sent too many frames that carry nothing')
  }

  #queue(frame: Buffer): void {
    this.#control.push(frame)
    if (this.#control.length > MAX_WAITING_FRAMES)
      this.#refuse(new MuxError('flood', 'the peer does not read the answers to its frames'))
    else this.#schedule()
  }

  /** Frames of one turn are sent together. */
  #schedule(): void {
    if (this.#isFlushScheduled || this.#isEnded) return
    this.#isFlushScheduled = true
    setImmediate(this.#flush)
  }

  readonly #flush = (): void => {
    this.#isFlushScheduled = false
    const socket = this.#socket
    if (this.#isEnded || socket.writableLength >= MAX_WAITING_BYTES) return
    socket.cork()
    // The stream of an opening frame may have bytes below.
    for (const frame of this.#control.splice(0)) socket.write(frame)
    if (this.#pong !== undefined) socket.write(this.#pong)
    this.#pong = undefined
    for (const stream of this.#granting) {
      // Bytes may have been put back meanwhile.
      if (!this.#isGrantDue(stream)) continue
      const bytes = this.#grantOf(stream)
      stream.allowance += bytes
      socket.write(controlFrame('window', stream.id, bytes))
    }
    this.#granting.clear()
    for (const stream of this.#sending) {
      if (socket.writableLength >= MAX_WAITING_BYTES) break
      this.#sending.delete(stream)
      this.#send(stream)
      // At the end, after the others.
      if (stream.canSend) this.#sending.add(stream)
    }
    // When all of this turn is written.
    if (socket.writableLength > 0) socket.write(NOTHING, this.#onWritten)
    socket.uncork()
  }

  readonly #onWritten = (): void => {
    if (this.#sending.size + this.#control.length + this.#granting.size > 0) this.#schedule()
  }

  #send(stream: MuxStream): void {
    if (!stream.canSend) return
    const part = stream.nextPart(Math.min((this.#peer ?? LEAST).maxFrameBytes, MAX_SENT_BYTES))
    if (part === undefined) {
      this.#socket.write(frameHead('end', stream.id, 0))
      stream.endSent()
      return
    }
    const { bytes, written } = part
    this.#socket.write(frameHead('data', stream.id, bytes.length))
    this.#socket.write(bytes, (error) => {
      // The session ends with an error.
      if (!error) written()
    })
  }

  #watchSilence(): void {
    const { clock } = this.#options
    this.#hasHeard = false
    this.#cancelSilence = clock.after(SILENCE_MS, () => {
      if (this.#hasHeard) {
        this.#watchSilence()
        return
      }
      this.#queue(pingFrame('ping', Buffer.alloc(8)))
      this.#cancelSilence = clock.after(ANSWER_MS, () => {
        // This process may have been busy: it reads first.
        setImmediate(() => {
          if (this.#isEnded) return
          if (this.#hasHeard) this.#watchSilence()
          else
            this.#refuse(
              new MuxError('timeout', `the peer has not answered for ${SILENCE_MS + ANSWER_MS} ms`),
            )
        })
      })
    })
  }

  #beginDrain(): void {
    if (this.#isDraining) return
    this.#isDraining = true
    this.#endIfDrained()
  }

  get #isDrained(): boolean {
    return this.#isDraining && this.#streams.size === 0
  }

  #endIfDrained(): void {
    if (!this.#isDrained) return
    // After the frames that wait.
    setImmediate(() => {
      if (this.#isDrained) this.#end(undefined)
    })
  }

  /** Ends the session, and tells the peer why. */
  #refuse(error: MuxError): void {
    if (this.#isEnded) return
    if (!this.#socket.destroyed)
      this.#socket.write(controlFrame('goaway', 0, this.#lastStream, GOAWAY_CODES[error.reason]))
    this.#end(error)
  }

  #end(error: Error | undefined): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#reader.stop()
    this.#cancelSilence()
    const broken = resetError(`the session of the connection has ended${error ? `: ${error.message}` : ''}`)
    for (const stream of [...this.#streams.values()]) {
      stream.break(broken)
      this.closed(stream, undefined)
    }
    const socket = this.#socket
    if (!socket.destroyed) {
      // Its last frames arrive only if the peer ends the connection: what it still sends is read until then.
      const cancel = this.#options.clock.after(ENDING_MS, () => socket.destroy())
      socket.once('close', cancel)
      const isOver = (): void => {
        if (socket.readableEnded && socket.writableFinished) socket.destroy()
      }
      socket.once('end', isOver).once('finish', isOver)
      socket.end()
      isOver()
    }
    this.#options.onEnded?.(error)
  }
}

const NOTHING = Buffer.alloc(0)

/** Runs code of the application. Its exceptions are uncaught, as with a TCP socket, and not blamed on the peer. */
function guarded(call: () => void): void {
  try {
    call()
  } catch (error) {
    if (error instanceof MuxError) throw error
    process.nextTick(() => {
      throw error
    })
  }
}

function resetOf(code: number): Error {
  switch (code) {
    case RESET_CODES.refused:
      return new StreamRefusedError('the peer has refused the stream')
    case RESET_CODES.denied:
      return resetError('the peer has denied the connection')
    case RESET_CODES.revoked:
      return resetError('the peer has revoked the connection')
    default:
      return resetError('the peer has reset the connection')
  }
}

function reasonOf(code: number): GoawayReason | number {
  const reasons = Object.keys(GOAWAY_CODES) as GoawayReason[]
  return reasons.find((each) => GOAWAY_CODES[each] === code) ?? code
}
