// The runner at work, with a queue and three services that it has never heard of. It runs on an agent inside this
// process, or on the one that CONSUL_HTTP_ADDR names; with --dns it finds the services by DNS.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import * as connect from 'consul-connect'
import { TestAgent } from 'consul-connect/testing'
import { type Job, type Result, parseResult } from './jobs.js'
import { change, writeUpstream } from './kv.js'
import { linesOf, wholeOf } from './lines.js'
import { runJobs } from './runner.js'

const byDns = process.argv.includes('--dns')
const named = process.env['CONSUL_HTTP_ADDR']
const embedded = named === undefined ? await TestAgent.start({ dns: { port: 0 } }) : undefined
const address = embedded?.address ?? named ?? ''
const url = address.includes('://') ? address : `http://${address}`
const dnsAddress = embedded?.dnsAddress ?? process.env['CONSUL_DNS_ADDR']
const agent = { address, ...(dnsAddress !== undefined && { dnsAddress }) }
const join = (name: string): connect.Service => connect.service(name, { agent })

const [queue, runner, billing, reports, images] = ['queue', 'runner', 'billing', 'reports', 'images'].map(
  join,
) as [connect.Service, connect.Service, connect.Service, connect.Service, connect.Service]

/** A service that answers each line of a connection, and registers on any port. */
async function offer(service: connect.Service, handler: connect.ConnectionHandler): Promise<void> {
  const listener = await service.listen({ port: 0, host: '127.0.0.1', allowHalfOpen: true }, handler)
  const { port } = listener.address() as AddressInfo
  await service.register({ port, address: '127.0.0.1' })
}

await offer(billing, async (socket) =>
  socket.end(`${socket.peer.service} is billed ${await wholeOf(socket)}`),
)
await offer(reports, async (socket) => socket.end(`a report on ${await wholeOf(socket)}`))
const server = createServer((request, response) => {
  response.end(`an image of ${request.url?.slice(1)} for ${connect.peer(request.socket)?.service}`)
})
const listener = await images.serve(server, { port: 0, host: '127.0.0.1' })
await images.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })

async function isKnown(service: string): Promise<void> {
  const giveUp = AbortSignal.timeout(10_000)
  for (;;) {
    try {
      await runner.resolve(service, { signal: giveUp })
      return
    } catch (error) {
      if (!(error instanceof connect.DialError)) throw error
      await sleep(50, undefined, { signal: giveUp })
    }
  }
}

// What only Consul knows: a prepared query, and a name for it in the KV store.
const query = JSON.parse(
  await change(url, 'POST', '/v1/query', {
    Name: 'nearest-reports',
    Service: { Service: 'reports', Near: '_agent', OnlyPassing: true },
  }),
) as { ID: string }
await writeUpstream(url, 'reports', { query: 'nearest-reports' })

const by = (service: string): connect.Upstream =>
  byDns ? { dns: `${service}.connect.consul`, service } : service
const jobs: readonly Job[] = [
  { id: 1, upstream: by('billing'), by: 'line', payload: '7 EUR' },
  { id: 2, upstream: { kv: 'reports' }, by: 'line', payload: 'October' },
  { id: 3, upstream: by('images'), by: 'http', payload: 'a-cat' },
  { id: 4, upstream: by('nowhere'), by: 'line', payload: '' },
  { id: 5, upstream: { kv: 'nothing' }, by: 'line', payload: '' },
]
const expected: readonly Result[] = [
  { id: 1, answer: 'runner is billed 7 EUR' },
  { id: 2, answer: 'a report on October' },
  { id: 3, answer: 'an image of a-cat for runner' },
  { id: 4, error: 'nowhere' },
  { id: 5, error: 'the KV store knows no upstream nothing' },
]

let finish: (results: Result[]) => void = () => undefined
const results = new Promise<Result[]>((resolve) => (finish = resolve))
await offer(queue, async (socket) => {
  const got: Result[] = []
  for (const job of jobs) socket.write(`${JSON.stringify(job)}\n`)
  socket.end()
  for await (const line of linesOf(socket)) got.push(parseResult(line))
  finish(got)
})

try {
  // An agent needs a moment until the whole mesh knows of a registration.
  await Promise.all(['queue', 'billing', 'reports', 'images'].map(isKnown))
  await runJobs(runner, url)
  const got = (await results).sort((a, b) => a.id - b.id)
  for (const { id, answer, error } of got) {
    const { upstream, by: way } = jobs[id - 1] ?? {}
    console.log(`job ${id}, ${JSON.stringify(upstream)} by ${way}:\n  ${answer ?? `failed: ${error}`}`)
    const { answer: wanted, error: problem } = expected[id - 1] ?? {}
    const isRight = wanted === undefined ? error?.includes(problem ?? '') === true : answer === wanted
    if (!isRight) throw new Error(`job ${id} should have come to ${JSON.stringify(expected[id - 1])}`)
  }
  if (got.length !== jobs.length) throw new Error(`${got.length} of ${jobs.length} jobs have a result`)
  console.log('every job came to what it should; the runner keeps no connection and no port')
} catch (error) {
  process.exitCode = 1
  console.error(error)
} finally {
  await change(url, 'DELETE', `/v1/query/${query.ID}`)
  await change(url, 'DELETE', '/v1/kv/runner/?recurse')
  await Promise.all([queue, runner, billing, reports, images].map((service) => service.close()))
  await embedded?.close()
}
