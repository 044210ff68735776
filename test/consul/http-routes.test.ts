import assert from 'node:assert/strict'
import { type Server, createServer, get } from 'node:http'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { buffer } from 'node:stream/consumers'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Service } from '../../src/index.js'
import { portOf } from '../fixtures/mesh.js'
import { type RealAgent, isAtLeast, skip, startConsul } from './real-agent.js'
import { type Join, agentPut, instances, joiner, register, until } from './service-mesh.js'

const PER_SECOND = 50

interface Instance {
  readonly id: string
  /** Leaves the mesh: deregisters, and completes the pending requests. */
  readonly leave: () => Promise<void>
  /** Cuts all connections and refuses new ones, without a word to the agent. */
  readonly kill: () => Promise<void>
}

/** Starts and registers a service of one instance. */
async function start(consul: RealAgent, join: Join, name: string, id: string): Promise<Instance> {
  const server = createServer((_request, response) => response.end(id))
  const service = join(name)
  const served = await service.serve(server, { port: 0, host: '127.0.0.1' })
  await register(consul, {
    ID: id,
    Name: name,
    Port: portOf(served),
    Address: '127.0.0.1',
    Meta: { version: id },
    Connect: { Native: true },
    Check: { TTL: '1h', Status: 'passing' },
  })
  return {
    id,
    leave: async () => {
      await consul.http(`/v1/agent/service/deregister/${id}`, { method: 'PUT' })
      // As `register` of the library does: clients learn of the end before the connections end.
      await sleep(500)
      await service.close()
    },
    kill: async () => {
      cut(server)
      service.destroy()
      await served.close()
    },
  }
}

function cut(server: Server): void {
  server.closeAllConnections()
}

/** Sends requests at a steady rate, half of them by each client. */
class SteadyRequests {
  readonly answers: string[] = []
  readonly failures: unknown[] = []
  readonly #clients: readonly (() => Promise<string>)[]
  readonly #pending = new Set<Promise<void>>()
  readonly #timer: NodeJS.Timeout

  constructor(t: TestContext, web: Service) {
    const agent = web.httpAgent()
    const url = 'http://api.service.consul/'
    this.#clients = [
      async () => (await web.fetch(url)).text(),
      async () => {
        const [response] = (await once(get(url, { agent }), 'response')) as [IncomingMessage]
        return String(await buffer(response))
      },
    ]
    let i = 0
    this.#timer = setInterval(() => {
      this.#send(i % 2)
      i += 1
    }, 1_000 / PER_SECOND)
    t.after(() => {
      clearInterval(this.#timer)
    })
  }

  #send(client: number): void {
    const sent = this.#clients[client]?.().then(
      (answer) => {
        this.answers.push(answer)
      },
      (error: unknown) => {
        this.failures.push(error)
      },
    )
    if (sent === undefined) return
    this.#pending.add(sent)
    void sent.finally(() => this.#pending.delete(sent))
  }

  /** Waits until exactly these instances answer a second of requests. */
  async untilAnsweredBy(...ids: readonly string[]): Promise<void> {
    await until(`${ids.join(' and ')} answer alone`, async () => {
      const before = this.answers.length
      await until('a second of requests', () => this.answers.length >= before + PER_SECOND)
      return [...new Set(this.answers.slice(before))].sort().join() === [...ids].sort().join()
    })
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await Promise.all(this.#pending)
  }
}

test('no request fails while routes change and instances leave', { skip }, async (t) => {
  const consul = await startConsul(t)
  const join = joiner(t, consul)
  const configure = (entry: object) => agentPut(consul, '/v1/config', entry)
  for (const Name of ['api', 'spare']) await configure({ Kind: 'service-defaults', Name, Protocol: 'http' })
  const [first, second, spare] = [
    await start(consul, join, 'api', 'api-1'),
    await start(consul, join, 'api', 'api-2'),
    await start(consul, join, 'spare', 'spare-1'),
  ]
  await until('all are in the catalog', async () => (await instances(consul, 'api')) === 2)
  const requests = new SteadyRequests(t, join('web'))
  await until('an answer', () => requests.answers.length > 0)

  await t.test('a subset for each leg of a splitter', async () => {
    const Subsets = {
      v1: { Filter: 'Service.Meta.version == "api-1"' },
      v2: { Filter: 'Service.Meta.version == "api-2"' },
    }
    await configure({ Kind: 'service-resolver', Name: 'api', Subsets })
    const split = (weight: number) =>
      configure({
        Kind: 'service-splitter',
        Name: 'api',
        Splits: [
          { Weight: weight, ServiceSubset: 'v1' },
          { Weight: 100 - weight, ServiceSubset: 'v2' },
        ],
      })
    await split(100)
    await requests.untilAnsweredBy('api-1')
    await split(0)
    await requests.untilAnsweredBy('api-2')
    for (let weight = 0; weight <= 100; weight += 10) {
      await split(weight)
      await sleep(100)
    }
    await requests.untilAnsweredBy('api-1')
  })
  await t.test('a router to another service, which comes and goes', async () => {
    await consul.http('/v1/config/service-splitter/api', { method: 'DELETE' })
    for (let i = 0; i < 5; i += 1) {
      await configure({
        Kind: 'service-router',
        Name: 'api',
        Routes: [{ Destination: { Service: 'spare' } }],
      })
      await requests.untilAnsweredBy(spare.id)
      await consul.http('/v1/config/service-router/api', { method: 'DELETE' })
      await until('api answers', () => requests.answers.at(-1) !== spare.id)
    }
  })
  await t.test('instances that leave, until the failover answers', async () => {
    await configure({ Kind: 'service-resolver', Name: 'api', Failover: { '*': { Service: 'spare' } } })
    await first.leave()
    await requests.untilAnsweredBy(second.id)
    await second.leave()
    await requests.untilAnsweredBy(spare.id)
  })
  await requests.stop()
  t.diagnostic(`${requests.answers.length} requests`)
  assert.deepEqual(requests.failures, [])
})

// Consul before 1.14 does not know the conditions.
if (isAtLeast('1.14')) {
  test(
    'no request fails while an instance is killed, if the route says to send it again',
    { skip },
    async (t) => {
      const consul = await startConsul(t)
      const join = joiner(t, consul)
      await agentPut(consul, '/v1/config', { Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
      const RetryOn = ['reset', 'connect-failure']
      await agentPut(consul, '/v1/config', {
        Kind: 'service-router',
        Name: 'api',
        Routes: [{ Destination: { NumRetries: 3, RetryOn } }],
      })
      const fleet = [
        await start(consul, join, 'api', 'api-1'),
        await start(consul, join, 'api', 'api-2'),
        await start(consul, join, 'api', 'api-3'),
      ]
      await until('all are in the catalog', async () => (await instances(consul, 'api')) === 3)
      const requests = new SteadyRequests(t, join('web'))
      await requests.untilAnsweredBy('api-1', 'api-2', 'api-3')
      await fleet[0]?.kill()
      await requests.untilAnsweredBy('api-2', 'api-3')
      await fleet[1]?.kill()
      await requests.untilAnsweredBy('api-3')
      await requests.stop()
      t.diagnostic(`${requests.answers.length} requests`)
      assert.deepEqual(requests.failures, [])
    },
  )
}
