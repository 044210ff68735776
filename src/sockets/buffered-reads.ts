import type { OnReadOpts } from 'node:net'
import { Duplex } from 'node:stream'
import { adoptReads } from '../base/node-internals.js'

/** Consumes bytes that are valid only during the call. Returns whether the socket may keep reading. */
export type Sink = (bytes: Buffer) => boolean

/**
 * The read buffer of all sockets that only a pump reads. Its contents are consumed inside the callback of each read, so
 * that one buffer serves all sockets, and an idle connection has none.
 */
const SCRATCH = Buffer.allocUnsafeSlow(64 * 1024)

/** A stream that passes its bytes to a sink without a buffer for each read, as sockets do. */
export abstract class LendingDuplex extends Duplex {
  /** Passes all bytes to `sink` from now on. `resume` asks for more. @returns whether the sink wants more at once */
  abstract readInto(sink: Sink): boolean

  /** Tells the peer that the stream has ended, if all its bytes were sent. For a stream that is being destroyed. */
  abstract endNow(): void
}

const readers = new WeakMap<Duplex, Reader>()

/** Receives the reads of one socket, for which Node.js allocates no buffers. */
class Reader {
  #sink: Sink | undefined
  /** Bytes that were read before there was a sink. */
  #held: Buffer[] = []

  /** Called for each read; the bytes are at the start of `SCRATCH`. */
  read(size: number): boolean {
    const bytes = SCRATCH.subarray(0, size)
    if (this.#sink !== undefined) return this.#sink(bytes)
    this.#held.push(Buffer.from(bytes))
    return false
  }

  /** Passes all bytes to `sink` from now on. Returns whether the socket may keep reading. */
  readInto(sink: Sink): boolean {
    this.#sink = sink
    const held = this.#held
    this.#held = []
    return held.map(sink).every((more) => more)
  }
}

/**
 * Makes a socket read into the shared buffer.
 * @returns `onread`, an option for `net.connect` and `tls.connect`; and `bind`, to be called with the socket
 */
export function bufferedReads(): { readonly onread: OnReadOpts; readonly bind: (socket: Duplex) => void } {
  const reader = new Reader()
  return {
    onread: { buffer: SCRATCH, callback: (size) => reader.read(size) },
    bind: (socket) => readers.set(socket, reader),
  }
}

/**
 * Passes all bytes that a socket reads to `sink`. The caller resumes the socket when the sink wants more.
 * @returns whether the sink wants more at once; undefined when the stream must be read by its `data` events
 */
export function readInto(socket: Duplex, sink: Sink): boolean | undefined {
  const reader = readers.get(socket)
  if (reader !== undefined) return reader.readInto(sink)
  // The stream has another reader.
  if (socket.listenerCount('data') > 0 || socket.listenerCount('readable') > 0) return undefined
  if (socket instanceof LendingDuplex) return socket.readInto(sink)
  if (!adoptReads(socket, SCRATCH, (size) => sink(SCRATCH.subarray(0, size)))) return undefined
  // Bytes that the stream has buffered already.
  let more = true
  for (let held = takeFrom(socket); held !== null; held = takeFrom(socket)) more = sink(held)
  return more
}

function takeFrom(socket: Duplex): Buffer | null {
  return socket.read() as Buffer | null
}
