import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { Clock } from '../../base/clock.js'
import { callSafely } from '../../base/emit-safely.js'
import { toError } from '../../base/errors.js'
import { TokenBucket } from '../../base/token-bucket.js'
import { readInto } from '../../sockets/buffered-reads.js'
import { resetError } from '../../sockets/network-errors.js'
import { FrameWriter } from './frame-writer.js'
import {
  type FrameHandler,
  FrameReader,
  GOAWAY_CODES,
  type GoawayReason,
  LEAST,
  MAX_STREAM_ID,
  MuxError,
  type MuxSettings,
  RESET_CODES,
  controlFrame,
  dataFrame,
  pingFrame,
  settingsFrame,
} from './frames.js'
import type { SessionCounts } from './session-counts.js'
import { MuxStream, type StreamAddresses, type StreamSession } from './stream.js'

/** The connection of a session. */
export type SessionSocket = Duplex & StreamAddresses & { ref?(): unknown; unref?(): unknown }

export interface SessionOptions {
  readonly settings: MuxSettings
  readonly clock: Clock
  readonly counts: SessionCounts
  /** Called for each stream that the peer opens. @default the peer must not open any */
  readonly onStream?: (stream: MuxStream) => void
  /** Returns the error of a stream that the peer has denied. @default a connection reset */
  readonly deniedError?: () => Error
  /** How long the session is kept without a stream, in milliseconds. */
  readonly idleMs: number
  /** How long it is kept before a stream was accepted, in milliseconds. @default idleMs */
  readonly unusedMs?: number
  /** Called when the session has ended. @param error - undefined after an orderly drain */
  readonly onEnded?: (error: Error | undefined) => void
}

/** The ALPN protocol of a session. */
export const ALPN_NAME = 'consul-connect-mux/1'

/** What this version announces. */
export const OWN_SETTINGS: MuxSettings = {
  version: 1,
  maxFrameBytes: 131_072,
  windowBytes: 65_536,
  maxStreams: 1_000,
}

/** How long the settings of the peer may take after the handshake, in milliseconds. */
const SETTINGS_MS = 5_000
/** How long a session may be silent before it is asked for a sign of life, in milliseconds. */
const SILENCE_MS = 15_000
/** How long the answer may take. */
const ANSWER_MS = 10_000
/** How many frames that carry nothing a peer may send; streams that end in order make up for them. */
const USELESS = { burst: 1_000, perSecond: 10 }
/** How many streams a peer may open that are denied, refused, or given up before a decision. */
const DENIALS = { burst: 1_000, perSecond: 100 }
/** How many of its own streams a peer may reset. */
const RESETS = { burst: 10_000, perSecond: 2_000 }
/** How far the window of a stream grows whose reader keeps up. */
const MAX_WINDOW_BYTES = 1_048_576
/** How much all windows of a session together may grow. */
const MAX_GROWTH_BYTES = 16_777_216
/** How long the end of a session waits for a silent peer, and at most for one that still reads, in milliseconds. */
const ENDING_MS = 15_000
const MAX_ENDING_MS = 300_000

/** The session accepts no more streams, or the peer has refused one: it can be opened in another session. */
export class StreamRefusedError extends Error {
  // As for a connection that was reset: clients decide by the code whether to try again.
  readonly code = 'ECONNRESET'
  readonly syscall = 'read'
}

/**
 * Many connections over one. Streams are independent: a slow one stops neither the others nor the reading of frames. One
 * end opens all streams, the dialing one.
 */
export class MuxSession implements StreamSession {
  readonly #socket: SessionSocket
  readonly #options: SessionOptions
  readonly #reader: FrameReader
  readonly #streams = new Map<number, MuxStream>()
  readonly #writer: FrameWriter
  #peer: MuxSettings | undefined
  #lastStream = 0
  readonly #useless: TokenBucket
  readonly #resets: TokenBucket
  readonly #denials: TokenBucket
  #referenced = 0
  /** By how much the windows of the streams have grown. */
  #growth = 0
  #isDraining = false
  /** Whether a stream was accepted. */
  #isUsed = false
  #isEnded = false
  /** Whether a ping was not answered yet. */
  #isAsked = false
  /** How often bytes have arrived, and how often when the session was suspected of being dead. */
  #reads = 0
  #suspectedAt = -1
  /** Whether a byte has arrived since the last look. */
  #hasHeard = false
  #cancelSilence: () => void = () => undefined
  #cancelIdle: () => void = () => undefined

  constructor(socket: SessionSocket, options: SessionOptions) {
    this.#socket = socket
    this.#options = options
    this.#reader = new FrameReader(this.#frames, options.settings.maxFrameBytes)
    this.#useless = new TokenBucket(options.clock, USELESS)
    this.#resets = new TokenBucket(options.clock, RESETS)
    this.#denials = new TokenBucket(options.clock, DENIALS)
    this.#writer = new FrameWriter(socket, this.#endIfDrained)
    socket.on('error', (error) => {
      this.#end(error)
    })
    socket.once('end', () => {
      this.#end(this.#isDrained ? undefined : resetError('the peer has closed the session of the connection'))
    })
    socket.once('close', () => {
      this.#end(this.#isDrained ? undefined : resetError('the session of the connection was cut'))
    })
    // The dialing end decides by itself what it opens.
    this.#isUsed = options.onStream === undefined
    options.counts[this.#side] += 1
    this.#queue(settingsFrame(options.settings))
    this.#expectSettings()
    this.#watchIdle()
    socket.unref?.()
    // Not before the owner knows the session.
    process.nextTick(() => {
      if (socket.destroyed) return
      if (readInto(socket, this.#read) === undefined) socket.on('data', this.#read)
      socket.resume()
    })
  }

  get #side(): 'inbound' | 'outbound' {
    return this.#options.onStream === undefined ? 'outbound' : 'inbound'
  }

  get addresses(): StreamAddresses {
    return this.#socket
  }

  get tls(): TLSSocket | undefined {
    return this.#socket instanceof TLSSocket ? this.#socket : undefined
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
      this.#suspectedAt !== this.#reads &&
      this.#streams.size < maxStreams &&
      this.#lastStream < MAX_STREAM_ID
    )
  }

  /** Whether the peer has sent its settings: until then it may be anything that accepts the name of the protocol. */
  get isConfirmed(): boolean {
    return this.#peer !== undefined
  }

  /** Whether a stream was accepted. */
  get isUsed(): boolean {
    return this.#isUsed
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

  /** How often bytes have arrived. */
  get reads(): number {
    return this.#reads
  }

  /** Asks for a sign of life, unless an answer is due. */
  ping(): void {
    if (this.#isEnded || this.#isAsked) return
    this.#isAsked = true
    this.#queue(pingFrame('ping', Buffer.alloc(8)))
  }

  /** Opens no more streams until a byte arrives: the connection may be dead. */
  suspect(): void {
    this.#suspectedAt = this.#reads
  }

  /** Opens and accepts no more streams. The session ends with the last one. */
  drain(): void {
    if (this.#isDraining || this.#isEnded) return
    this.#queue(controlFrame('goaway', 0, this.#lastStream, GOAWAY_CODES.drain))
    this.#beginDrain()
  }

  /** Ends the session and its streams at once, with an error. */
  destroy(error: Error = resetError('the session of the connection was closed')): void {
    this.#end(error)
    this.#socket.destroy()
  }

  /** Tells the peer that a stream which it has opened is authorized. */
  accept(stream: MuxStream): void {
    if (stream.destroyed) return
    this.#isUsed = true
    this.#cancelIdle()
    stream.accepted()
    this.#queue(controlFrame('accept', stream.id))
  }

  ready(stream: MuxStream): void {
    if (!this.#isEnded && stream.canSend()) this.#writer.ready(stream)
  }

  sendLast(stream: MuxStream, bytes: Buffer): void {
    if (this.#streams.get(stream.id) === stream && !this.#isEnded) this.#queue(dataFrame(stream.id, bytes))
  }

  end(stream: MuxStream): void {
    if (this.#streams.get(stream.id) === stream && !this.#isEnded) this.#queue(controlFrame('end', stream.id))
  }

  taken(stream: MuxStream): void {
    if (this.#isEnded || stream.hasEnded || stream.destroyed) return
    const { allowance, unread } = stream
    // A reader that asks for more bytes at once than the window has gets them.
    const window = Math.max(stream.window, stream.readableHighWaterMark)
    if (window - allowance - unread < window / 2) return
    const mayGrow = stream.keepsUp && stream.window < MAX_WINDOW_BYTES
    if (mayGrow && this.#growth + stream.window <= MAX_GROWTH_BYTES) {
      this.#growth += stream.window
      stream.window *= 2
    }
    const bytes = Math.max(stream.window, window) - allowance - unread
    stream.allowance += bytes
    this.#queue(controlFrame('window', stream.id, bytes))
  }

  closed(stream: MuxStream, resetCode: number | undefined): void {
    if (this.#streams.get(stream.id) !== stream) return
    this.#streams.delete(stream.id)
    this.#options.counts.streams -= 1
    this.#writer.forget(stream)
    this.#growth -= stream.window - this.#options.settings.windowBytes
    if (stream.isReferenced) this.#count(false)
    if (this.#isEnded) return
    if (resetCode !== undefined) {
      this.#queue(controlFrame('reset', stream.id, resetCode))
      // An end, a window, or a reset of the peer may be on their way.
      if (resetCode !== RESET_CODES.refused) for (let i = 0; i < 2; i += 1) this.#useless.giveBack()
    } else if (stream.hasEnded) this.#useless.giveBack()
    // Streams that were admitted go on.
    if (this.#options.onStream !== undefined && !stream.isAccepted && !this.#denials.tryTake()) this.drain()
    this.#endIfDrained()
    if (this.#streams.size === 0 && this.#isUsed) this.#watchIdle()
  }

  referenced(stream: MuxStream, isReferenced: boolean): void {
    if (this.#streams.get(stream.id) === stream) this.#count(isReferenced)
  }

  #count(isReferenced: boolean): void {
    this.#referenced += isReferenced ? 1 : -1
    if (this.#referenced === 0) this.#socket.unref?.()
    else if (isReferenced && this.#referenced === 1) this.#socket.ref?.()
  }

  readonly #read = (chunk: Buffer): true => {
    this.#hasHeard = true
    this.#reads += 1
    try {
      this.#reader.read(chunk)
    } catch (error) {
      this.#refuse(error instanceof MuxError ? error : new MuxError('protocol', toError(error).message))
    }
    return true
  }

  readonly #frames: FrameHandler = {
    settings: (settings) => {
      this.#peer = settings
      this.#writer.maxFrameBytes = settings.maxFrameBytes
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
        this.#options.counts.refused += 1
        this.#wasUseless()
        return
      }
      const stream = this.#add(id, false)
      callSafely(() => {
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
      callSafely(() => {
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
      callSafely(() => {
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
        if (stream.isAccepted && stream.bytesRead + stream.bytesWritten === 0) this.#wasUseless()
        if (!this.#resets.tryTake()) throw new MuxError('flood', 'the peer has reset too many streams')
      }
      if (code === RESET_CODES.refused) this.#options.counts.refused += 1
      // As with a connection of its own, which is open before the peer has decided.
      if (code === RESET_CODES.denied && !stream.isAccepted) stream.accepted()
      const denied = code === RESET_CODES.denied ? this.#options.deniedError?.() : undefined
      callSafely(() => {
        stream.break(denied ?? resetOf(code), code === RESET_CODES.closed)
      })
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
        for (const stream of [...this.#streams.values()]) {
          if (stream.id <= lastStream) continue
          callSafely(() => {
            stream.break(new StreamRefusedError('the peer accepts no more streams'))
          })
        }
      }
      this.#beginDrain()
    },
    ping: (payload) => {
      this.#wasUseless()
      this.#queue(pingFrame('pong', payload))
    },
    pong: () => {
      if (!this.#isAsked) this.#wasUseless()
      this.#isAsked = false
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
      window: this.#options.settings.windowBytes,
    })
    this.#streams.set(id, stream)
    if (this.#isUsed) this.#cancelIdle()
    this.#options.counts.streams += 1
    this.#options.counts.opened += 1
    this.#count(true)
    return stream
  }

  #addCredit(stream: MuxStream, bytes: number): void {
    stream.credit += bytes
    if (stream.credit > MAX_STREAM_ID)
      throw new MuxError('window', `the peer accepts ${stream.credit} bytes of stream ${stream.id}`)
    this.ready(stream)
  }

  #wasUseless(): void {
    if (!this.#useless.tryTake())
      throw new MuxError('flood', 'the peer has sent too many frames that carry nothing')
  }

  #queue(frame: Buffer): void {
    if (!this.#writer.add(frame))
      this.#refuse(new MuxError('flood', 'the peer does not read the answers to its frames'))
  }

  #expectSettings(): void {
    this.#cancelSilence = this.#options.clock.after(SETTINGS_MS, () => {
      // This process may have been busy: it reads first.
      setImmediate(() => {
        if (this.#isEnded) return
        if (this.#peer !== undefined) this.#watchSilence()
        else this.#refuse(new MuxError('timeout', `the peer has sent no settings for ${SETTINGS_MS} ms`))
      })
    })
  }

  /** A session without streams ends: a peer could keep any number of them, without being authorized. */
  #watchIdle(): void {
    const { clock, idleMs, unusedMs = idleMs } = this.#options
    this.#cancelIdle()
    this.#cancelIdle = clock.after(this.#isUsed ? idleMs : unusedMs, () => {
      if (this.#streams.size === 0 || !this.#isUsed) this.drain()
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
      this.ping()
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

  readonly #endIfDrained = (): void => {
    if (!this.#isDrained || !this.#writer.isFlushed) return
    setImmediate(() => {
      if (this.#isDrained && this.#writer.isFlushed) this.#end(undefined)
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
    this.#options.counts[this.#side] -= 1
    this.#reader.stop()
    this.#writer.stop()
    this.#cancelSilence()
    this.#cancelIdle()
    const broken = resetError(`the session of the connection has ended${error ? `: ${error.message}` : ''}`)
    // A dial that waits for the decision opens its stream in another session.
    const refused = new StreamRefusedError(broken.message)
    const isDialer = this.#options.onStream === undefined
    for (const stream of [...this.#streams.values()]) {
      stream.break(isDialer && !stream.isAccepted ? refused : broken)
      this.closed(stream, undefined)
    }
    const socket = this.#socket
    if (!socket.destroyed) this.#endSocket(error === undefined && this.#isUsed)
    this.#options.onEnded?.(error)
  }

  /**
   * Ends the connection, and reads until the peer has ended it too. If the socket was closed before, bytes of the peer would
   * reset the connection, and the kernel would drop what a slow peer has not received.
   */
  #endSocket(isOrderly: boolean): void {
    const socket = this.#socket
    let cancel = (): void => undefined
    const watch = (leftMs: number): void => {
      this.#hasHeard = false
      cancel = this.#options.clock.after(ENDING_MS, () => {
        if (this.#hasHeard && isOrderly && leftMs > 0) watch(leftMs - ENDING_MS)
        else socket.destroy()
      })
    }
    watch(MAX_ENDING_MS)
    socket.once('close', () => {
      cancel()
    })
    const isOver = (): void => {
      if (socket.readableEnded && socket.writableFinished) socket.destroy()
    }
    socket.once('end', isOver).once('finish', isOver)
    socket.end()
    isOver()
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
