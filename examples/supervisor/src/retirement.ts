import type { Log } from 'consul-connect-proxy/log'
import type { ManagedProxy } from './managed-proxy.js'

/**
 * Stops and deregisters proxies in the background, because draining connections may take long. Failed removals are
 * retried by `proceed()`.
 */
export class Retirement {
  readonly #proxies = new Map<ManagedProxy, Promise<void> | undefined>()
  readonly #log: Log
  readonly #onGone: () => void

  constructor(log: Log, onGone: () => void) {
    this.#log = log
    this.#onGone = onGone
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
    this.proceed()
  }

  /** Retries failed removals. Called once per pass. */
  proceed(): void {
    for (const [proxy, underWay] of this.#proxies) {
      if (underWay === undefined) this.#proxies.set(proxy, this.#retire(proxy))
    }
  }

  async #retire(proxy: ManagedProxy): Promise<void> {
    try {
      await proxy.retire()
      this.#proxies.delete(proxy)
      this.#onGone()
    } catch (error) {
      this.#proxies.set(proxy, undefined)
      this.#log.warn(`${proxy.id}: ${(error as Error).message}`)
    }
  }
}
