import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { confirmEnd, pendingWriteBytes } from '../base/node-internals.js'
import { systemClock } from '../base/clock.js'
import { TimeoutError } from '../base/errors.js'
import { Batch } from './batch.js'
import { pour } from './buffered-reads.js'
import { LINGER_MS } from './linger.js'
import { readOnAfterWriteErrors } from './read-on.js'
import { expectDuration, expectKeys, expectObject, optional } from '../base/validate.js'

const FAREWELL_STEP_MS = 10

/** Options of `pump`. */
export interface PumpOptions {
  /** Cuts both when no byte has moved in either direction for so long, in milliseconds. @default never */
  readonly idleTimeoutMs?: number | undefined
}

/** How many bytes went each way. */
export interface PumpResult {
  readonly sent: number
  readonly received: number
}

/**
 * Copies between two streams until both directions have ended, each by itself: one side may end its own and still be
 * answered, if both streams were opened with `allowHalfOpen`. A stream that breaks takes the other with it, by a reset
 * where that is possible, so that what is cut short does not look complete. Neither is open afterwards.
 *
 * `sent` counts from `a` to `b`, `received` from `b` to `a`.
 * @throws what broke one of them; TimeoutError; OptionError
 * @example
 * ```ts
 * const socket = await web.dial('echo', { allowHalfOpen: true })
 * const local = await dialLocal({ host: '127.0.0.1', port: localPort })
 * const { sent, received } = await pump(local, socket, { idleTimeoutMs: 60_000 })
 * console.log(sent, 'bytes there', received, 'bytes back')
 * ```
 */
export function pump(a: Duplex, b: Duplex, options: PumpOptions = {}): Promise<PumpResult> {
  expectKeys('options', expectObject('options', options), ['idleTimeoutMs'])
  const idleTimeoutMs = optional(expectDuration)('idleTimeoutMs', options.idleTimeoutMs)
  return new Promise((resolve, reject) => {
    const bytes = { sent: 0, received: 0 }
    let open = 2
    let failure: Error | undefined
    let movedAt = performance.now()
    let isDropping = false
    let cancelIdle = (): void => undefined
    let cancelFarewell = (): void => undefined

    const fail = (error: Error): void => {
      failure ??= error
      cut(a)
      cut(b)
    }
    /** One has broken: the other gets what was read for it, and is cut then. */
    const broke = (stream: Duplex, error: Error): void => {
      if (failure !== undefined) return
      failure = error
      const other = stream === a ? b : a
      isDropping = true
      other.resume()
      cancelFarewell = sayFarewell(other)
    }
    const onClosed = (stream: Duplex): void => {
      open -= 1
      // Closed before all was said and written.
      if (!stream.readableEnded || !stream.writableFinished)
        broke(stream, new Error('the connection was cut'))
      if (open > 0) return
      cancelIdle()
      cancelFarewell()
      if (failure === undefined) resolve(bytes)
      else reject(failure)
    }
    const flow = (from: Duplex, to: Duplex, count: keyof PumpResult): void => {
      const batch = new Batch(to, () => {
        movedAt = performance.now()
        from.resume()
      })
      const more = pour(from, (chunk) => {
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
      // One that has been read to its end before does not say so again.
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
        // A slow reader takes bytes that were read long ago.
        if (pendingWriteBytes(a) + pendingWriteBytes(b) < waiting) movedAt = performance.now()
        const leftMs = timeoutMs - (performance.now() - movedAt)
        if (leftMs > 0) armIdle(timeoutMs, leftMs)
        else fail(new TimeoutError('moving a byte', timeoutMs))
      })
    }

    // One that has closed already will not say so again.
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
      readOnAfterWriteErrors(stream)
      if (!(stream instanceof TLSSocket)) confirmEnd(stream)
    }
    flow(a, b, 'sent')
    flow(b, a, 'received')
    if (idleTimeoutMs !== undefined) armIdle(idleTimeoutMs, idleTimeoutMs)
  })
}

/**
 * Waits until a stream has passed on what it was given, and cuts it then. One that was ended is not cut but has the time
 * to end as well, since a reset would take from the other end what it has not received yet.
 * @returns what stops the waiting
 */
function sayFarewell(stream: Duplex): () => void {
  const deadline = performance.now() + LINGER_MS
  // After what waits for the end of this turn to be written.
  const first = setImmediate(() => {
    look()
  })
  let cancel = (): void => {
    clearImmediate(first)
  }
  const look = (): void => {
    const isOver = stream.writableEnded
      ? stream.readableEnded && stream.writableFinished
      : pendingWriteBytes(stream) === 0
    if (stream.destroyed || isOver || performance.now() > deadline) cut(stream)
    else cancel = systemClock.after(FAREWELL_STEP_MS, look)
  }
  return () => {
    cancel()
  }
}

/** Ends a stream at once; a TCP socket with a reset, unless all that it was to say is said. */
export function cut(stream: Duplex): void {
  if (isTcp(stream) && !isShuttingDown(stream)) stream.resetAndDestroy()
  else stream.destroy()
}

/**
 * In the turn in which a socket's end is sent, libuv refuses a reset with EINVAL, and Node forgets the handle without
 * closing it: it would be read, into nothing, for as long as the other end writes.
 */
function isShuttingDown({ writableEnded, writableLength, writableFinished }: Socket): boolean {
  return writableEnded && writableLength === 0 && !writableFinished
}

/** TLS has no reset of its own, unix sockets have none, and Node throws when asked for one. */
function isTcp(stream: Duplex): stream is Socket {
  return (
    stream instanceof Socket &&
    !(stream instanceof TLSSocket) &&
    !stream.destroyed &&
    stream.remoteAddress !== undefined
  )
}
