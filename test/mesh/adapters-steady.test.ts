// Every adapter under steady traffic while leaves expire and the CA rotates. The full test takes three minutes with
// leaves of 30 s: `STEADY_SECONDS=180 npm test -- test/mesh/adapters-steady.test.ts`. Slow machines get longer leaves and
// more time, in proportion to the duration of the same traffic without rotation.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect as tcpConnect } from 'node:net'
import type { Duplex } from 'node:stream'
import { type TestContext, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { interceptors, request as undiciRequest } from 'undici'
import { type MeshSocket, type Service, peer } from '../../src/index.js'
import type { TestAgent } from '../../src/testing/index.js'
import { waitBound } from '../fixtures/bounds.js'
import { type HttpWay, httpWays } from '../fixtures/http-ways.js'
import { offer, startMesh } from '../fixtures/mesh.js'
import { beginNewCa, withdrawOldCa } from '../fixtures/new-ca.js'

/** The duration of the test on a quiet machine. */
const SECONDS = Number(process.env['STEADY_SECONDS'] ?? 54)
const LEAF_SECONDS = Math.min(30, SECONDS / 4.5)
/** The longest request or connection under this load, retries included, as a fraction of the lifetime of a leaf. */
const MAX_LEAF_FRACTION = 1 / 24
const MAX_SLOWDOWN = 10
const ROTATIONS = 3
const WORKERS = 3
const PAUSE_MS = 10

/** The results of one kind of traffic. */
interface Traffic {
  answers: number
  readonly failures: string[]
}

const retried: HttpWay = async (from, url) => {
  const dispatcher = from.dispatcher().compose(interceptors.retry({ maxRetries: 2, minTimeout: 10 }))
  const { statusCode, body } = await undiciRequest(url, { dispatcher })
  return { status: statusCode, body: await body.text() }
}

describe('adapters under steady traffic', () => {
  it(
    `lose no request while leaves of ${LEAF_SECONDS} s expire and the CA rotates ${ROTATIONS} times`,
    { timeout: waitBound(SECONDS * MAX_SLOWDOWN * 1_000) },
    async (t) => {
      const slowdown = Math.min(MAX_SLOWDOWN, await measureSlowdown(t))
      const seconds = SECONDS * slowdown
      const leafMs = LEAF_SECONDS * slowdown * 1_000
      const scene = await open(t, leafMs)
      const { agent, services, web, serials } = scene
      const end = Date.now() + seconds * 1_000
      const traffic = new Map<string, Traffic>()
      const running = ways(scene).map(async ([name, once]) => {
        const counted: Traffic = { answers: 0, failures: [] }
        traffic.set(name, counted)
        const worker = async (): Promise<void> => {
          while (Date.now() < end) {
            try {
              await once()
              counted.answers += 1
            } catch (error) {
              counted.failures.push(String((error as Error).cause ?? error))
            }
            await sleep(PAUSE_MS)
          }
        }
        await Promise.all(Array.from({ length: WORKERS }, worker))
      })
      for (let i = 0; i < ROTATIONS; i += 1) {
        await sleep((seconds * 1_000) / (ROTATIONS + 1) - leafMs)
        await beginNewCa(agent, services)
        // Consul keeps an old root until the certificates below it have expired.
        await sleep(leafMs)
        await withdrawOldCa(agent, web)
      }
      await Promise.all(running)
      const lost = [...traffic].flatMap(([name, { failures }]) =>
        failures.map((failure) => `${name}: ${failure}`),
      )
      assert.deepEqual(lost, [])
      // The bound does not grow with the slowdown: a slow machine needs as many answers in a longer time.
      for (const [name, { answers }] of traffic) assert.ok(answers > SECONDS, `${name}: ${answers} answers`)
      // The server used a new certificate for each lifetime of a leaf.
      assert.ok(serials.size > SECONDS / LEAF_SECONDS, `${serials.size} certificates`)
      const all = [...traffic.values()].reduce((sum, { answers }) => sum + answers, 0)
      t.diagnostic(
        `${slowdown.toFixed(1)} times slower: ${all} answers, ${serials.size} certificates of the server`,
      )
    },
  )
})

interface Scene {
  readonly agent: TestAgent
  readonly web: Service
  readonly services: readonly Service[]
  /** The serial numbers of the server's certificates. */
  readonly serials: ReadonlySet<string>
  readonly forwardPort: number
}

async function open(t: TestContext, leafTtlMs?: number): Promise<Scene> {
  const { agent, join } = await startMesh(t, leafTtlMs === undefined ? {} : { leafTtlMs })
  const api = join('api')
  const web = join('web')
  const serials = new Set<string>()
  const server = createServer({ keepAliveTimeout: 600_000 }, (request, response) => {
    request.resume().on('end', () => response.end(`hello ${peer(request.socket)?.service ?? ''}`))
  }).on('connection', (socket) => serials.add(peer(socket)?.serialNumber ?? ''))
  // Connections end when the certificate expires, unless the client has retired them before.
  const listener = await api.serve(server, { port: 0, host: '127.0.0.1', maxPeerAge: 'certificate' })
  await api.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
  const echo = join('echo')
  await offer(echo, (socket) => socket.pipe(socket))
  const forward = await web.forward('echo', { port: 0 })
  const forwardPort = (forward.address() as AddressInfo).port
  return { agent, web, services: [api, web, echo], serials, forwardPort }
}

/** One request or one connection through each adapter. */
function ways({ web, forwardPort }: Scene): [name: string, once: () => Promise<void>][] {
  const requests = Object.entries({ ...httpWays, 'undici with retries': retried }).flatMap(([name, ask]) =>
    ['GET', 'POST'].map((method): [string, () => Promise<void>] => [
      `${name} ${method}`,
      async () => {
        const asking = method === 'POST' ? { method, body: 'x'.repeat(10_000) } : {}
        const { body } = await ask(web, 'https://api.service.consul/', asking)
        assert.equal(body, 'hello web')
      },
    ]),
  )
  return [
    ...requests,
    ['dial', async () => exchangeLines(await web.dial('echo'))],
    ['stream', () => exchangeLines(web.stream('echo').connect())],
    ['forward', () => exchangeLines(tcpConnect(forwardPort, '127.0.0.1'))],
  ]
}

/**
 * Measures how many times slower this machine is than the test needs, by the slowest request in a few rounds of the same
 * traffic without rotation.
 */
async function measureSlowdown(t: TestContext): Promise<number> {
  const scene = await open(t)
  let slowestMs = 0
  const workers = ways(scene).flatMap(([, once]) =>
    Array.from({ length: WORKERS }, async () => {
      for (let round = 0; round < 3; round += 1) {
        const begin = performance.now()
        await once()
        slowestMs = Math.max(slowestMs, performance.now() - begin)
      }
    }),
  )
  await Promise.all(workers)
  for (const service of scene.services) service.destroy()
  return Math.max(1, slowestMs / (LEAF_SECONDS * 1_000 * MAX_LEAF_FRACTION))
}

/** Exchanges lines with an echo service, and ends the connection. */
async function exchangeLines(socket: Duplex | MeshSocket): Promise<void> {
  for (let i = 0; i < 5; i += 1) {
    const answer = once(socket, 'data')
    socket.write(`line ${i}`)
    assert.equal(String((await answer)[0]), `line ${i}`)
    await sleep(PAUSE_MS)
  }
  socket.end()
  await once(socket, 'close')
}
