// Prometheus metrics with prom-client, from the diagnostics channels of consul-connect and from service.stats().
import { subscribe } from 'node:diagnostics_channel'
import type { ChannelMessages, Service } from 'consul-connect'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'

export const registry = new Registry()
const registers = [registry]

const histogram = <L extends string>(name: string, help: string, labelNames: readonly L[]) =>
  new Histogram({ name: `connect_${name}_seconds`, help, labelNames, registers })

/** Starts recording events of all services of the process. Call it before the first service is created. */
export function observe(): void {
  const dials = histogram('dial', 'Dials of upstreams', ['service', 'upstream', 'outcome'])
  const handshakes = histogram('handshake', 'Inbound handshakes', ['service', 'outcome'])
  const requests = histogram('agent_request', 'Non-blocking requests to the agent', ['outcome'])
  const rotations = new Counter({
    name: 'connect_rotations_total',
    help: 'New certificates and roots',
    labelNames: ['service', 'what'],
    registers,
  })
  on('consul-connect:dial', ({ service, upstream, durationMs, error }) => {
    dials.observe({ service, upstream, outcome: codeOf(error) }, durationMs / 1_000)
  })
  on('consul-connect:handshake', ({ service, durationMs = 0, error }) => {
    handshakes.observe({ service, outcome: codeOf(error) }, durationMs / 1_000)
  })
  on('consul-connect:agent-request', ({ status, isBlocking, durationMs, error }) => {
    if (!isBlocking) requests.observe({ outcome: String(status ?? codeOf(error)) }, durationMs / 1_000)
  })
  on('consul-connect:rotation', ({ service, what }) => {
    rotations.inc({ service, what })
  })
}

const exposed = new Set<Service>()

/** Adds the counters of a service, which are read on each scrape. They are removed when the service closes. */
export function expose(service: Service): void {
  exposed.add(service)
  service.once('closed', () => exposed.delete(service))
}

gauge('certificate_expires_timestamp_seconds', 'Expiry time of the certificate', [], ({ leaf }, set) => {
  if (leaf !== undefined) set({}, leaf.notAfter.getTime() / 1_000)
})
gauge('agent_stale_seconds', 'Time since the agent was last reached', [], (service, set) => {
  set({}, service.stats().staleMs / 1_000)
})
gauge('inbound_connections', 'Open inbound connections', [], (service, set) => {
  set({}, service.stats().connections)
})
gauge('decisions_total', 'Authorization decisions', ['authorized', 'basis'], (service, set) => {
  for (const { authorized, basis, count } of service.stats().decisions)
    set({ authorized: String(authorized), basis }, count)
})
gauge(
  'revocations_total',
  'Connections closed because the peer is no longer authorized',
  ['basis'],
  (service, set) => {
    for (const { basis, count } of service.stats().revocations) set({ basis }, count)
  },
)
gauge('rejections_total', 'Inbound connections rejected before authorization', ['code'], (service, set) => {
  for (const { code, count } of service.stats().rejections) set({ code }, count)
})

/** Creates a gauge with the label `service`, read from each exposed service. */
function gauge<L extends string>(
  name: string,
  help: string,
  labelNames: readonly L[],
  read: (service: Service, set: (labels: Record<L, string>, value: number) => void) => void,
): void {
  new Gauge({
    name: `connect_${name}`,
    help,
    labelNames: ['service', ...labelNames],
    registers,
    collect() {
      this.reset()
      for (const service of exposed) {
        read(service, (labels, value) => {
          this.set({ service: service.name, ...labels }, value)
        })
      }
    },
  })
}

function on<K extends keyof ChannelMessages>(
  channel: K,
  onMessage: (message: ChannelMessages[K]) => void,
): void {
  subscribe(channel, (message) => {
    onMessage(message as ChannelMessages[K])
  })
}

function codeOf(error: Error | undefined): string {
  return error === undefined ? 'ok' : ((error as { code?: string }).code ?? error.name)
}
