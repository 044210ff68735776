import { closeSync, fstatSync, writeSync } from 'node:fs'

/** Environment variable with the descriptor on which a supervisor waits for a proxy that replaces a running one. */
const VARIABLE = 'CONNECT_PROXY_STANDBY_FD'

/** Retry interval while the predecessor is running. */
const POLL_MS = 50
/** Retry interval during the takeover: new connections are refused for about this long. */
const TAKEOVER_POLL_MS = 5
/** Duration of the takeover. The supervisor stops the predecessor as soon as this proxy reports `ready`. */
const TAKEOVER_MS = 30_000

/**
 * Coordinates the start of a proxy while its predecessor still holds the addresses. The proxy prepares everything else,
 * such as its certificate, and reports `ready` to the supervisor. The supervisor then stops the predecessor, and the
 * listeners retry every 5 ms until the addresses are free.
 */
export class Standby {
  readonly #descriptor: number
  readonly #pending = new Set<object>()
  #isConfigured = false
  #readyAt: number | undefined

  /** @param descriptor - open pipe or socket to which `ready\n` is written */
  constructor(descriptor: number) {
    this.#descriptor = descriptor
  }

  /** Adds a listener for which the report has to wait. */
  begin(listener: object): void {
    if (this.#readyAt === undefined) this.#pending.add(listener)
  }

  /** Removes a listener that is open, or was closed. */
  end(listener: object): void {
    this.#pending.delete(listener)
    this.#reportWhenReady()
  }

  /** Reports that the first configuration was applied, so that all listeners were added. */
  configured(): void {
    this.#isConfigured = true
    this.#reportWhenReady()
  }

  /**
   * Returns the pause until a failed listener should retry, in milliseconds; undefined for the listener's own pause. Applies
   * only to an address in use.
   * @param isOptional - whether the proxy can take over without this listener
   */
  retryMs(listener: object, error: Error, isOptional: boolean): number | undefined {
    const isInUse = systemErrorCode(error) === 'EADDRINUSE'
    if (isInUse || isOptional) this.end(listener)
    if (!isInUse) return undefined
    if (this.#readyAt === undefined) return POLL_MS
    return performance.now() - this.#readyAt < TAKEOVER_MS ? TAKEOVER_POLL_MS : undefined
  }

  #reportWhenReady(): void {
    if (this.#readyAt !== undefined || !this.#isConfigured || this.#pending.size > 0) return
    this.#readyAt = performance.now()
    try {
      writeSync(this.#descriptor, 'ready\n')
      closeSync(this.#descriptor)
    } catch {
      // The supervisor has exited; the proxy keeps running.
    }
  }
}

/** Reads the descriptor from the environment. Returns undefined for a proxy that does not replace another one. */
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

/** The code of a system error, which errors of the library carry as their cause. */
function systemErrorCode(error: Error): string | undefined {
  const { cause } = error
  return ((cause instanceof Error ? cause : error) as NodeJS.ErrnoException).code
}
