import type { ProxyConfig, ProxyListener } from 'consul-connect/proxy'
import type { LogLevel } from '../operator/log.js'
import type { ConnectionOptions, ProxyStatus } from '../proxy.js'

/** A message from the primary process to a worker. */
export type ToWorker =
  | ({ readonly type: 'start' } & WorkerStart)
  | { readonly type: 'config'; readonly config: ProxyConfig }
  | { readonly type: 'level'; readonly level: LogLevel }
  | { readonly type: 'metrics'; readonly requestId: number }
  | { readonly type: 'close' }
  /** Sent after `close`: resets the connections that are still open. */
  | { readonly type: 'cut' }

/** A message from a worker to the primary process. */
export type FromWorker =
  /** The worker can receive messages. */
  | { readonly type: 'online' }
  | { readonly type: 'listening'; readonly listener: ProxyListener }
  | { readonly type: 'status'; readonly status: ProxyStatus }
  | { readonly type: 'metrics'; readonly requestId: number; readonly metrics: object }

interface WorkerStart {
  /** Unix socket of the primary process, which relays requests to the agent. */
  readonly agent: string
  readonly connections: ConnectionOptions
  readonly log: { readonly level: LogLevel; readonly json: boolean; readonly worker: number }
}
