/**
 * Runs an action for each item, at most `limit` at a time.
 * @param signal - skips the remaining items once it is aborted
 */
export async function forEachConcurrently<T>(
  items: Iterable<T>,
  limit: number,
  act: (item: T) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  // The workers share one iterator, so that each item is taken once.
  const rest = [...items].values()
  const workers = Array.from({ length: limit }, async () => {
    for (const item of rest) if (signal?.aborted !== true) await act(item)
  })
  await Promise.all(workers)
}

/** Runs actions one after another. */
export class SerialQueue {
  #last: Promise<unknown> = Promise.resolve()

  /** Runs an action after all earlier ones, even if they failed. Settles as the action does. */
  run<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#last.then(act)
    this.#last = result.catch(() => undefined)
    return result
  }
}
