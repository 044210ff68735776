import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type Service, service } from '../src/index.js'
import { type WrittenIntention, writeIntention } from '../test/consul/intention-api.js'
import { type RealAgent, startConsul } from '../test/consul/real-agent.js'
import { until } from '../test/consul/service-mesh.js'
import { nextEvent } from '../test/fixtures/mesh.js'
import { withFixtures } from './scope.js'
import { type Benchmark, median, round } from './measure.js'

const SOURCES = 100
const CONNECTIONS = 10_000
const CHANGES = 100
/** The pause between changes: reads of intentions are limited per second. */
const PAUSE_MS = 250

/** A real agent, the listener in this process, and the clients in another one. Times begin when the API has answered. */
const benchmark: Benchmark = {
  question: 'how long after an intention turns to deny is the connection closed?',
  run: () => withFixtures(compare),
}
export default benchmark

async function compare(scope: TestContext): Promise<Record<string, Record<string, number>>> {
  // Otherwise the agent signs no more than 50 certificates a second.
  const connect = { enabled: true, ca_config: { csr_max_per_second: 0 } }
  const consul = await startConsul(scope, { extraConfig: { connect } })
  await using api = service('api', { agent: { address: consul.address, env: {} } })
  const listener = await api.listen({ port: 0, host: '127.0.0.1' }, (socket) => {
    socket.write('x')
    socket.resume()
  })
  const { port } = listener.address() as AddressInfo
  const few = await oneByOne(consul, api, port)
  const many = await oneOfMany(consul, api, port)
  return { [`${CHANGES} changes, a connection each`]: few, ...many }
}

async function oneByOne(consul: RealAgent, api: Service, port: number): Promise<Record<string, number>> {
  await using web = service('web', { agent: { address: consul.address, env: {} } })
  const intention = await allow(consul, 'web')
  const times: number[] = []
  for (let i = 0; i < CHANGES; i += 1) {
    const socket = await web.dial({ address: `127.0.0.1:${port}`, service: 'api' })
    await once(socket, 'data')
    const closed = once(socket, 'close').then(() => performance.now())
    const answered = await intention.set('deny')
    times.push((await closed) - answered)
    const told = nextEvent(api, 'decisions')
    await intention.set('allow')
    await told
    await sleep(PAUSE_MS)
  }
  times.sort((a, b) => a - b)
  return {
    'p50 ms': round(median(times), 1),
    'p99 ms': round(times[Math.ceil(CHANGES * 0.99) - 1] ?? NaN, 1),
  }
}

async function oneOfMany(
  consul: RealAgent,
  api: Service,
  port: number,
): Promise<Record<string, Record<string, number>>> {
  const intention = await allow(consul, 'source-7')
  const file = fileURLToPath(new URL('revoke-dialler.ts', import.meta.url))
  const diallers = fork(file, [consul.address, String(port), String(SOURCES), String(CONNECTIONS / SOURCES)])
  try {
    await said(diallers, 'open')
    if (api.stats().connections !== CONNECTIONS) throw new Error(`${api.stats().connections} are open`)
    const ended: number[] = []
    api.on('revoked', () => ended.push(performance.now()))
    const answered = await intention.set('deny')
    await until('they are closed', () => ended.length === CONNECTIONS / SOURCES)
    diallers.send('count')
    const closed = (await said(diallers, 'closed')) as {
      readonly ofDenied: number
      readonly ofOthers: number
    }
    return {
      [`${CONNECTIONS} connections of ${SOURCES} sources, one denied`]: {
        'first ms': round((ended[0] ?? NaN) - answered, 1),
        'last ms': round((ended.at(-1) ?? NaN) - answered, 1),
        'closed, of the denied': closed.ofDenied,
        'closed, of others': closed.ofOthers,
        'still open': api.stats().connections,
      },
    }
  } finally {
    diallers.kill()
  }
}

async function allow(consul: RealAgent, source: string): Promise<WrittenIntention> {
  const written = await writeIntention(consul, source, 'api', 'allow')
  if (written === undefined) throw new Error(`there is an intention for ${source} already`)
  return written
}

async function said(child: ChildProcess, what: string): Promise<unknown> {
  for (;;) {
    const [message] = (await once(child, 'message')) as [{ readonly what: string }]
    if (message.what === what) return message
  }
}
