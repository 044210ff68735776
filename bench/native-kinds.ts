/** The ways in which the same application is reached. */
export const KINDS = ['native', 'bare https', 'built-in pair'] as const
export type Kind = (typeof KINDS)[number]

export const BODY = 'hello, somebody of the mesh\n'

/** What a client is told to do. */
export interface Load {
  /** How many requests are under way at a time; or, where there is a rate, how many connections there may be. */
  readonly concurrency: number
  readonly seconds: number
  /** Requests a second, each timed from when it was due. @default as many as go */
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
