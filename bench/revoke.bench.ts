import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type Service, service } from '../src/index.js'
import { type WrittenIntention, writeIntention } from '../test/consul/intention-api.js'
import { type RealAgent, isAtLeast, startConsul } from '../test/consul/real-agent.js'
import { agentPut, until } from '../test/consul/service-mesh.js'
import { nextEvent } from '../test/fixtures/mesh.js'
import { withFixtures } from './scope.js'
import { type Benchmark, percentiles, round } from './measure.js'

const SOURCES = 100
const CONNECTIONS = 10_000
const CHANGES = 100
/** Pause between changes: the agent limits reads of intentions per second. */
const PAUSE_MS = 250

/** Uses a real agent. The clients run in another process. Times begin with the answer of the Consul API to the change. */
const benchmark: Benchmark = {
  question: 'How long does it take to close connections after an intention changes to deny?',
  run: () => withFixtures(compare),
}
export default benchmark

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  // By default the agent signs at most 50 certificates per second.
  const connect = { enabled: true, ca_config: { csr_max_per_second: 0 } }
  const consul = await startConsul(scope, { extraConfig: { connect } })
  await using api = service('api', { agent: { address: consul.address, env: {} } })
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
    socket.write('x')
    socket.resume()
  })
  const { port } = listener.address() as AddressInfo
  const single = await revokeSingle(consul, api, port)
  const requests = isAtLeast('1.9.0')
    ? { [`${CHANGES} changes, 1 request`]: await revokeRequests(consul) }
    : {}
  return {
    [`${CHANGES} changes, 1 connection`]: single,
    ...requests,
    ...(await revokeOneOfMany(consul, api, port)),
  }
}

/** Until the client of an open response learns that a permission no longer allows it. */
async function revokeRequests(consul: RealAgent): Promise<Record<string, number>> {
  const put = (entry: object): Promise<unknown> => agentPut(consul, '/v1/config', entry)
  const permit = async (Action: 'allow' | 'deny'): Promise<number> => {
    const Permissions = [
      { Action, HTTP: { PathPrefix: '/feed' } },
      { Action: 'allow', HTTP: { PathPrefix: '/' } },
    ]
    await put({ Kind: 'service-intentions', Name: 'feed', Sources: [{ Name: 'reader', Permissions }] })
    return performance.now()
  }
  await put({ Kind: 'service-defaults', Name: 'feed', Protocol: 'http' })
  await permit('allow')
  await using feed = service('feed', { agent: { address: consul.address, env: {} } })
  await using reader = service('reader', { agent: { address: consul.address, env: {} } })
  const server = createServer((_request, response) => {
    response.writeHead(200).flushHeaders()
  })
  const listener = await feed.serve(server, { port: 0, host: '127.0.0.1' })
  const { port } = listener.address() as AddressInfo
  const times: number[] = []
  for (let i = 0; i < CHANGES; i += 1) {
    const socket = await reader.dial({ address: `127.0.0.1:${port}`, service: 'feed' })
    socket.on('error', () => undefined).write('GET /feed HTTP/1.1\r\nhost: feed\r\n\r\n')
    await once(socket, 'data')
    const closed = new Promise<number>((resolve) =>
      socket.once('close', () => {
        resolve(performance.now())
      }),
    )
    const answered = await permit('deny')
    times.push((await closed) - answered)
    const applied = nextEvent(feed, 'decisions')
    await permit('allow')
    await applied
    await sleep(PAUSE_MS)
  }
  const { p50, p99 } = percentiles(times)
  return { 'p50 ms': round(p50, 1), 'p99 ms': round(p99, 1) }
}

async function revokeSingle(consul: RealAgent, api: Service, port: number): Promise<Record<string, number>> {
  await using web = service('web', { agent: { address: consul.address, env: {} } })
  const intention = await allow(consul, 'web')
  const times: number[] = []
  for (let i = 0; i < CHANGES; i += 1) {
    const socket = await web.dial({ address: `127.0.0.1:${port}`, service: 'api' })
    // A cut connection is an error.
    socket.on('error', () => undefined)
    await once(socket, 'data')
    const closed = new Promise<number>((resolve) =>
      socket.once('close', () => {
        resolve(performance.now())
      }),
    )
    const answered = await intention.set('deny')
    times.push((await closed) - answered)
    const applied = nextEvent(api, 'decisions')
    await intention.set('allow')
    await applied
    await sleep(PAUSE_MS)
  }
  const { p50, p99 } = percentiles(times)
  return { 'p50 ms': round(p50, 1), 'p99 ms': round(p99, 1) }
}

async function revokeOneOfMany(
  consul: RealAgent,
  api: Service,
  port: number,
): Promise<Record<string, Record<string, number>>> {
  const intention = await allow(consul, 'source-7')
  const file = fileURLToPath(new URL('revoke-clients.ts', import.meta.url))
  const clients = fork(file, [consul.address, String(port), String(SOURCES), String(CONNECTIONS / SOURCES)])
  try {
    await nextMessage(clients, 'open')
    if (api.stats().connections !== CONNECTIONS)
      throw new Error(`only ${api.stats().connections} connections are open`)
    const ended: number[] = []
    api.on('revoked', () => ended.push(performance.now()))
    const answered = await intention.set('deny')
    await until('the connections are closed', () => ended.length === CONNECTIONS / SOURCES)
    clients.send('count')
    const closed = (await nextMessage(clients, 'closed')) as {
      readonly denied: number
      readonly others: number
    }
    return {
      [`1 of ${SOURCES} sources denied, ${CONNECTIONS} connections`]: {
        'first ms': round((ended[0] ?? NaN) - answered, 1),
        'last ms': round((ended.at(-1) ?? NaN) - answered, 1),
        'closed, denied source': closed.denied,
        'closed, other sources': closed.others,
        'still open': api.stats().connections,
      },
    }
  } finally {
    clients.kill()
  }
}

async function allow(consul: RealAgent, source: string): Promise<WrittenIntention> {
  const written = await writeIntention(consul, source, 'api', 'allow')
  if (written === undefined) throw new Error(`an intention for ${source} already exists`)
  return written
}

/** The next message of this type from a child process. */
async function nextMessage(child: ChildProcess, type: string): Promise<unknown> {
  for (;;) {
    const [message] = (await once(child, 'message')) as [{ readonly type: string }]
    if (message.type === type) return message
  }
}
