// A client that traces a request; the span of the dial is its child.
import { metrics, trace } from '@opentelemetry/api'
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'
import * as connect from 'consul-connect'
import { instrument } from './telemetry.js'

// Exports to memory, to print the results. An application exports to its collector.
const spans = new InMemorySpanExporter()
new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }).register()
const metricExporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
const reader = new PeriodicExportingMetricReader({
  exporter: metricExporter,
  exportIntervalMillis: 3_600_000,
})
metrics.setGlobalMeterProvider(new MeterProvider({ readers: [reader] }))
instrument()

await using web = connect.service('web')

await trace.getTracer('client').startActiveSpan('ask api', async (span) => {
  try {
    const response = await web.fetch('https://api.service.consul/')
    console.log(response.status, await response.text())
  } finally {
    span.end()
    await report()
  }
})

async function report(): Promise<void> {
  for (const span of spans.getFinishedSpans()) {
    const { name, attributes, parentSpanContext, status } = span
    const parent = spans
      .getFinishedSpans()
      .find((other) => other.spanContext().spanId === parentSpanContext?.spanId)
    console.log(`span "${name}" in "${parent?.name ?? ''}"`, attributes, status.message ?? '')
  }
  await reader.forceFlush()
  for (const { scopeMetrics } of metricExporter.getMetrics()) {
    for (const { descriptor, dataPoints } of scopeMetrics.flatMap((scope) => scope.metrics)) {
      for (const { attributes } of dataPoints) console.log(descriptor.name, JSON.stringify(attributes))
    }
  }
}
