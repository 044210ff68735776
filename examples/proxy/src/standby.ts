import { closeSync, fstatSync, writeSync } from 'node:fs'
import { errorCode } from './error-code.js'

/** Names the descriptor on which a supervisor waits for a proxy that is to replace a running one. */
const VARIABLE = 'CONNECT_PROXY_STANDBY_FD'

const POLL_MS = 50
/** Connections are refused for this time at most, and the time of one attempt. */
const TAKEOVER_POLL_MS = 5
/** The predecessor stops listening as soon as it is asked to end. */
const TAKEOVER_MS = 30_000

/**
 * The start of a proxy while its predecessor still has the addresses. The proxy gets everything ready, such as its
 * certificate, and reports it. The supervisor then ends the predecessor, and the addresses are taken as soon as they are
 * free.
 */
export class Standby {
  readonly #descriptor: number
  readonly #pending = new Set<object>()
  #isConfigured = false
  #readyAt: number | undefined

  /** @param descriptor - where to report that it is ready */
  constructor(descriptor: number) {
    this.#descriptor = descriptor
  }

  /** Something is to listen. */
  begin(opening: object): void {
    if (this.#readyAt === undefined) this.#pending.add(opening)
  }

  /** It listens, or is no longer to. */
  end(opening: object): void {
    this.#pending.delete(opening)
    this.#report()
  }

  /** Everything that is to listen has begun. */
  configured(): void {
    this.#isConfigured = true
    this.#report()
  }

  /**
   * When to try again to listen, in milliseconds; undefined when the error is not that of an address in use.
   * @param isOptional - whether the proxy is ready without what failed
   */
  retryMs(opening: object, error: Error, isOptional: boolean): number | undefined {
    const isInUse = errorCode(error) === 'EADDRINUSE'
    if (isInUse || isOptional) this.end(opening)
    if (!isInUse) return undefined
    if (this.#readyAt === undefined) return POLL_MS
    return performance.now() - this.#readyAt < TAKEOVER_MS ? TAKEOVER_POLL_MS : undefined
  }

  #report(): void {
    if (this.#readyAt !== undefined || !this.#isConfigured || this.#pending.size > 0) return
    this.#readyAt = performance.now()
    try {
      writeSync(this.#descriptor, 'ready\n')
      closeSync(this.#descriptor)
    } catch {
      // The supervisor has ended.
    }
  }
}

/** Undefined for a proxy that replaces none. */
export function openStandby(env: Record<string, string | undefined>): Standby | undefined {
  const text = env[VARIABLE]
  if (text === undefined || !/^\d{1,4}$/.test(text)) return undefined
  try {
    const stats = fstatSync(Number(text))
    return stats.isSocket() || stats.isFIFO() ? new Standby(Number(text)) : undefined
  } catch {
    return undefined
  }
}
