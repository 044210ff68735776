import type { Forward, Service } from 'consul-connect'
import type { ProxyUpstream } from 'consul-connect/proxy'
import { formatAddress } from '../operator/format-address.js'
import type { Log } from '../operator/log.js'
import type { Metrics } from '../operator/metrics.js'
import { RetryingListener } from './retrying-listener.js'
import type { Standby } from '../workers/standby.js'
import { type ListenerLabels, type Traffic, closeReason } from './traffic.js'

export interface OutboundOptions {
  readonly service: Service
  readonly traffic: Traffic
  readonly metrics: Metrics
  readonly log: Log
  readonly isShuttingDown: () => boolean
  readonly standby: Standby | undefined
}

/** The local listener of an upstream: a port or Unix socket whose connections go to a service or prepared query. */
export class Outbound {
  readonly upstream: ProxyUpstream
  readonly name: string
  readonly #listener: RetryingListener<Forward>
  #isClosed = false

  constructor(upstream: ProxyUpstream, options: OutboundOptions) {
    const { service, log, standby } = options
    this.upstream = upstream
    this.name = nameOf(upstream)
    const address = formatAddress(upstream.bind)
    const { destination, connectTimeoutMs, idleTimeoutMs, bind } = upstream
    const timeouts = {
      dialTimeoutMs: connectTimeoutMs,
      ...(idleTimeoutMs !== undefined && { idleTimeoutMs }),
    }
    this.#listener = new RetryingListener({
      open: async (signal) => {
        const forward = await service.forward(destination, { ...bind, ...timeouts, signal })
        this.#observe(forward, options)
        return forward
      },
      onFailed: (error, retryInMs) => {
        log.warn(`upstream ${this.name}: ${error.message}`, { retry_in_ms: retryInMs })
      },
      onOpen: () => {
        log.info('upstream is open', { upstream: this.name, address })
      },
      standby: standby && { standby, isOptional: true },
    })
  }

  /** Whether the listener is open. */
  get isOpen(): boolean {
    return this.#listener.current !== undefined
  }

  /** Why the listener is not open. */
  get error(): Error | undefined {
    return this.#listener.error
  }

  /** Stops listening at once, and resolves when all connections have ended. */
  async close(drainTimeoutMs: number): Promise<void> {
    this.#isClosed = true
    await this.#listener.close(drainTimeoutMs)
  }

  #observe(forward: Forward, { traffic, metrics, isShuttingDown }: OutboundOptions): void {
    const isClosing = (): boolean => this.#isClosed || isShuttingDown()
    const labels: ListenerLabels = { direction: 'upstream', name: this.name }
    forward.on('accepted', (connection) => {
      traffic.opened(labels, connection)
    })
    forward.on('dialed', ({ dialMs }) => {
      if (dialMs !== undefined) metrics.dialed(this.name, dialMs)
    })
    forward.on('ended', (connection) => {
      const { error, dialMs } = connection
      if (error === undefined) traffic.closed(labels, connection, 'ended')
      else if (dialMs !== undefined)
        traffic.closed(labels, connection, closeReason(error, isClosing()), error)
      else {
        metrics.dialFailed(this.name, error)
        traffic.closed(labels, connection, isClosing() ? 'shutdown' : 'unreachable', error)
      }
    })
  }
}

/** Formats the name of an upstream: `db`, `nearest-redis.query`, or `db@dc2`. */
function nameOf({ destination }: ProxyUpstream): string {
  const name = 'service' in destination ? destination.service : `${destination.query}.query`
  return destination.datacenter === undefined ? name : `${name}@${destination.datacenter}`
}
