import type { ProxyConfig, ProxyListener } from 'consul-connect/proxy'
import type { LogLevel } from './log.js'
import type { ProxyStatus } from './proxy.js'

/** What a worker is told. */
export type ToWorker =
  | ({ readonly type: 'start' } & WorkerStart)
  | { readonly type: 'config'; readonly config: ProxyConfig }
  | { readonly type: 'level'; readonly level: LogLevel }
  | { readonly type: 'metrics'; readonly question: number }
  | { readonly type: 'close' }
  /** Follows `close`: what is still open is reset. */
  | { readonly type: 'cut' }

/** What a worker tells. */
export type FromWorker =
  /** It listens to what it is told from now on. */
  | { readonly type: 'hello' }
  | { readonly type: 'listening'; readonly listener: ProxyListener }
  | { readonly type: 'status'; readonly status: ProxyStatus }
  | { readonly type: 'metrics'; readonly question: number; readonly metrics: object }

interface WorkerStart {
  /** Where the first process answers for the agent. */
  readonly agent: string
  readonly ecdhCurve: string | undefined
  readonly log: { readonly level: LogLevel; readonly json: boolean; readonly worker: number }
}
