import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import type { Service } from '../../src/index.js'
import { TestAgent } from '../../src/testing/index.js'
import type { FakeClock } from '../fixtures/fake-clock.js'
import { greet, nextEvent, portOf, readAll, rejection, startMesh, until } from '../fixtures/mesh.js'
import { clockedService } from './clocked-service.js'

const PASS = '/v1/agent/check/pass'
const REGISTER = '/v1/agent/service/register'
const DEREGISTER = '/v1/agent/service/deregister'

interface Instance {
  Service: Record<string, unknown> & { Meta?: Record<string, string> }
  Checks: { CheckID: string; Status: string; Output?: string }[]
}

async function instances(agent: TestAgent, service: string): Promise<Instance[]> {
  return (await (await fetch(`${agent.url}/v1/health/connect/${service}`)).json()) as Instance[]
}

/** A service on a clock that the test advances. */
async function startClocked(
  t: TestContext,
): Promise<{ readonly agent: TestAgent; readonly api: Service; readonly clock: FakeClock }> {
  const agent = await TestAgent.start()
  const { service: api, clock } = clockedService(t, 'api', { agent: { address: agent.address, env: {} } })
  // After the service: without the agent, its deregistration would wait for a timeout of the stopped clock.
  t.after(() => agent.close())
  return { agent, api, clock }
}

/** Waits for the timer of the next heartbeat, and advances the clock to it. */
async function heartbeat(clock: FakeClock): Promise<void> {
  while (!clock.delays.includes(10_000)) await new Promise(setImmediate)
  await clock.advance(10_000)
}

describe('register', () => {
  it('registers a native instance with all options', async (t) => {
    const { agent, join } = await startMesh(t)
    const registration = await join('api').register({
      port: 4321,
      address: '127.0.0.2',
      id: 'api-7',
      tags: ['v1', 'blue'],
      meta: { version: '1.2.3' },
      weights: { passing: 5, warning: 2 },
    })
    assert.equal(registration.id, 'api-7')
    const [instance] = await instances(agent, 'api')
    assert.ok(instance !== undefined)
    const { ID, Service, Address, Port, Tags, Meta = {}, Weights, Connect } = instance.Service
    const { 'connect-owner': owner = '', ...meta } = Meta
    assert.match(owner, /^[0-9a-f]{16}$/)
    assert.deepEqual([ID, Service, Address, Port], ['api-7', 'api', '127.0.0.2', 4321])
    assert.deepEqual([Tags, meta, Connect], [['v1', 'blue'], { version: '1.2.3' }, { Native: true }])
    assert.deepEqual(Weights, { Passing: 5, Warning: 2 })
    assert.deepEqual(
      instance.Checks.filter(({ CheckID }) => CheckID.startsWith('service:api-7:')).map(
        ({ Status }) => Status,
      ),
      ['passing'],
    )
    await registration.close()
    assert.deepEqual(await instances(agent, 'api'), [])
  })

  it('is passing at once, and sends three heartbeats in each TTL', async (t) => {
    const { agent, api, clock } = await startClocked(t)
    await api.register({ port: 1, check: { ttlMs: 30_000 } })
    assert.equal(agent.requestCount(PASS), 0)
    for (let beats = 1; beats < 5; beats += 1) {
      await heartbeat(clock)
      await agent.waitForRequests(PASS, beats)
    }
    assert.equal(agent.requestCount(REGISTER), 1)
  })

  it('supports TCP checks of the agent', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const port = portOf(listener)
    await api.register({ port, address: '127.0.0.1', check: { tcp: `127.0.0.1:${port}`, intervalMs: 20 } })
    await until('the check is passing', async () => {
      const [instance] = await instances(agent, 'api')
      return instance?.Checks.find(({ CheckID }) => CheckID.startsWith('service:'))?.Status === 'passing'
    })
    assert.equal(await readAll(await join('web').dial('api')), 'hello web')
  })

  for (const [kind, check] of [
    ['TTL', { ttlMs: 30_000 }],
    ['TCP', { tcp: '127.0.0.1:1', intervalMs: 10_000 }],
  ] as const) {
    it(`registers again when the agent has lost the instance (${kind})`, async (t) => {
      const { agent, api, clock } = await startClocked(t)
      const { id } = await api.register({ port: 1, check })
      agent.deregisterService(id)
      await heartbeat(clock)
      await agent.waitForRequests(REGISTER, 2)
      assert.equal((await instances(agent, 'api')).length, 1)
    })
  }

  it('emits a warning when a heartbeat fails, and continues', async (t) => {
    const { agent, api, clock } = await startClocked(t)
    await api.register({ port: 1, id: 'api-1', check: { ttlMs: 30_000 } })
    const clearFault = agent.fault(/\/v1\/agent\/(check|service)/, { status: 500, body: 'no' })
    const warned = nextEvent(api, 'warning')
    await heartbeat(clock)
    const [warning] = await warned
    assert.equal((warning as { code?: string }).code, 'ERR_CONNECT_REGISTER')
    assert.match(warning.message, /^api-1: could not be kept registered: GET/)
    clearFault()
    const beats = agent.requestCount(PASS)
    await heartbeat(clock)
    await agent.waitForRequests(PASS, beats + 1)
  })

  it('is removed when the service closes, also while it is pending', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    await api.register({ port: 1 })
    const clearFault = agent.fault(REGISTER, { delayMs: 50 })
    const pending = rejection(api.register({ port: 2 }))
    await agent.waitForRequests(REGISTER, 2)
    await api.close()
    assert.equal((await pending).code, 'ERR_CONNECT_CLOSED')
    clearFault()
    assert.deepEqual(await instances(agent, 'api'), [])
  })

  it('rejects with the error of the agent', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, {
      acl: { enabled: true, defaultPolicy: 'deny' },
    })
    const token = agent.createToken({ services: { web: 'write' } })
    const error = await rejection(join('api', { agent: { ...agentOptions, token } }).register({ port: 1 }))
    assert.equal(error.code, 'ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(agent.requestCount(DEREGISTER), 0)
  })

  it('does not delay close() without the agent, and names the remaining instance', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    await api.register({ port: 1, id: 'api-1' })
    await agent.stop()
    const warnings: string[] = []
    api.on('warning', (error) => warnings.push(error.message))
    await api.close()
    assert.ok(
      warnings.some((message) => message.startsWith('api-1: could not be deregistered')),
      warnings.join('\n'),
    )
  })

  it('reports the last answer of the agent at its timeout and when its signal is aborted', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    await agent.stop()
    const late = await rejection(api.register({ port: 1, timeoutMs: 300 }))
    assert.equal(late.code, 'ERR_CONNECT_TIMEOUT')
    assert.match(late.message, /register: timed out after 300 ms: PUT .*no answer from the agent/)
    const aborted = await rejection(api.register({ port: 1, signal: AbortSignal.timeout(300) }))
    assert.equal(aborted.code, 'ERR_CONNECT_ABORTED')
    assert.match(aborted.message, /register: aborted by its signal: PUT .*no answer from the agent/)
  })

  it('keeps the instance that another process has registered under its id', async (t) => {
    const { agent, join } = await startMesh(t)
    const first = await join('api').register({ port: 1, id: 'api-1' })
    await join('api').register({ port: 2, id: 'api-1' })
    await first.close()
    assert.deepEqual(
      (await instances(agent, 'api')).map(({ Service: { Port } }) => Port),
      [2],
    )
  })

  for (const [fault, options] of [
    ['no port', {}],
    ['port 0', { port: 0 }],
    ['a port as a string', { port: '80' }],
    ['an unknown option', { port: 1, name: 'x' }],
    ['a check without a kind', { port: 1, check: {} }],
    ['a check of two kinds', { port: 1, check: { ttlMs: 1, tcp: 'a:1' } }],
    ['a TTL of 0', { port: 1, check: { ttlMs: 0 } }],
    ['tags that are not a list', { port: 1, tags: 'a' }],
    ['meta that is not a string', { port: 1, meta: { a: 1 } }],
    ['a negative weight', { port: 1, weights: { passing: -1, warning: 1 } }],
  ] as const) {
    it(`rejects ${fault}`, async (t) => {
      const { join } = await startMesh(t)
      assert.equal((await rejection(join('api').register(options as never))).code, 'ERR_CONNECT_OPTION')
    })
  }
})
