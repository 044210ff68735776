/** Where time comes from. Tests inject one that they turn by hand. */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  now(): number
  /** Calls `callback` once after `ms`; returns what cancels it. */
  after(ms: number, callback: () => void): () => void
}

/** In milliseconds, about 25 days. Node.js turns a longer delay into 1 ms. */
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

/** Where time and chance come from; tests inject their own. */
export interface Time {
  readonly clock: Clock
  /** From 0 to below 1. */
  readonly random: () => number
}

export const systemTime: Time = { clock: systemClock, random: Math.random }

/** Resolves after `ms`, or at once when `signal` is aborted. Never rejects. */
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
