import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { confirmEnd, pendingWriteBytes } from '../base/node-internals.js'
import { systemClock } from '../base/clock.js'
import { TimeoutError } from '../base/errors.js'
import { Batch } from './batch.js'
import { readInto } from './buffered-reads.js'
import { LINGER_MS } from './linger.js'
import { keepReadingAfterWriteError } from './read-on.js'
import { expectDuration, optional, readOptions } from '../base/options/validate.js'

const FLUSH_CHECK_MS = 10

/** Options of `pump`. */
export interface PumpOptions {
  /** Cuts both streams when no byte has moved in either direction for this time, in milliseconds. @default never */
  readonly idleTimeoutMs?: number | undefined
}

/** The number of bytes in each direction. */
export interface PumpResult {
  readonly sent: number
  readonly received: number
}

/**
 * Copies bytes between two streams in both directions until both have ended. The directions end independently: if both
 * streams have `allowHalfOpen`, one side can end and still receive. When a stream breaks, the other one is cut, by a
 * reset where possible, so that truncated data does not look complete. Both streams are closed afterwards.
 * @returns `sent`: bytes from `a` to `b`; `received`: bytes from `b` to `a`
 * @throws the error of the stream that broke, TimeoutError, OptionError
 * @example
 * ```ts
 * const socket = await web.dial('echo', { allowHalfOpen: true })
 * const local = await dialLocal({ host: '127.0.0.1', port: localPort })
 * const { sent, received } = await pump(local, socket, { idleTimeoutMs: 60_000 })
 * console.log(sent, 'bytes there', received, 'bytes back')
 * ```
 */
export function pump(a: Duplex, b: Duplex, options: PumpOptions = {}): Promise<PumpResult> {
  const { idleTimeoutMs } = readOptions(options, { idleTimeoutMs: optional(expectDuration) })
  return new Promise((resolve, reject) => {
    const bytes = { sent: 0, received: 0 }
    let open = 2
    let failure: Error | undefined
    let movedAt = performance.now()
    let isDropping = false
    let cancelIdle = (): void => undefined
    let cancelFlush = (): void => undefined

    const fail = (error: Error): void => {
      failure ??= error
      cut(a)
      cut(b)
    }
    /** A stream broke: flush what was read from it to the other stream, and cut that one. */
    const broke = (stream: Duplex, error: Error): void => {
      if (failure !== undefined) return
      failure = error
      const other = stream === a ? b : a
      isDropping = true
      other.resume()
      cancelFlush = cutWhenFlushed(other)
    }
    const onClosed = (stream: Duplex): void => {
      open -= 1
      // Closed before it was read to its end, or before all was written.
      if (!stream.readableEnded || !stream.writableFinished)
        broke(stream, new Error('the connection was cut'))
      if (open > 0) return
      cancelIdle()
      cancelFlush()
      if (failure === undefined) resolve(bytes)
      else reject(failure)
    }
    const flow = (from: Duplex, to: Duplex, count: keyof PumpResult): void => {
      const batch = new Batch(to, () => {
        movedAt = performance.now()
        from.resume()
      })
      const more = readInto(from, (chunk) => {
        if (isDropping) return true
        bytes[count] += chunk.length
        movedAt = performance.now()
        return batch.add(chunk)
      })
      if (more === undefined) {
        from.on('data', (chunk: Buffer) => {
          if (isDropping) return
          bytes[count] += chunk.length
          movedAt = performance.now()
          if (!to.write(chunk)) from.pause()
        })
        to.on('drain', () => {
          movedAt = performance.now()
          from.resume()
        })
      }
      const end = (): void => {
        if (more === undefined) to.end()
        else batch.end(() => to.end())
      }
      // A stream that has ended already emits no further `end`.
      if (from.readableEnded) end()
      else from.on('end', end)
      from.on('error', (error) => {
        broke(from, error)
      })
      from.once('close', () => {
        onClosed(from)
      })
      if (more !== false) from.resume()
    }
    const armIdle = (timeoutMs: number, ms: number): void => {
      const waiting = pendingWriteBytes(a) + pendingWriteBytes(b)
      cancelIdle = systemClock.after(ms, () => {
        // A slow reader still consumes bytes that were read earlier.
        if (pendingWriteBytes(a) + pendingWriteBytes(b) < waiting) movedAt = performance.now()
        const leftMs = timeoutMs - (performance.now() - movedAt)
        if (leftMs > 0) armIdle(timeoutMs, leftMs)
        else fail(new TimeoutError('pump', timeoutMs))
      })
    }

    // A stream that has closed already emits no further `close`.
    for (const stream of [a, b]) {
      if (stream.destroyed) failure ??= stream.errored ?? new Error('the connection was closed')
    }
    if (failure !== undefined) {
      cut(a)
      cut(b)
      reject(failure)
      return
    }
    for (const stream of [a, b]) {
      if (!(stream instanceof Socket)) continue
      keepReadingAfterWriteError(stream)
      if (!(stream instanceof TLSSocket)) confirmEnd(stream)
    }
    flow(a, b, 'sent')
    flow(b, a, 'received')
    if (idleTimeoutMs !== undefined) armIdle(idleTimeoutMs, idleTimeoutMs)
  })
}

/**
 * Waits until a stream has written all its bytes, and cuts it. A stream that was ended may finish in order, since a
 * reset would discard bytes that the other end has not received yet.
 * @returns a function that cancels this
 */
function cutWhenFlushed(stream: Duplex): () => void {
  const deadline = performance.now() + LINGER_MS
  // Batches are written at the end of this turn.
  const first = setImmediate(() => {
    check()
  })
  let cancel = (): void => {
    clearImmediate(first)
  }
  const check = (): void => {
    const isOver = stream.writableEnded
      ? stream.readableEnded && stream.writableFinished
      : pendingWriteBytes(stream) === 0
    if (stream.destroyed || isOver || performance.now() > deadline) cut(stream)
    else cancel = systemClock.after(FLUSH_CHECK_MS, check)
  }
  return () => {
    cancel()
  }
}

/** Destroys a stream at once; a TCP socket by a reset, unless its end has been sent. */
export function cut(stream: Duplex): void {
  if (isTcp(stream) && !isShuttingDown(stream)) stream.resetAndDestroy()
  else stream.destroy()
}

/**
 * Whether the end of a socket is being sent in this turn. libuv rejects a reset then (EINVAL), and Node.js leaks the
 * handle, which keeps reading for as long as the other end writes.
 */
function isShuttingDown({ writableEnded, writableLength, writableFinished }: Socket): boolean {
  return writableEnded && writableLength === 0 && !writableFinished
}

/** Whether a stream can be reset: TLS and Unix sockets cannot, and Node.js throws for them. */
function isTcp(stream: Duplex): stream is Socket {
  return (
    stream instanceof Socket &&
    !(stream instanceof TLSSocket) &&
    !stream.destroyed &&
    stream.remoteAddress !== undefined
  )
}
