// Spans and metrics from the diagnostics channels of consul-connect.
import { subscribe } from 'node:diagnostics_channel'
import { SpanKind, SpanStatusCode, metrics, trace } from '@opentelemetry/api'
import type { ChannelMessages } from 'consul-connect'

const NAME = 'consul-connect'

/** Starts recording for all services of the process. Call it before the first service is created. */
export function instrument(): void {
  const tracer = trace.getTracer(NAME)
  const meter = metrics.getMeter(NAME)
  const durations = (name: string, description: string) =>
    meter.createHistogram(`connect.${name}.duration`, { unit: 'ms', description })
  const dials = durations('dial', 'Dials of upstreams, by outcome')
  const handshakes = durations('handshake', 'Inbound handshakes, by outcome')
  const decisions = durations('decision', 'Authorization decisions')
  const requests = durations('agent.request', 'Non-blocking requests to the agent')
  const revocations = meter.createCounter('connect.revocations', {
    description: 'Connections closed because the peer is no longer authorized',
  })
  const rotations = meter.createCounter('connect.rotations', { description: 'New certificates and roots' })

  on('consul-connect:dial', ({ service, upstream, peer, address, attempts, durationMs, error }) => {
    const outcome = codeOf(error)
    dials.record(durationMs, { service, upstream, outcome })
    // The message is published in the async context of the caller, so that the span gets the right parent.
    const end = Date.now()
    const span = tracer.startSpan(`dial ${upstream}`, {
      kind: SpanKind.CLIENT,
      startTime: end - durationMs,
      attributes: {
        'connect.service': service,
        'connect.upstream': upstream,
        'connect.failed_attempts': attempts.length,
        ...(peer !== undefined && { 'connect.peer': peer.spiffeId }),
        ...(address !== undefined && { 'network.peer.address': address }),
      },
    })
    if (error !== undefined) {
      span.recordException(error)
      span.setStatus({ code: SpanStatusCode.ERROR, message: error.message })
    }
    span.end(end)
  })
  on('consul-connect:handshake', ({ service, durationMs, error }) => {
    if (durationMs !== undefined) handshakes.record(durationMs, { service, outcome: codeOf(error) })
  })
  on('consul-connect:decision', ({ service, peer, authorized, basis, durationMs }) => {
    decisions.record(durationMs, { service, source: peer.service, authorized, basis })
  })
  on('consul-connect:revocation', ({ service, peer, error }) => {
    revocations.add(1, { service, source: peer.service, basis: error.basis })
  })
  on('consul-connect:rotation', ({ service, what }) => {
    rotations.add(1, { service, what })
  })
  on('consul-connect:agent-request', ({ method, status, isBlocking, durationMs, error }) => {
    // The duration of a blocking query depends on when the next change happens.
    if (!isBlocking) requests.record(durationMs, { method, outcome: String(status ?? codeOf(error)) })
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
