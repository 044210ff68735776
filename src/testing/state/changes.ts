import { systemClock } from '../../base/clock.js'

/** Wakes operations that wait for a change. */
export class Notifier {
  readonly #waiting = new Set<() => void>()

  notify(): void {
    for (const wake of [...this.#waiting]) wake()
  }

  /** Resolves at the next notification, after `timeoutMs`, or when the signal is aborted. Never rejects. */
  next(signal?: AbortSignal, timeoutMs?: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        cancel?.()
        this.#waiting.delete(wake)
        signal?.removeEventListener('abort', wake)
        resolve()
      }
      const cancel = timeoutMs === undefined ? undefined : systemClock.after(timeoutMs, wake)
      this.#waiting.add(wake)
      signal?.addEventListener('abort', wake)
      if (signal?.aborted) wake()
    })
  }
}

/** Holds requests back while it is closed. */
export class Gate {
  #opened: Notifier | undefined

  /** Resolves on release. Undefined while the gate is open. */
  get open(): Promise<void> | undefined {
    return this.#opened?.next()
  }

  close(): void {
    this.#opened ??= new Notifier()
  }

  release(): void {
    this.#opened?.notify()
    this.#opened = undefined
  }

  /** Opens the gate for new requests. Does not release the waiting requests, whose connections are closed. */
  reset(): void {
    this.#opened = undefined
  }
}

/**
 * Counts all changes, like the Raft index of Consul. Each topic (a service, the intentions, the roots) has the index of its
 * last change.
 */
export class Changes extends Notifier {
  #index = 10
  readonly #modified = new Map<string, number>()

  /** Counts a change of these topics and returns its index. */
  touch(...topics: string[]): number {
    this.#index++
    for (const topic of topics) this.#modified.set(topic, this.#index)
    this.notify()
    return this.#index
  }

  /** Returns the index of the last change of the topic. Never 0: clients do not block on the index 0. */
  modified(topic: string): number {
    return this.#modified.get(topic) ?? 1
  }
}
