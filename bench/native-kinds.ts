/** The ways to reach the same application. */
export const KINDS = ['native', 'bare https', 'built-in pair'] as const
export type Kind = (typeof KINDS)[number]

export const BODY = 'hello from the service mesh\n'

/** The load of a client. */
export interface Load {
  /** The number of concurrent requests; with a rate, the maximum number of connections. */
  readonly concurrency: number
  readonly seconds: number
  /** Requests per second, each timed from when it was due. @default no limit */
  readonly perSecond?: number
}

/** What it says afterwards. */
export interface Report {
  readonly count: number
  readonly seconds: number
  readonly p50: number
  readonly p99: number
  /** Processor time of the client, in milliseconds. */
  readonly cpuMs: number
}
