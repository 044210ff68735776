import { setMaxListeners } from 'node:events'
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
}

/** What is done with a value that comes after the bounds were met, and that nobody will see. */
export type Discard<T> = (value: T) => void

/**
 * Runs `work` within bounds. It gets a signal of its own that is aborted when one of them is met, with the error
 * that the promise rejects with; should it ignore that, the promise settles all the same. Nothing stays behind: no
 * timer, no listener.
 * @throws AbortError, ClosedError, TimeoutError, and whatever `work` throws
 */
export function bounded<T>(
  what: string,
  bounds: Bounds,
  work: (signal: AbortSignal) => Promise<T>,
  discard?: Discard<T>,
): Promise<T> {
  const { signal: outer, closed, timeoutMs, clock = systemClock } = bounds
  if (closed?.aborted === true) return Promise.reject(new ClosedError(what))
  if (outer?.aborted === true) return Promise.reject(new AbortError(what, outer.reason))
  // Many pieces of work may hang on one signal; each takes its listener away when it is done.
  for (const shared of [outer, closed]) if (shared !== undefined) setMaxListeners(0, shared)
  return new Promise<T>((resolve, reject) => {
    const inner = new AbortController()
    const stop = (error: Error): void => {
      settle()
      inner.abort(error)
      reject(error)
    }
    const onAbort = (): void => {
      stop(new AbortError(what, outer?.reason))
    }
    const onClosed = (): void => {
      stop(new ClosedError(what))
    }
    const cancelTimer = clock.after(timeoutMs, () => {
      stop(new TimeoutError(what, timeoutMs))
    })
    const settle = (): void => {
      cancelTimer()
      outer?.removeEventListener('abort', onAbort)
      closed?.removeEventListener('abort', onClosed)
    }
    closed?.addEventListener('abort', onClosed, { once: true })
    outer?.addEventListener('abort', onAbort, { once: true })
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

/** A function of its own, so that the compiler does not take an earlier answer for the present one. */
export function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true
}
