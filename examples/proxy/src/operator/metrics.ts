import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { HandshakeMessage, Service } from 'consul-connect'
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'
import type { Traffic } from '../listeners/traffic.js'

const PREFIX = 'connect_proxy_'
const CHANNEL = 'consul-connect:handshake'
/** Histogram buckets in seconds: a handshake takes milliseconds in a datacenter, and some 300 ms between continents. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

/** Prometheus metrics of one process. Counters of the library and of `Traffic` are copied when they are collected. */
export class Metrics {
  readonly registry = new Registry()
  readonly #handshakes: Histogram<'outcome'>
  readonly #dials: Histogram<'upstream'>
  readonly #dialFailures: Counter<'upstream' | 'code'>
  #service: Service | undefined
  readonly #onHandshake = (message: unknown): void => {
    const { durationMs, error } = message as HandshakeMessage
    if (durationMs !== undefined) this.#handshakes.observe({ outcome: outcomeOf(error) }, durationMs / 1_000)
  }

  constructor(traffic: Traffic) {
    const registers = [this.registry]
    collectDefaultMetrics({ register: this.registry })
    this.#handshakes = new Histogram({
      name: `${PREFIX}handshake_seconds`,
      help: 'Time of inbound handshakes; outcome is ok or an error code',
      labelNames: ['outcome'],
      buckets: BUCKETS,
      registers,
    })
    this.#dials = new Histogram({
      name: `${PREFIX}dial_seconds`,
      help: 'Time from accepting a local connection until the upstream is connected and its identity verified',
      labelNames: ['upstream'],
      buckets: BUCKETS,
      registers,
    })
    this.#dialFailures = new Counter({
      name: `${PREFIX}dial_failures_total`,
      help: 'Local connections whose upstream could not be reached, by error code',
      labelNames: ['upstream', 'code'],
      registers,
    })
    this.#countTraffic(traffic)
    this.#countDecisions()
    subscribe(CHANNEL, this.#onHandshake)
  }

  /** Sets the service whose decisions and certificate are exported. */
  setService(service: Service): void {
    this.#service = service
  }

  dialed(upstream: string, ms: number): void {
    this.#dials.observe({ upstream }, ms / 1_000)
  }

  dialFailed(upstream: string, error: Error): void {
    this.#dialFailures.inc({ upstream, code: codeOf(error) })
  }

  close(): void {
    unsubscribe(CHANNEL, this.#onHandshake)
    this.registry.clear()
  }

  #countTraffic(traffic: Traffic): void {
    const registers = [this.registry]
    const labelNames = ['direction', 'name'] as const
    new Counter({
      name: `${PREFIX}connections_opened_total`,
      help: 'Accepted connections',
      labelNames,
      registers,
      collect() {
        this.reset()
        for (const { direction, name, opened } of traffic.totals()) this.inc({ direction, name }, opened)
      },
    })
    new Gauge({
      name: `${PREFIX}connections_open`,
      help: 'Open connections',
      labelNames,
      registers,
      collect() {
        this.reset()
        for (const { direction, name, open } of traffic.totals()) this.set({ direction, name }, open)
      },
    })
    new Counter({
      name: `${PREFIX}connections_closed_total`,
      help: 'Closed connections, by reason',
      labelNames: [...labelNames, 'reason'],
      registers,
      collect() {
        this.reset()
        for (const { direction, name, closed } of traffic.totals())
          for (const [reason, count] of closed) this.inc({ direction, name, reason }, count)
      },
    })
    new Counter({
      name: `${PREFIX}bytes_total`,
      help: 'Bytes transferred; sent is from the application to the mesh',
      labelNames: [...labelNames, 'way'],
      registers,
      collect() {
        this.reset()
        for (const { direction, name, sent, received } of traffic.totals()) {
          this.inc({ direction, name, way: 'sent' }, sent)
          this.inc({ direction, name, way: 'received' }, received)
        }
      },
    })
  }

  #countDecisions(): void {
    const registers = [this.registry]
    const service = (): Service | undefined => this.#service
    const results = {
      decisions: 'Authorization decisions on authenticated inbound connections, by result and basis',
      requests: 'Decisions for HTTP requests of peers whose intention has permissions, by result and basis',
    }
    for (const [what, help] of Object.entries(results) as [keyof typeof results, string][]) {
      new Counter({
        name: `${PREFIX}${what}_total`,
        help,
        labelNames: ['authorized', 'basis'],
        registers,
        collect() {
          this.reset()
          for (const { authorized, basis, count } of service()?.stats()[what] ?? [])
            this.inc({ authorized: String(authorized), basis }, count)
        },
      })
    }
    new Counter({
      name: `${PREFIX}revocations_total`,
      help: 'Open connections and requests ended because their peer is no longer authorized, by basis',
      labelNames: ['basis'],
      registers,
      collect() {
        this.reset()
        for (const { basis, count } of service()?.stats().revocations ?? []) this.inc({ basis }, count)
      },
    })
    new Counter({
      name: `${PREFIX}rejections_total`,
      help: 'Inbound connections rejected because authentication failed or a limit was reached, by error code',
      labelNames: ['code'],
      registers,
      collect() {
        this.reset()
        for (const { code, count } of service()?.stats().rejections ?? []) this.inc({ code }, count)
      },
    })
    new Gauge({
      name: `${PREFIX}sessions_open`,
      help: 'Open sessions that carry many connections, by which end has dialed',
      labelNames: ['side'],
      registers,
      collect() {
        const { inbound = 0, outbound = 0 } = service()?.stats().sessions ?? {}
        this.set({ side: 'inbound' }, inbound)
        this.set({ side: 'outbound' }, outbound)
      },
    })
    new Gauge({
      name: `${PREFIX}session_connections_open`,
      help: 'Open connections in sessions',
      registers,
      collect() {
        this.set(service()?.stats().sessions.streams ?? 0)
      },
    })
    const opening = {
      opened: 'Connections opened in a session',
      refused: 'Connections that could not be opened in a session, which was full or about to end',
    }
    for (const [what, help] of Object.entries(opening) as [keyof typeof opening, string][]) {
      new Counter({
        name: `${PREFIX}session_connections_${what}_total`,
        help,
        registers,
        collect() {
          this.reset()
          this.inc(service()?.stats().sessions[what] ?? 0)
        },
      })
    }
    new Gauge({
      name: `${PREFIX}certificate_expiry_timestamp_seconds`,
      help: 'Expiry time of the certificate in use, in seconds since the epoch',
      aggregator: 'min',
      registers,
      collect() {
        const leaf = service()?.leaf
        if (leaf !== undefined) this.set(leaf.notAfter.getTime() / 1_000)
      },
    })
    new Gauge({
      name: `${PREFIX}agent_stale_seconds`,
      help: 'Time since the agent last confirmed the intentions; 0 while the agent answers',
      aggregator: 'max',
      registers,
      collect() {
        this.set((service()?.stats().staleMs ?? 0) / 1_000)
      },
    })
  }
}

function outcomeOf(error: Error | undefined): string {
  return error === undefined ? 'ok' : codeOf(error)
}

/** Returns the error code as a label value. Messages are unbounded and must not become labels. */
function codeOf(error: Error): string {
  const { code } = error as { code?: unknown }
  return typeof code === 'string' ? code : 'unknown'
}
