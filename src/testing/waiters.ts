/** Those who wait until something holds that changes now and then. */
export class Waiters {
  readonly #waiting = new Set<() => void>()

  /** Resolves once the condition holds; it is tried again at each `wake`. */
  until(condition: () => boolean, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        this.#waiting.delete(check)
        signal?.removeEventListener('abort', abort)
      }
      const check = (): void => {
        if (!condition()) return
        stop()
        resolve()
      }
      const abort = (): void => {
        stop()
        reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted'))
      }
      this.#waiting.add(check)
      signal?.addEventListener('abort', abort)
      if (signal?.aborted) abort()
      else check()
    })
  }

  wake(): void {
    for (const check of [...this.#waiting]) check()
  }
}
