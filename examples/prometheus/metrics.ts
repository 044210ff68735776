// Metrics for Prometheus by prom-client, from the channels of consul-connect and the figures of a service.
import { subscribe } from 'node:diagnostics_channel'
import type { ChannelMessages, Service } from 'consul-connect'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'

export const registry = new Registry()
const registers = [registry]

const histogram = <L extends string>(name: string, help: string, labelNames: readonly L[]) =>
  new Histogram({ name: `connect_${name}_seconds`, help, labelNames, registers })

/** What happens, for every service of the process. Call it before the first service is made. */
export function observe(): void {
  const dials = histogram('dial', 'Dials of upstreams', ['service', 'upstream', 'outcome'])
  const handshakes = histogram('handshake', 'Inbound handshakes', ['service', 'outcome'])
  const requests = histogram('agent_request', 'Requests to the agent that did not block', ['outcome'])
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

/** How things stand with a service, read whenever Prometheus asks. */
export function expose(service: Service): void {
  const gauge = (name: string, help: string, read: (gauge: Gauge) => void, labelNames: string[] = []) =>
    new Gauge({
      name: `connect_${name}`,
      help,
      labelNames,
      registers,
      collect() {
        this.reset()
        read(this)
      },
    })
  gauge('certificate_expires_timestamp_seconds', 'When the certificate expires', (each) => {
    const { leaf } = service
    if (leaf !== undefined) each.set(leaf.notAfter.getTime() / 1_000)
  })
  gauge('agent_stale_seconds', 'For how long the agent has been away', (each) => {
    each.set(service.figures().staleMs / 1_000)
  })
  gauge('inbound_connections', 'Inbound connections that are open', (each) => {
    each.set(service.figures().connections)
  })
  gauge(
    'decisions_total',
    'What was decided of peers, and on what ground',
    (each) => {
      for (const { authorized, basis, count } of service.figures().decisions)
        each.set({ authorized: String(authorized), basis }, count)
    },
    ['authorized', 'basis'],
  )
  gauge(
    'revocations_total',
    'Connections that were ended since their peer may no longer be in',
    (each) => {
      for (const { basis, count } of service.figures().revocations) each.set({ basis }, count)
    },
    ['basis'],
  )
  gauge(
    'rejections_total',
    'Peers that did not prove who they are, by the code of the error',
    (each) => {
      for (const { code, count } of service.figures().rejections) each.set({ code }, count)
    },
    ['code'],
  )
}

function on<K extends keyof ChannelMessages>(channel: K, tell: (message: ChannelMessages[K]) => void): void {
  subscribe(channel, (message) => {
    tell(message as ChannelMessages[K])
  })
}

function codeOf(error: Error | undefined): string {
  return error === undefined ? 'ok' : ((error as { code?: string }).code ?? error.name)
}
