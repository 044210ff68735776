import type { Clock } from '../base/clock.js'

/** Warnings with the same code are printed once per this time. */
const PAUSE_MS = 60_000

/**
 * Passes the warnings of a service without a `warning` listener to `process.emitWarning`, which prints them, so that
 * failed connection handlers and rejected tokens are noticed.
 */
export class ProcessWarnings {
  readonly #clock: Clock
  readonly #emittedAt = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  emit(service: string, error: Error): void {
    const { code } = error as { readonly code?: unknown }
    const label = typeof code === 'string' ? code : error.name
    const now = this.#clock.now()
    const emittedAt = this.#emittedAt.get(label)
    if (emittedAt !== undefined && now >= emittedAt && now - emittedAt < PAUSE_MS) return
    this.#emittedAt.set(label, now)
    process.emitWarning(`${service}: ${error.message}`, { type: 'ConsulConnectWarning', code: label })
  }
}
