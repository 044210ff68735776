import { channel } from 'node:diagnostics_channel'

/** A typed channel of node:diagnostics_channel. */
export interface Channel<T> {
  readonly hasSubscribers: boolean
  publish(message: T): void
}

/** Opens a channel of node:diagnostics_channel, which costs almost nothing without a subscriber. */
export function openChannel<T>(name: `consul-connect:${string}`): Channel<T> {
  return channel(name)
}
