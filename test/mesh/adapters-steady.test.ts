// Every adapter under steady traffic while certificates are short-lived and the CA changes. The whole of it is three
// minutes with leaves of 30 s: `STEADY_SECONDS=180 npm test -- test/mesh/adapters-steady.test.ts`.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect as tcpConnect } from 'node:net'
import type { Duplex } from 'node:stream'
import { describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { interceptors, request as undiciRequest } from 'undici'
import { type MeshSocket, peer } from '../../src/index.js'
import { type HttpWay, httpWays } from '../fixtures/http-ways.js'
import { offer, startMesh } from '../fixtures/mesh.js'
import { beginNewCa, withdrawOldCa } from '../fixtures/new-ca.js'

const SECONDS = Number(process.env['STEADY_SECONDS'] ?? 54)
const LEAF_MS = Math.min(30, SECONDS / 4.5) * 1_000
const ROTATIONS = 3
const WORKERS = 3
const PAUSE_MS = 10

/** One thing that is asked again and again; how often it went well, and what went wrong. */
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
    `lose no request in ${SECONDS} s of leaves of ${LEAF_MS / 1_000} s and ${ROTATIONS} new CAs`,
    { timeout: (SECONDS + 60) * 1_000 },
    async (t) => {
      const { agent, join } = await startMesh(t, { leafTtlMs: LEAF_MS })
      const api = join('api')
      const web = join('web')
      const serials = new Set<string>()
      const server = createServer({ keepAliveTimeout: 600_000 }, (request, response) => {
        request.resume().on('end', () => response.end(`hello ${peer(request.socket)?.service ?? ''}`))
      }).on('connection', (socket) => serials.add(peer(socket)?.serialNumber ?? ''))
      // A connection is cut when its certificate expires, unless whoever keeps it has given it up by then.
      const listener = await api.serve(server, { port: 0, host: '127.0.0.1', maxPeerAge: 'certificate' })
      await api.register({ port: (listener.address() as AddressInfo).port, address: '127.0.0.1' })
      const echo = join('echo')
      await offer(echo, (socket) => socket.pipe(socket))
      const door = await web.forward('echo', { port: 0 })
      const end = Date.now() + SECONDS * 1_000
      const traffic = new Map<string, Traffic>()
      const run = (name: string, once: () => Promise<void>): Promise<unknown> => {
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
        return Promise.all(Array.from({ length: WORKERS }, worker))
      }
      const running = Object.entries({ ...httpWays, 'undici with retries': retried }).flatMap(([name, ask]) =>
        ['GET', 'POST'].map((method) =>
          run(`${name} ${method}`, async () => {
            const asking = method === 'POST' ? { method, body: 'x'.repeat(10_000) } : {}
            const { body } = await ask(web, 'https://api.service.consul/', asking)
            assert.equal(body, 'hello web')
          }),
        ),
      )
      running.push(
        run('dial', async () => converse(await web.dial('echo'))),
        run('stream', () => converse(web.stream('echo').connect())),
        run('forward', () => converse(tcpConnect((door.address() as AddressInfo).port, '127.0.0.1'))),
      )
      for (let i = 0; i < ROTATIONS; i += 1) {
        await sleep((SECONDS * 1_000) / (ROTATIONS + 1) - LEAF_MS)
        await beginNewCa(agent, [api, web, echo])
        // A mesh keeps a root until the certificates under it have expired.
        await sleep(LEAF_MS)
        await withdrawOldCa(agent, web)
      }
      await Promise.all(running)
      const lost = [...traffic].flatMap(([name, { failures }]) =>
        failures.map((failure) => `${name}: ${failure}`),
      )
      assert.deepEqual(lost, [])
      // Steady traffic, not speed: a busy machine is slow.
      for (const [name, { answers }] of traffic) assert.ok(answers > SECONDS, `${name}: ${answers} answers`)
      // The certificate was another one all the time.
      assert.ok(serials.size > (SECONDS * 1_000) / LEAF_MS, `${serials.size} certificates`)
      const all = [...traffic.values()].reduce((sum, { answers }) => sum + answers, 0)
      t.diagnostic(`${all} answers, ${serials.size} certificates of ours`)
    },
  )
})

/** Some lines and their echoes, and the end. */
async function converse(socket: Duplex | MeshSocket): Promise<void> {
  for (let i = 0; i < 5; i += 1) {
    const heard = once(socket, 'data')
    socket.write(`line ${i}`)
    assert.equal(String((await heard)[0]), `line ${i}`)
    await sleep(PAUSE_MS)
  }
  socket.end()
  await once(socket, 'close')
}
