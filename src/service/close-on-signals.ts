import type { Service } from './service.js'

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/**
 * Closes services on SIGINT or SIGTERM, and then ends the process by the same signal, so that its exit status is that of
 * the signal. A second signal ends the process at once.
 * @returns a function that stops listening for the signals
 * @example
 * ```ts
 * const shop = connect.service('shop')
 * const stop = connect.closeOnSignals(shop)
 * stop()
 * await shop.close()
 * ```
 */
export function closeOnSignals(...services: readonly Service[]): () => void {
  const stop = (): void => {
    for (const signal of SIGNALS) process.off(signal, onSignal)
  }
  const onSignal = (signal: NodeJS.Signals): void => {
    stop()
    void Promise.all(services.map((service) => service.close())).finally(() => {
      process.kill(process.pid, signal)
    })
  }
  for (const signal of SIGNALS) process.on(signal, onSignal)
  return stop
}
