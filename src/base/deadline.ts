import { type Clock, systemClock } from './clock.js'
import { AbortError, ClosedError, TimeoutError, toError } from './errors.js'

/** The bounds of an operation. */
export interface Bounds {
  /** Aborts the operation, which rejects with an AbortError. */
  readonly signal?: AbortSignal | undefined
  /** Aborted when the owner of the operation is closed: rejects with a ClosedError. */
  readonly closed?: AbortSignal | undefined
  readonly timeoutMs: number
  readonly clock?: Clock
  /** The last transient error, for the message of an abort or timeout. */
  readonly lastError?: () => Error | undefined
}

/** Disposes of a value that arrives after the deadline. */
export type Discard<T> = (value: T) => void

/**
 * Runs an operation within bounds. Its signal is aborted when one of the bounds is reached, and the promise rejects
 * even if the operation ignores the signal. Leaves no timer and no listener behind.
 * @param what - the subject of error messages
 * @throws AbortError, ClosedError, TimeoutError, and the errors of `work`
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
    // Inside a promise, so that a synchronous exception rejects as well.
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
 * Calls back when a signal is aborted. All callbacks of a signal share one listener: the time that an EventTarget takes
 * to add a listener grows with the number of listeners.
 * @returns a function that removes the callback
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

/** Whether a signal is aborted. A function, so that TypeScript does not narrow the type by an earlier check. */
export function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true
}
