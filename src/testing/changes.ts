/**
 * Consul's raft index: one counter over everything that changes. Each topic (a service, the intentions, the
 * roots) remembers the index of its own last change.
 */
export class Changes {
  #index = 10
  readonly #modified = new Map<string, number>()
  readonly #waiting = new Set<() => void>()

  /** Counts a change of these topics, and returns its index. */
  touch(...topics: string[]): number {
    this.#index++
    for (const topic of topics) this.#modified.set(topic, this.#index)
    for (const wake of [...this.#waiting]) wake()
    return this.#index
  }

  /** The index of the topic's last change; never 0, which would make a client ask without blocking. */
  modified(topic: string): number {
    return this.#modified.get(topic) ?? 1
  }

  /** Resolves at the next change of anything, or when the signal aborts. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake)
        signal.removeEventListener('abort', wake)
        resolve()
      }
      this.#waiting.add(wake)
      signal.addEventListener('abort', wake)
      if (signal.aborted) wake()
    })
  }
}
