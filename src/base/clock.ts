/** A source of time. Tests inject one that they advance themselves. */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  now(): number
  /** Calls `callback` once after `ms`. @returns a function that cancels it */
  after(ms: number, callback: () => void): () => void
}

/** The longest timer of Node.js, about 25 days; Node.js fires longer ones after 1 ms. */
export const LONGEST_TIMER_MS: number = 2 ** 31 - 1

export const systemClock: Clock = {
  now: Date.now,
  after(ms, callback) {
    let timer: NodeJS.Timeout
    const arm = (left: number): void => {
      timer =
        left > LONGEST_TIMER_MS
          ? setTimeout(() => {
              arm(left - LONGEST_TIMER_MS)
            }, LONGEST_TIMER_MS)
          : setTimeout(callback, Math.max(0, left))
    }
    arm(ms)
    return () => {
      clearTimeout(timer)
    }
  },
}

/** The sources of time and randomness; tests inject their own. */
export interface Time {
  readonly clock: Clock
  /** Returns a number from 0 to below 1. */
  readonly random: () => number
}

export const systemTime: Time = { clock: systemClock, random: Math.random }

/** Waits for a promise, for at most `ms`, or until `signal` is aborted. @returns undefined if it has not settled by then */
export async function within<T>(
  clock: Clock,
  ms: number,
  signal: AbortSignal,
  promise: Promise<T>,
): Promise<T | undefined> {
  const ended = new AbortController()
  const onAbort = (): void => {
    ended.abort()
  }
  signal.addEventListener('abort', onAbort, { once: true })
  if (signal.aborted) onAbort()
  try {
    return await Promise.race([promise, sleep(clock, ms, ended.signal).then(() => undefined)])
  } finally {
    signal.removeEventListener('abort', onAbort)
    ended.abort()
  }
}

/** Resolves after `ms`, or when `signal` is aborted. Never rejects. */
export function sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve()
      return
    }
    const wake = (): void => {
      cancel()
      signal.removeEventListener('abort', wake)
      resolve()
    }
    const cancel = clock.after(ms, wake)
    signal.addEventListener('abort', wake, { once: true })
  })
}
