/**
 * The connections that are compared: this library, node:https with the same certificates, Consul's built-in proxies, and
 * Envoys that pass bytes or parse requests.
 */
export const KINDS = ['native', 'node:https', 'Consul proxies', 'Envoy, tcp', 'Envoy, http'] as const
export type Kind = (typeof KINDS)[number]

export const BODY = 'hello from the service mesh\n'

/** The load of a client. */
export interface Load {
  /** The number of concurrent requests; with a rate, the maximum number of connections. */
  readonly concurrency: number
  readonly seconds: number
  /** @default / */
  readonly path?: string
  /** Requests per second, each timed from when it was due. @default no limit */
  readonly perSecond?: number
}

/** The result of a client. */
export interface Report {
  readonly count: number
  readonly seconds: number
  readonly p50: number
  readonly p99: number
  /** Processor time of the client, in milliseconds. */
  readonly cpuMs: number
}
