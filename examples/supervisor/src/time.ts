import { setTimeout as sleep } from 'node:timers/promises'

/** Whether the time passed; false when it was broken off. */
export async function elapsed(ms: number, signal: AbortSignal): Promise<boolean> {
  return sleep(ms, true, { signal }).catch(() => false)
}

/** The value, when it is there in time. */
export async function within<T>(ms: number, value: Promise<T> | undefined): Promise<T | undefined> {
  const done = new AbortController()
  const first = await Promise.race([value, elapsed(ms, done.signal).then(() => undefined)])
  done.abort()
  return first
}
