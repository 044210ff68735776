import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { type IncomingMessage, get } from 'node:http'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ConnectError, Service } from '../../src/index.js'
import { rejection } from '../fixtures/mesh.js'
import { type RealAgent, skip, startConsul } from './real-agent.js'
import { agentPut, joiner, until } from './service-mesh.js'

/** More than the 200 connections that an agent accepts from one address, for all programs together. */
const UPSTREAMS = 300
const MAX_CONNECTIONS = 190
/** Upstreams without a blocking query are polled about every ten seconds. */
const POLLED_MS = 25_000

test('more upstreams than the agent accepts connections', { skip }, async (t) => {
  const consul = await startConsul(t)
  const web = joiner(t, consul)('web')
  const names = Array.from({ length: UPSTREAMS }, (_, i) => `upstream-${i}`)
  await registerOn('node-1')
  await web.ready()

  await t.test('all of them resolve at once', async (t) => {
    const startedAt = performance.now()
    const other = new OtherProgram(consul)
    const found = await Promise.all(names.map((name) => web.resolve(name)))
    const ms = performance.now() - startedAt
    // An idle connection is kept for less than five seconds.
    await sleep(5_000)
    const { requests, failures, mostConnections } = await other.end()
    const connections = await connectionsTo(consul)
    t.diagnostic(JSON.stringify({ ms, requests, failures, mostConnections, connections }))
    assert.deepEqual(new Set(found.map(({ length }) => length)), new Set([1]))

    await t.test('and other programs can connect at any time', () => {
      assert.equal(failures, 0, `${failures} of ${requests} requests of another program failed`)
      assert.ok(mostConnections <= MAX_CONNECTIONS, `${mostConnections} connections`)
    })
  })

  await t.test('new instances of all of them are found', async (t) => {
    await registerOn('node-2')
    const startedAt = performance.now()
    await until(
      'all have two instances',
      async () => {
        const found = await Promise.all(names.map((name) => web.resolve(name)))
        return found.every(({ length }) => length === 2)
      },
      POLLED_MS,
    )
    t.diagnostic(JSON.stringify({ ms: performance.now() - startedAt }))
  })

  /** Registers an instance of each upstream on a node, in the catalog only. */
  async function registerOn(node: string): Promise<void> {
    for (const [i, name] of names.entries()) {
      const Service = { ID: `${name}-${node}`, Service: name, Port: i + 1, Connect: { Native: true } }
      await agentPut(consul, '/v1/catalog/register', { Node: node, Address: '127.0.3.1', Service })
    }
  }
})

test('many services and many upstreams in one process', { skip }, async (t) => {
  // By default the agent signs at most 50 certificates per second.
  const connect = { enabled: true, ca_config: { csr_max_per_second: 0 } }
  const consul = await startConsul(t, { extraConfig: { connect } })
  const join = joiner(t, consul)
  const services = Array.from({ length: 90 }, (_, i) => join(`service-${i}`))
  await Promise.all(services.map((each) => each.ready()))
  const [web] = services as [Service]
  const missing = Array.from({ length: UPSTREAMS }, (_, i) => web.resolve(`missing-${i}`))
  for (const each of await Promise.allSettled(missing)) {
    assert.ok(each.status === 'rejected' && (each.reason as ConnectError).code === 'ERR_CONNECT_NO_INSTANCES')
  }

  await t.test('do not delay registrations and new upstreams', async (t) => {
    const startedAt = performance.now()
    await web.register({ port: 1, check: { ttlMs: 3_000 } })
    await rejection(web.resolve('missing'))
    const ms = performance.now() - startedAt
    t.diagnostic(JSON.stringify({ ms, connections: await connectionsTo(consul) }))
    assert.ok(ms < 2_000, `after ${ms} ms`)
  })
})

/** Sends requests to the agent, each on a new connection. */
class OtherProgram {
  readonly #consul: RealAgent
  readonly #ending = new AbortController()
  readonly #running: Promise<void>
  #requests = 0
  #failures = 0
  #mostConnections = 0

  constructor(consul: RealAgent) {
    this.#consul = consul
    this.#running = this.#run()
  }

  async end(): Promise<{ requests: number; failures: number; mostConnections: number }> {
    this.#ending.abort()
    await this.#running
    return { requests: this.#requests, failures: this.#failures, mostConnections: this.#mostConnections }
  }

  async #run(): Promise<void> {
    while (!this.#ending.signal.aborted) {
      this.#requests += 1
      try {
        const request = get(`${this.#consul.url}/v1/status/leader`, { agent: false })
        const [answer] = (await once(request, 'response')) as [IncomingMessage]
        await once(answer.resume(), 'end')
      } catch {
        this.#failures += 1
      }
      this.#mostConnections = Math.max(this.#mostConnections, await connectionsTo(this.#consul))
      await sleep(10)
    }
  }
}

/** The number of connections of the agent; 0 on systems without /proc. */
async function connectionsTo({ address }: RealAgent): Promise<number> {
  const port = Number(address.split(':')[1]).toString(16).toUpperCase().padStart(4, '0')
  const established = new RegExp(`^ *\\d+: [0-9A-F]{8}:[0-9A-F]{4} [0-9A-F]{8}:${port} 01 `, 'gm')
  const all = await readFile('/proc/net/tcp', 'utf8').catch(() => '')
  return all.match(established)?.length ?? 0
}
