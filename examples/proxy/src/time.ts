import { setTimeout as sleep } from 'node:timers/promises'

/** Longest delay of a Node.js timer; a longer one fires after 1 ms. */
const MAX_TIMER_MS = 2 ** 31 - 1

/**
 * Waits, also longer than the 24.8 days of a Node.js timer. Never rejects.
 * @returns true when the time has elapsed; false when `signal` was aborted first
 */
export async function elapsed(ms: number, signal: AbortSignal): Promise<boolean> {
  for (let remainingMs = ms; ; remainingMs -= MAX_TIMER_MS) {
    const hasElapsed = await sleep(Math.min(remainingMs, MAX_TIMER_MS), true, { signal }).catch(() => false)
    if (!hasElapsed || remainingMs <= MAX_TIMER_MS) return hasElapsed
  }
}
