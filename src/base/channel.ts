import { channel } from 'node:diagnostics_channel'

/** The part of a channel that is used here; typed, as Node's own types are not. */
export interface Channel<T> {
  readonly hasSubscribers: boolean
  publish(message: T): void
}

/** A channel of node:diagnostics_channel; without a subscriber it costs next to nothing. */
export function openChannel<T>(name: `consul-connect:${string}`): Channel<T> {
  return channel(name)
}
