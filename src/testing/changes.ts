/**
 * Consul's Raft index: one counter of all changes. Each topic (a service, the intentions, the roots) has the index of its
 * own last change.
 */
export class Changes {
  #index = 10
  readonly #modified = new Map<string, number>()
  readonly #waiting = new Set<() => void>()

  /** Counts a change of these topics and returns its index. */
  touch(...topics: string[]): number {
    this.#index++
    for (const topic of topics) this.#modified.set(topic, this.#index)
    for (const wake of [...this.#waiting]) wake()
    return this.#index
  }

  /** The index of the topic's last change; never 0, since clients do not block on index 0. */
  modified(topic: string): number {
    return this.#modified.get(topic) ?? 1
  }

  /** Resolves at the next change of any topic, after `timeoutMs`, or when the signal aborts. */
  next(timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(wake)
        signal.removeEventListener('abort', wake)
        resolve()
      }
      const timer = setTimeout(wake, Math.max(0, timeoutMs))
      this.#waiting.add(wake)
      signal.addEventListener('abort', wake)
      if (signal.aborted) wake()
    })
  }
}
