/** Node.js runs a timer with a longer delay at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Calls `callback` once after any time, in milliseconds; returns a function that cancels the call. */
export function after(ms: number, callback: () => void): () => void {
  let timer: NodeJS.Timeout
  const arm = (remainingMs: number): void => {
    const delayMs = Math.min(remainingMs, LONGEST_TIMER_MS)
    timer = setTimeout(() => {
      if (remainingMs > delayMs) arm(remainingMs - delayMs)
      else callback()
    }, delayMs)
  }
  arm(ms)
  return () => {
    clearTimeout(timer)
  }
}
