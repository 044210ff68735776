// Dials along discovery chains, which the embedded agent compiles from config entries.
import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import { DialError, type Service } from '../../src/index.js'
import type { TestAgent } from '../../src/testing/index.js'
import { portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'

const RESOLVERS = '/v1/config/service-resolver'
const SUBSETS = { v1: { Filter: 'Service.Meta.version == 1' }, v2: { Filter: 'Service.Meta.version == 2' } }

interface Setup {
  readonly agent: TestAgent
  readonly web: Service
  /** Starts an instance that answers with its ID. */
  readonly offer: (service: string, id: string, version?: string) => Promise<Service>
}

async function start(t: TestContext): Promise<Setup> {
  const { agent, join } = await startMesh(t)
  const offer = async (name: string, id: string, version = '1'): Promise<Service> => {
    const service = join(name)
    const listener = await service.listen({ port: 0, host: '127.0.0.1' }, (socket) => socket.end(id))
    await service.register({ id, port: portOf(listener), address: '127.0.0.1', meta: { version } })
    return service
  }
  return { agent, web: join('web'), offer }
}

async function put(agent: TestAgent, Name: string, fields: object): Promise<void> {
  const body = JSON.stringify({ Kind: 'service-resolver', Name, ...fields })
  const response = await fetch(`${agent.url}/v1/config`, { method: 'PUT', body })
  assert.equal(response.status, 200, await response.text())
}

/** Makes a change of the entries, and waits until the agent has answered it to the service that watches them. */
async function answered(agent: TestAgent, change: () => Promise<unknown>): Promise<void> {
  await agent.waitForBlocked(RESOLVERS)
  const seen = agent.requestCount(/^GET \/v1\/config\/service-resolver/)
  await change()
  await agent.waitForRequests(/^GET \/v1\/config\/service-resolver/, seen + 1)
}

/** Dials `api` several times, and returns the IDs of the instances that answered. */
async function answers(web: Service): Promise<Set<string>> {
  const ids = new Set<string>()
  for (let i = 0; i < 6; i += 1) ids.add(await readAll(await web.dial('api')))
  return ids
}

describe('a dial along a discovery chain', () => {
  it('reaches only the instances of the subset', async (t) => {
    const { agent, web, offer } = await start(t)
    await Promise.all([offer('api', 'api-1'), offer('api', 'api-2', '2')])
    await put(agent, 'api', { Subsets: SUBSETS, DefaultSubset: 'v2' })
    assert.deepEqual(await answers(web), new Set(['api-2']))
  })

  it('reaches the service of a redirect, by its own identity', async (t) => {
    const { agent, web, offer } = await start(t)
    await Promise.all([offer('api', 'api-1'), offer('next', 'next-1')])
    await put(agent, 'api', { Redirect: { Service: 'next' } })
    const socket = await web.dial('api')
    assert.equal(socket.peer.service, 'next')
    assert.equal(await readAll(socket), 'next-1')
  })

  it('fails over while the first target has no healthy instance', async (t) => {
    const { agent, web, offer } = await start(t)
    const api = await offer('api', 'api-1')
    await offer('spare', 'spare-1')
    await put(agent, 'api', { Failover: { '*': { Service: 'spare' } } })
    assert.deepEqual(await answers(web), new Set(['api-1']))
    await agent.waitForBlocked('/v1/health/connect/api')
    const reads = agent.requestCount('/v1/health/connect/api')
    await api.close()
    await agent.waitForRequests('/v1/health/connect/api', reads + 1)
    assert.deepEqual(await answers(web), new Set(['spare-1']))
  })

  it('follows a change at once, and further ones within a second', async (t) => {
    const { agent, web, offer } = await start(t)
    await Promise.all([offer('api', 'api-1'), offer('api', 'api-2', '2'), offer('next', 'next-1')])
    const steps: [fields: object, expected: string][] = [
      [{ Subsets: SUBSETS, DefaultSubset: 'v1' }, 'api-1'],
      [{ Subsets: SUBSETS, DefaultSubset: 'v2' }, 'api-2'],
      [{ Redirect: { Service: 'next' } }, 'next-1'],
    ]
    assert.equal((await web.resolve('api')).length, 2)
    for (const [i, [fields, expected]] of steps.entries()) {
      await answered(agent, () => put(agent, 'api', fields))
      if (i === 0) assert.deepEqual(await answers(web), new Set([expected]))
      await until(`${expected} answers alone`, async () => [...(await answers(web))].join() === expected)
    }
    await answered(agent, () => fetch(`${agent.url}${RESOLVERS}/api`, { method: 'DELETE' }))
    await until('both instances are found', async () => (await web.resolve('api')).length === 2)
  })

  it('names the subset whose filter matches no instance', async (t) => {
    const { agent, web, offer } = await start(t)
    await offer('api', 'api-1')
    await put(agent, 'api', { Subsets: SUBSETS, DefaultSubset: 'v2' })
    const error = await rejection(web.dial('api'))
    assert.ok(error instanceof DialError)
    assert.deepEqual([error.code, error.reason], ['ERR_CONNECT_NO_INSTANCES', 'no-match'])
    assert.match(error.message, /\bv2\b.*Service\.Meta\.version == 2/)
  })
})
