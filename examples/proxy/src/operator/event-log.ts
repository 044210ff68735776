import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { ChannelMessages } from 'consul-connect'
import type { Log } from './log.js'

type Channel = keyof ChannelMessages
type Fields = Readonly<Record<string, unknown>>
type Level = 'debug' | 'trace'

/** Log level, message, and fields for each diagnostics channel of the library. Fields must not hold secrets. */
const LINES: { readonly [C in Channel]?: (message: ChannelMessages[C]) => [Level, string, Fields] } = {
  'consul-connect:resolution': ({ upstream, datacenter, addresses, isSorted, error }) => [
    'debug',
    'service discovery',
    {
      upstream,
      datacenter,
      instances: addresses.length,
      addresses: addresses.slice(0, MAX_ADDRESSES),
      nearest_first: isSorted,
      error: error?.message,
    },
  ],
  'consul-connect:decision': ({ service, peer, authorized, basis, reason, durationMs }) => [
    'debug',
    'authorization',
    { service, peer: peer.spiffeId, authorized, basis, reason, duration_ms: roundMs(durationMs) },
  ],
  'consul-connect:request': ({ service, peer, method, path, status, authorized, basis, reason }) => [
    'debug',
    'request',
    { service, peer: peer.spiffeId, method, path, status, authorized, basis, reason },
  ],
  'consul-connect:rotation': ({ service, what, leaf, roots }) => [
    'debug',
    'certificate',
    what === 'leaf'
      ? {
          service,
          uri: leaf.uri,
          serial: leaf.serialNumber,
          valid_from: leaf.notBefore.toISOString(),
          valid_to: leaf.notAfter.toISOString(),
        }
      : { service, trust_domain: roots.trustDomain, roots: roots.pems.length },
  ],
  'consul-connect:handshake': ({ service, peer, durationMs, error }) => [
    'trace',
    'inbound handshake',
    { service, peer: peer?.spiffeId, duration_ms: roundMs(durationMs), error: error?.message },
  ],
  'consul-connect:dial': ({ upstream, address, peer, attempts, durationMs, error }) => [
    'trace',
    'dial',
    {
      upstream,
      address,
      peer: peer?.spiffeId,
      failed_attempts: attempts.length,
      duration_ms: roundMs(durationMs),
      error: error?.message,
    },
  ],
  'consul-connect:agent-request': ({ method, path, isBlocking, status, durationMs, error }) => [
    'trace',
    'agent request',
    {
      method,
      path,
      blocking: isBlocking,
      status,
      duration_ms: roundMs(durationMs),
      error: error?.message,
    },
  ],
}
const MAX_ADDRESSES = 20

/** Logs the library's diagnostics: decisions at `debug`, single steps at `trace`. */
export class EventLog {
  readonly #subscriptions: [Channel, (message: unknown) => void][]

  constructor(log: Log) {
    this.#subscriptions = (Object.keys(LINES) as Channel[]).map((channel) => [
      channel,
      (message) => {
        // Skip building the fields when neither `debug` nor `trace` is enabled.
        if (!log.isDebug) return
        const toLine = LINES[channel] as ((message: unknown) => [Level, string, Fields]) | undefined
        if (toLine === undefined) return
        const [level, text, fields] = toLine(message)
        log[level](text, fields)
      },
    ])
    for (const [channel, onMessage] of this.#subscriptions) subscribe(channel, onMessage)
  }

  close(): void {
    for (const [channel, onMessage] of this.#subscriptions) unsubscribe(channel, onMessage)
  }
}

function roundMs(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.round(ms * 10) / 10
}
