import { type Clock, systemClock } from './clock.js'
import { AbortError, ClosedError, TimeoutError, toError } from './errors.js'

/** The bounds of one piece of work. */
export interface Bounds {
  /** Ends the work early; what was begun is cleaned up, and the promise rejects with an AbortError. */
  readonly signal?: AbortSignal | undefined
  /** Aborted when what the work belongs to is closed: the promise rejects with a ClosedError. */
  readonly closed?: AbortSignal | undefined
  readonly timeoutMs: number
  readonly clock?: Clock
  /** What the work is waiting out, for the error of an abort and of a deadline. */
  readonly lastError?: () => Error | undefined
}

/** What is done with a value that comes after the bounds were met, and that nobody will see. */
export type Discard<T> = (value: T) => void

/**
 * Runs `work` within bounds. It gets a signal of its own that is aborted when one of them is met, with the error
 * that the promise rejects with; should it ignore that, the promise settles all the same. Nothing stays behind: no
 * timer, no listener.
 * @throws AbortError, ClosedError, TimeoutError, and whatever `work` throws
 */
export function withDeadline<T>(
  what: string,
  bounds: Bounds,
  work: (signal: AbortSignal) => Promise<T>,
  discard?: Discard<T>,
): Promise<T> {
  const { signal: outer, closed, timeoutMs, clock = systemClock, lastError } = bounds
  if (closed?.aborted === true) return Promise.reject(new ClosedError(what))
  if (outer?.aborted === true) return Promise.reject(new AbortError(what, outer.reason, lastError?.()))
  return new Promise<T>((resolve, reject) => {
    const inner = new AbortController()
    const stop = (error: Error): void => {
      settle()
      inner.abort(error)
      reject(error)
    }
    const onAbort = (): void => {
      stop(new AbortError(what, outer?.reason, lastError?.()))
    }
    const onClosed = (): void => {
      stop(new ClosedError(what))
    }
    const cancelTimer = clock.after(timeoutMs, () => {
      stop(new TimeoutError(what, timeoutMs, { cause: lastError?.() }))
    })
    const settle = (): void => {
      cancelTimer()
      forgetOuter()
      forgetClosed()
    }
    const forgetClosed = onceAborted(closed, onClosed)
    const forgetOuter = onceAborted(outer, onAbort)
    // Inside a promise, so that work that throws at once fails like any other.
    const working = new Promise<T>((start) => {
      start(work(inner.signal))
    })
    working.then(
      (value) => {
        settle()
        if (inner.signal.aborted) discard?.(value)
        else resolve(value)
      },
      (error: unknown) => {
        settle()
        reject(toError(error))
      },
    )
  })
}

interface Waiting {
  readonly callbacks: Set<() => void>
  readonly onAbort: () => void
}

const waitingOn = new WeakMap<AbortSignal, Waiting>()

/**
 * Calls back when a signal is aborted; returns what forgets that. Many pieces of work may hang on one signal, and the
 * time that an EventTarget takes for a listener grows with the others: here each signal has one.
 */
function onceAborted(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (signal === undefined) return () => undefined
  const { callbacks, onAbort } = waitingOn.get(signal) ?? listen(signal)
  callbacks.add(callback)
  return () => {
    callbacks.delete(callback)
    if (callbacks.size > 0) return
    signal.removeEventListener('abort', onAbort)
    waitingOn.delete(signal)
  }
}

function listen(signal: AbortSignal): Waiting {
  const callbacks = new Set<() => void>()
  const onAbort = (): void => {
    for (const callback of callbacks) callback()
  }
  const waiting = { callbacks, onAbort }
  waitingOn.set(signal, waiting)
  signal.addEventListener('abort', onAbort, { once: true })
  return waiting
}

/** A function of its own, so that the compiler does not take an earlier answer for the present one. */
export function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true
}
