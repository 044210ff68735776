import type { Forward, Service } from 'consul-connect'
import type { ProxyUpstream } from 'consul-connect/proxy'
import { addressOf } from './address.js'
import { reasonOf } from './inbound.js'
import type { Log } from './log.js'
import type { Metrics } from './metrics.js'
import { Opening } from './opening.js'
import type { Standby } from './standby.js'
import type { Door, Traffic } from './traffic.js'

export interface OutboundOptions {
  readonly service: Service
  readonly traffic: Traffic
  readonly metrics: Metrics
  readonly log: Log
  readonly isEnding: () => boolean
  readonly standby: Standby | undefined
}

/** One upstream: a local port or unix socket that leads to a service or a prepared query. */
export class Outbound {
  readonly upstream: ProxyUpstream
  readonly name: string
  readonly #opening: Opening<Forward>
  #isClosed = false

  constructor(upstream: ProxyUpstream, options: OutboundOptions) {
    const { service, log, standby } = options
    this.upstream = upstream
    this.name = nameOf(upstream)
    const address = addressOf(upstream.bind)
    const { target, connectTimeoutMs, idleTimeoutMs, bind } = upstream
    const bounds = {
      dialTimeoutMs: connectTimeoutMs,
      ...(idleTimeoutMs !== undefined && { idleTimeoutMs }),
    }
    this.#opening = new Opening(
      async (signal) => {
        const forward = await service.forward(target, { ...bind, ...bounds, signal })
        this.#observe(forward, options)
        return forward
      },
      (error, retryInMs) => {
        log.warn(`upstream ${this.name}: ${error.message}`, { retry_in_ms: retryInMs })
      },
      () => {
        log.info('upstream is open', { upstream: this.name, address })
      },
      standby && { of: standby, isOptional: true },
    )
  }

  get isOpen(): boolean {
    return this.#opening.current !== undefined
  }

  get error(): Error | undefined {
    return this.#opening.error
  }

  /** Stops to listen at once. */
  async close(drainTimeoutMs: number): Promise<void> {
    this.#isClosed = true
    await this.#opening.close(drainTimeoutMs)
  }

  #observe(forward: Forward, { traffic, metrics, isEnding }: OutboundOptions): void {
    const isCut = (): boolean => this.#isClosed || isEnding()
    const door: Door = { direction: 'upstream', name: this.name }
    forward.on('accepted', (connection) => {
      traffic.opened(door, connection)
    })
    forward.on('dialled', ({ dialMs }) => {
      if (dialMs !== undefined) metrics.dialled(this.name, dialMs)
    })
    forward.on('ended', (connection) => {
      const { error, dialMs } = connection
      if (error === undefined) traffic.closed(door, connection, 'ended')
      else if (dialMs !== undefined) traffic.closed(door, connection, reasonOf(error, isCut()), error)
      else {
        metrics.dialFailed(this.name, error)
        traffic.closed(door, connection, isCut() ? 'shutdown' : 'unreachable', error)
      }
    })
  }
}

/** `db`, `nearest-redis.query`, and after an `@` the datacenter if one is named. */
function nameOf({ target }: ProxyUpstream): string {
  const name = 'service' in target ? target.service : `${target.query}.query`
  return target.datacenter === undefined ? name : `${name}@${target.datacenter}`
}
