import { setTimeout as sleep } from 'node:timers/promises'

/** Node.js fires a timer with a longer delay after 1 ms. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/**
 * Waits for any number of milliseconds. Never rejects.
 * @returns whether the time has passed; false when `signal` was aborted before
 */
export async function elapsed(ms: number, signal: AbortSignal): Promise<boolean> {
  for (let left = ms; ; left -= LONGEST_TIMER_MS) {
    const isPast = await sleep(Math.min(left, LONGEST_TIMER_MS), true, { signal }).catch(() => false)
    if (!isPast || left <= LONGEST_TIMER_MS) return isPast
  }
}
