// Runs the job runner with a queue and three services. Uses an embedded agent, or the agent at CONSUL_HTTP_ADDR. With --dns,
// the services are discovered by DNS.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import * as connect from 'consul-connect'
import { TestAgent } from 'consul-connect/testing'
import { type Job, type Result, parseResult } from './jobs.js'
import { sendRequest, writeUpstream } from './kv.js'
import { readLines, readText } from './lines.js'
import { runJobs } from './runner.js'

const byDns = process.argv.includes('--dns')
const configuredAddress = process.env['CONSUL_HTTP_ADDR']
const embedded = configuredAddress === undefined ? await TestAgent.start({ dns: { port: 0 } }) : undefined
const address = embedded?.address ?? configuredAddress ?? ''
const url = address.includes('://') ? address : `http://${address}`
const dnsAddress = embedded?.dnsAddress ?? process.env['CONSUL_DNS_ADDR']
const agent = { address, ...(dnsAddress !== undefined && { dnsAddress }) }
const createService = (name: string): connect.Service => connect.service(name, { agent })

const [queue, runner, billing, reports, images] = ['queue', 'runner', 'billing', 'reports', 'images'].map(
  createService,
) as [connect.Service, connect.Service, connect.Service, connect.Service, connect.Service]

/** Accepts connections for a service on a free port, and registers the service. */
async function startService(service: connect.Service, handler: connect.ConnectionHandler): Promise<void> {
  const listener = await service.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, handler)
  const { port } = listener.address() as AddressInfo
  await service.register({ port, address: '127.0.0.1' })
}

await startService(billing, async (socket) =>
  socket.end(`${socket.peer.service} is billed ${await readText(socket)}`),
)
await startService(reports, async (socket) => socket.end(`a report on ${await readText(socket)}`))
const server = createServer((request, response) => {
  response.end(`an image of ${request.url?.slice(1)} for ${connect.peer(request.socket)?.service}`)
})
const listener = await images.serve(server, { port: 0, host: '127.0.0.1' })
await images.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })

/** Waits until a service can be resolved. An agent takes a moment to publish a new registration. */
async function waitUntilResolvable(service: string): Promise<void> {
  const timeout = AbortSignal.timeout(10_000)
  for (;;) {
    try {
      await runner.resolve(service, { signal: timeout })
      return
    } catch (error) {
      if (!(error instanceof connect.DialError)) throw error
      await sleep(50, undefined, { signal: timeout })
    }
  }
}

// A prepared query, and a key of the KV store that names it.
const query = JSON.parse(
  await sendRequest(url, 'POST', '/v1/query', {
    Name: 'nearest-reports',
    Service: { Service: 'reports', Near: '_agent', OnlyPassing: true },
  }),
) as { ID: string }
await writeUpstream(url, 'reports', { query: 'nearest-reports' })

const upstreamOf = (service: string): connect.Upstream =>
  byDns ? { dns: `${service}.connect.consul`, service } : service
const jobs: readonly Job[] = [
  { id: 1, upstream: upstreamOf('billing'), protocol: 'text', payload: '7 EUR' },
  { id: 2, upstream: { kv: 'reports' }, protocol: 'text', payload: 'October' },
  { id: 3, upstream: upstreamOf('images'), protocol: 'http', payload: 'a-cat' },
  { id: 4, upstream: upstreamOf('nowhere'), protocol: 'text', payload: '' },
  { id: 5, upstream: { kv: 'nothing' }, protocol: 'text', payload: '' },
]
const expected: readonly Result[] = [
  { id: 1, answer: 'runner is billed 7 EUR' },
  { id: 2, answer: 'a report on October' },
  { id: 3, answer: 'an image of a-cat for runner' },
  { id: 4, error: 'nowhere' },
  { id: 5, error: 'KV store: no upstream "nothing"' },
]

let onResults: (results: Result[]) => void = () => undefined
const results = new Promise<Result[]>((resolve) => (onResults = resolve))
await startService(queue, async (socket) => {
  const received: Result[] = []
  for (const job of jobs) socket.write(`${JSON.stringify(job)}\n`)
  socket.end()
  for await (const line of readLines(socket)) received.push(parseResult(line))
  onResults(received)
})

try {
  await Promise.all(['queue', 'billing', 'reports', 'images'].map(waitUntilResolvable))
  await runJobs(runner, url)
  const sorted = (await results).sort((a, b) => a.id - b.id)
  for (const { id, answer, error } of sorted) {
    const { upstream, protocol } = jobs[id - 1] ?? {}
    console.log(`job ${id}, ${JSON.stringify(upstream)} over ${protocol}:\n  ${answer ?? `failed: ${error}`}`)
    const { answer: expectedAnswer, error: expectedError } = expected[id - 1] ?? {}
    const isCorrect =
      expectedAnswer === undefined ? error?.includes(expectedError ?? '') === true : answer === expectedAnswer
    if (!isCorrect) throw new Error(`job ${id}: expected ${JSON.stringify(expected[id - 1])}`)
  }
  if (sorted.length !== jobs.length)
    throw new Error(`${sorted.length} of ${jobs.length} jobs have a result; expected all`)
  console.log('all jobs have the expected results; the runner has no open connections or ports')
} catch (error) {
  process.exitCode = 1
  console.error(error)
} finally {
  await sendRequest(url, 'DELETE', `/v1/query/${query.ID}`)
  await sendRequest(url, 'DELETE', '/v1/kv/runner/?recurse')
  await Promise.all([queue, runner, billing, reports, images].map((service) => service.close()))
  await embedded?.close()
}
