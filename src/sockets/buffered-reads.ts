import type { OnReadOpts } from 'node:net'
import type { Duplex } from 'node:stream'
import { adoptReads } from '../base/node-internals.js'

/** Takes bytes that are there only during the call; returns whether there may be more at once. */
export type Sink = (bytes: Buffer) => boolean

/**
 * Into which all sockets read that are opened for a pump. Nothing of it outlives the callback that tells of a read, so
 * that one is enough for all, and an idle connection has none.
 */
const SCRATCH = Buffer.allocUnsafeSlow(64 * 1024)

const readers = new WeakMap<Duplex, Reader>()

/** Reads of one socket, by which Node makes no buffer for each. */
class Reader {
  #sink: Sink | undefined
  // What came before anybody wanted it.
  #held: Buffer[] = []

  /** What was read lies at the start of `SCRATCH`. */
  read(size: number): boolean {
    const bytes = SCRATCH.subarray(0, size)
    if (this.#sink !== undefined) return this.#sink(bytes)
    this.#held.push(Buffer.from(bytes))
    return false
  }

  /** Gives everything to `sink` from now on; returns whether there may be more at once. */
  pour(sink: Sink): boolean {
    this.#sink = sink
    const held = this.#held
    this.#held = []
    return held.map(sink).every((more) => more)
  }
}

/** An option for `net.connect` and `tls.connect`, and what tells of the socket afterwards. */
export function bufferedReads(): { readonly onread: OnReadOpts; readonly bind: (socket: Duplex) => void } {
  const reader = new Reader()
  return {
    onread: { buffer: SCRATCH, callback: (size) => reader.read(size) },
    bind: (socket) => readers.set(socket, reader),
  }
}

/**
 * Pours what a socket reads into `sink`, from now on, if it was opened for that or can be made to. Resume it when the
 * sink wants more. Returns whether it does at once; undefined for a stream that can only be read as any other.
 */
export function pour(socket: Duplex, sink: Sink): boolean | undefined {
  const reader = readers.get(socket)
  if (reader !== undefined) return reader.pour(sink)
  // Somebody else reads from it as well.
  if (socket.listenerCount('data') > 0 || socket.listenerCount('readable') > 0) return undefined
  if (!adoptReads(socket, SCRATCH, (size) => sink(SCRATCH.subarray(0, size)))) return undefined
  // What was read before.
  let more = true
  for (let held = takeFrom(socket); held !== null; held = takeFrom(socket)) more = sink(held)
  return more
}

function takeFrom(socket: Duplex): Buffer | null {
  return socket.read() as Buffer | null
}
