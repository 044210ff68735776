import type { Log } from 'consul-connect-proxy/log'
import type { ManagedProxy } from './managed-proxy.js'

/**
 * Stops and deregisters proxies in the background, because draining connections may take long. Failed removals are
 * retried by `retryFailed()`.
 */
export class ProxyRemovals {
  readonly #proxies = new Map<ManagedProxy, Promise<void> | undefined>()
  readonly #log: Log
  readonly #onRemoved: () => void

  constructor(log: Log, onRemoved: () => void) {
    this.#log = log
    this.#onRemoved = onRemoved
  }

  get proxies(): readonly ManagedProxy[] {
    return [...this.#proxies.keys()]
  }

  /** Whether a proxy of this service is still being removed. */
  has(serviceId: string): boolean {
    return this.proxies.some((proxy) => proxy.serviceId === serviceId)
  }

  add(proxy: ManagedProxy): void {
    this.#proxies.set(proxy, undefined)
    this.retryFailed()
  }

  /** Retries failed removals. Called once per pass. */
  retryFailed(): void {
    for (const [proxy, pending] of this.#proxies) {
      if (pending === undefined) this.#proxies.set(proxy, this.#remove(proxy))
    }
  }

  async #remove(proxy: ManagedProxy): Promise<void> {
    try {
      await proxy.remove()
      this.#proxies.delete(proxy)
      this.#onRemoved()
    } catch (error) {
      this.#proxies.set(proxy, undefined)
      this.#log.warn(`${proxy.id}: ${(error as Error).message}`)
    }
  }
}
