import { elapsed } from 'consul-connect-proxy/time'

export { elapsed }

/** Waits for a promise. Resolves with its value, or with undefined after `ms`. */
export async function within<T>(ms: number, value: Promise<T> | undefined): Promise<T | undefined> {
  const done = new AbortController()
  try {
    return await Promise.race([value, elapsed(ms, done.signal).then(() => undefined)])
  } finally {
    done.abort()
  }
}
