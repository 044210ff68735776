import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { forEachConcurrently } from '../concurrency.js'

/** A proxy with an admin socket. */
export interface MetricsSource {
  readonly proxyId: string
  readonly socketPath: string
}

const TIMEOUT_MS = 2_000
const MAX_BYTES = 4 * 1024 * 1024
const CONCURRENCY = 8
/** Prefix of the metrics to include. The process metrics of a proxy would collide with the supervisor's. */
const PREFIX = 'connect_proxy_'

/**
 * Reads the metrics of all proxies from their admin sockets and adds the label `proxy`. Skips proxies that do not
 * respond within 2 s.
 * @returns metrics in the Prometheus text format
 */
export async function proxyMetrics(sources: Iterable<MetricsSource>): Promise<string> {
  const families = new Map<string, Family>()
  await forEachConcurrently(sources, CONCURRENCY, async ({ proxyId, socketPath }) => {
    addMetrics(families, proxyId, await read(socketPath).catch(() => ''))
  })
  return [...families.values()].map(({ header, samples }) => [...header, ...samples, ''].join('\n')).join('')
}

/** Lines of one metric, which the text format requires to be consecutive. */
interface Family {
  readonly header: string[]
  readonly samples: string[]
}

/** Adds the metrics of one proxy to `families`. */
export function addMetrics(families: Map<string, Family>, proxyId: string, text: string): void {
  const label = `proxy="${proxyId.replaceAll(/[\\"]/g, '\\$&').replaceAll('\n', '\\n')}"`
  let family: Family | undefined
  let isFirst = false
  for (const line of text.split('\n')) {
    if (line.startsWith('# ')) {
      const [, kind, name = ''] = line.split(' ', 3)
      if (kind === 'HELP') {
        isFirst = name.startsWith(PREFIX) && !families.has(name)
        if (isFirst) families.set(name, { header: [], samples: [] })
        family = families.get(name)
      }
      if (isFirst) family?.header.push(line)
    } else if (line.startsWith(PREFIX)) {
      family?.samples.push(labeled(line, label))
    }
  }
}

function labeled(sample: string, label: string): string {
  const brace = sample.indexOf('{')
  const space = sample.indexOf(' ')
  if (brace === -1 || brace > space) return `${sample.slice(0, space)}{${label}}${sample.slice(space)}`
  return `${sample.slice(0, brace + 1)}${label},${sample.slice(brace + 1)}`
}

async function read(socketPath: string): Promise<string> {
  const signal = AbortSignal.timeout(TIMEOUT_MS)
  const sent = request({ socketPath, path: '/metrics', signal })
  sent.end()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of response) {
    size += (chunk as Buffer).length
    if (size > MAX_BYTES) throw new Error(`${socketPath}: more than ${MAX_BYTES} bytes of metrics`)
    chunks.push(chunk as Buffer)
  }
  return response.statusCode === 200 ? Buffer.concat(chunks).toString() : ''
}
