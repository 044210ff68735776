// The client of the native benchmark, a separate process: `native-client.ts <kind> <address of the agent> <port> <load>`.
// Prints `begin` when the measurement begins, and then a report in JSON.
import { type Dispatcher, Agent, request } from 'undici'
import { service } from '../src/index.js'
import { tlsMaterial } from '../src/transport/tls-context.js'
import { bareGeneration } from './bare.js'
import { atRate, percentiles } from './measure.js'
import { BODY, type Kind, type Load, type Report } from './native-kinds.js'

const [kind, address = '', port = '', load = ''] = process.argv.slice(2) as [Kind, ...string[]]
const { concurrency, seconds, perSecond, path = '/' } = JSON.parse(load) as Load
const agent = { address, env: {} }
const WARM_UP_SECONDS = 2

const { url, dispatcher, close } = await open()
// Opens the connections.
await saturate(WARM_UP_SECONDS)
console.log('begin')
const cpu = process.cpuUsage()
const begin = performance.now()
const times = perSecond === undefined ? await saturate(seconds) : await atRate(perSecond, seconds, exchange)
const { user, system } = process.cpuUsage(cpu)
const report: Report = {
  count: times.length,
  seconds: (performance.now() - begin) / 1_000,
  ...percentiles(times),
  cpuMs: (user + system) / 1_000,
}
console.log(JSON.stringify(report))
await close()

/** Creates a client of undici whose connections are of this kind. */
async function open(): Promise<{ url: string; dispatcher: Dispatcher; close: () => Promise<void> }> {
  const pool = { connections: concurrency }
  switch (kind) {
    case 'native': {
      const web = service('native-web', { agent })
      const mesh = web.dispatcher({ pool })
      return { url: 'https://native-api.service.consul', dispatcher: mesh, close: () => web.close() }
    }
    case 'node:https': {
      const connect = { ...tlsMaterial(await bareGeneration(agent)), checkServerIdentity: () => undefined }
      const bare = new Agent({ ...pool, connect: { ...connect, maxCachedSessions: 0 } })
      return { url: `https://127.0.0.1:${port}`, dispatcher: bare, close: () => bare.close() }
    }
    case 'Consul proxies':
    case 'Envoy, tcp':
    case 'Envoy, http': {
      const plain = new Agent(pool)
      return { url: `http://127.0.0.1:${port}`, dispatcher: plain, close: () => plain.close() }
    }
  }
}

async function exchange(): Promise<void> {
  const { body } = await request(url + path, { dispatcher })
  const text = await body.text()
  if (text !== BODY) throw new Error(`unexpected answer: ${text}`)
}

async function saturate(forSeconds: number): Promise<number[]> {
  const taken: number[] = []
  const end = performance.now() + forSeconds * 1_000
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      for (let start = performance.now(); start < end; start = performance.now()) {
        await exchange()
        taken.push(performance.now() - start)
      }
    }),
  )
  return taken
}
