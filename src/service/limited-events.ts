import type { Clock } from '../base/clock.js'

/** Upper bound on events per window; one more stands for the rest. */
const EVENTS_PER_WINDOW = 10
const WINDOW_MS = 1_000

/**
 * Limits the events about what any client can cause: one can fail thousands of handshakes or requests per second, and
 * each event is usually logged. The last event of a second is about its latest occurrence, and counts those without an
 * event of their own.
 */
export class LimitedEvents<T> {
  readonly #clock: Clock
  readonly #emit: (latest: T, count: number) => void
  #windowEnd = -Infinity
  #emitted = 0
  #pending: { readonly latest: T; readonly count: number } | undefined
  #cancel: () => void = () => undefined

  constructor(clock: Clock, emit: (latest: T, count: number) => void) {
    this.#clock = clock
    this.#emit = emit
  }

  report(occurrence: T): void {
    const now = this.#clock.now()
    // A clock that was set back starts a new window.
    const isOver = now >= this.#windowEnd || now < this.#windowEnd - WINDOW_MS
    if (isOver && this.#pending === undefined) {
      this.#windowEnd = now + WINDOW_MS
      this.#emitted = 0
    }
    if (this.#emitted < EVENTS_PER_WINDOW) {
      this.#emitted += 1
      this.#emit(occurrence, 1)
      return
    }
    if (this.#pending === undefined) {
      this.#cancel = this.#clock.after(Math.min(WINDOW_MS, this.#windowEnd - now), () => {
        this.flush()
      })
    }
    this.#pending = { latest: occurrence, count: (this.#pending?.count ?? 0) + 1 }
  }

  /** Emits the pending event. */
  flush(): void {
    this.#cancel()
    const pending = this.#pending
    this.#pending = undefined
    if (pending !== undefined) this.#emit(pending.latest, pending.count)
  }
}
