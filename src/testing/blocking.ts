import type { Changes } from './changes.js'
import { parseDuration } from './duration.js'
import { HttpError, type Call } from './http.js'

const defaultWaitMs = 300_000
const maxWaitMs = 600_000

/** The index a client has seen already; 0 asks for an answer at once. */
export function seenIndex(call: Call): number {
  const index = call.query.get('index') ?? ''
  if (index !== '' && !/^\d+$/.test(index)) throw new HttpError(400, 'Invalid index')
  return Number(index)
}

export function waitMs(call: Call): number {
  const wait = call.query.get('wait') ?? ''
  if (wait === '') return defaultWaitMs
  const ms = parseDuration(wait)
  if (ms === undefined) throw new HttpError(400, 'Invalid wait time')
  return ms <= 0 ? defaultWaitMs : Math.min(ms, maxWaitMs)
}

/**
 * Waits until there is something new, the wait time is over or the client is gone. `due` wakes it besides, for
 * news that come with time and not with a change.
 */
export async function blockUntil(
  call: Call,
  changes: Changes,
  isNew: () => boolean,
  due: () => number | undefined = () => undefined,
): Promise<void> {
  // Consul adds up to a sixteenth, so that a fleet of clients does not come back at once.
  const wait = waitMs(call)
  const deadline = Date.now() + wait + Math.random() * (wait / 16)
  while (!isNew() && Date.now() < deadline && !call.signal.aborted) {
    const until = Math.min(deadline, due() ?? Infinity)
    await call.blocked(nextChange(changes, until - Date.now(), call.signal))
  }
}

/** A blocking query by index: returns at once unless the client has seen this index already. */
export async function blockOnIndex(call: Call, changes: Changes, index: () => number): Promise<void> {
  const seen = seenIndex(call)
  // Also without an index a malformed wait time is refused.
  waitMs(call)
  if (seen > 0) await blockUntil(call, changes, () => index() > seen)
}

async function nextChange(changes: Changes, ms: number, signal: AbortSignal): Promise<void> {
  const wake = new AbortController()
  const abort = (): void => {
    wake.abort()
  }
  const timer = setTimeout(abort, Math.max(0, ms))
  signal.addEventListener('abort', abort)
  if (signal.aborted) abort()
  try {
    await changes.next(wake.signal)
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', abort)
  }
}
