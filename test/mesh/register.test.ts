import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, it } from 'node:test'
import type { Service } from '../../src/index.js'
import { Service as TimedService } from '../../src/service/service.js'
import { TestAgent } from '../../src/testing/index.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { greet, portOf, readAll, rejection, startMesh } from '../fixtures/mesh.js'

const PASS = '/v1/agent/check/pass'
const REGISTER = '/v1/agent/service/register'
const DEREGISTER = '/v1/agent/service/deregister'

interface Instance {
  Service: Record<string, unknown>
  Checks: { CheckID: string; Status: string; Output?: string }[]
}

async function instances(agent: TestAgent, service: string): Promise<Instance[]> {
  return (await (await fetch(`${agent.url}/v1/health/connect/${service}`)).json()) as Instance[]
}

/** A service on a clock that the test turns. */
async function timed(t: {
  after(fn: () => unknown): void
}): Promise<{ agent: TestAgent; api: Service; clock: FakeClock }> {
  const agent = await TestAgent.start()
  const clock = new FakeClock(Date.now())
  const api = new TimedService(
    'api',
    { agent: { address: agent.address, env: {} } },
    { clock, random: Math.random },
  )
  t.after(async () => {
    api.destroy()
    await api.close()
    await agent.close()
  })
  return { agent, api, clock }
}

/** Turns the clock to the next heartbeat, once that is waited for. */
async function heartbeat(clock: FakeClock): Promise<void> {
  while (!clock.delays.includes(10_000)) await new Promise(setImmediate)
  await clock.advance(10_000)
}

describe('register', () => {
  it('announces a native instance with all that it was told', async (t) => {
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
    const [found] = await instances(agent, 'api')
    assert.ok(found !== undefined)
    const {
      ID,
      Service: name,
      Address,
      Port,
      Tags,
      Meta,
      Weights,
      Connect,
    } = found.Service as typeof found.Service & {
      Meta: Record<string, string>
    }
    assert.match(Meta['connect-owner'] ?? '', /^[0-9a-f]{16}$/)
    assert.deepEqual(
      { ID, name, Address, Port, Tags, version: Meta['version'], Weights, Connect },
      {
        ID: 'api-7',
        name: 'api',
        Address: '127.0.0.2',
        Port: 4321,
        Tags: ['v1', 'blue'],
        version: '1.2.3',
        Weights: { Passing: 5, Warning: 2 },
        Connect: { Native: true },
      },
    )
    assert.deepEqual(
      found.Checks.filter(({ CheckID }) => CheckID.startsWith('service:api-7:')).map(({ Status }) => Status),
      ['passing'],
    )
    await registration.close()
    assert.deepEqual(await instances(agent, 'api'), [])
  })

  it('is passing at once, and stays so by a heartbeat three times in each TTL', async (t) => {
    const { agent, api, clock } = await timed(t)
    await api.register({ port: 1, check: { ttlMs: 30_000 } })
    assert.equal(agent.requestCount(PASS), 0)
    for (let beats = 1; beats < 5; beats += 1) {
      await heartbeat(clock)
      await agent.waitForRequests(PASS, beats)
    }
    assert.equal(agent.requestCount(REGISTER), 1)
  })

  it('with a TCP check lets the agent look for itself', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    const port = portOf(listener)
    await api.register({ port, address: '127.0.0.1', check: { tcp: `127.0.0.1:${port}`, intervalMs: 20 } })
    for (;;) {
      const [found] = await instances(agent, 'api')
      if (found?.Checks.find(({ CheckID }) => CheckID.startsWith('service:'))?.Status === 'passing') break
    }
    assert.equal(await readAll(await join('web').dial('api')), 'hello web')
  })

  for (const [what, check] of [
    ['TTL', { ttlMs: 30_000 }],
    ['TCP', { tcp: '127.0.0.1:1', intervalMs: 10_000 }],
  ] as const) {
    it(`comes back when the agent has forgotten it (${what})`, async (t) => {
      const { agent, api, clock } = await timed(t)
      const { id } = await api.register({ port: 1, check })
      agent.deregisterService(id)
      await heartbeat(clock)
      await agent.waitForRequests(REGISTER, 2)
      assert.equal((await instances(agent, 'api')).length, 1)
    })
  }

  it('warns while the agent cannot be told, and goes on', async (t) => {
    const { agent, api, clock } = await timed(t)
    await api.register({ port: 1, id: 'api-1', check: { ttlMs: 30_000 } })
    const undo = agent.fault(/\/v1\/agent\/(check|service)/, { status: 500, body: 'no' })
    const warned = once(api as unknown as NodeJS.EventEmitter, 'warning')
    await heartbeat(clock)
    const [warning] = (await warned) as [Error & { code: string }]
    assert.equal(warning.code, 'ERR_CONNECT_REGISTER')
    assert.match(warning.message, /^api-1: could not be kept registered: GET/)
    undo()
    const beats = agent.requestCount(PASS)
    await heartbeat(clock)
    await agent.waitForRequests(PASS, beats + 1)
  })

  it('is taken away when the service closes, also one that is being made', async (t) => {
    const { agent, join } = await startMesh(t)
    const api = join('api')
    await api.register({ port: 1 })
    const delayed = agent.fault(REGISTER, { delayMs: 50 })
    const half = rejection(api.register({ port: 2 }))
    await agent.waitForRequests(REGISTER, 2)
    await api.close()
    assert.equal((await half).code, 'ERR_CONNECT_CLOSED')
    delayed()
    assert.deepEqual(await instances(agent, 'api'), [])
  })

  it('that the agent refuses rejects with the agent’s word', async (t) => {
    const { agent, agentOptions, join } = await startMesh(t, {
      acl: { enabled: true, defaultPolicy: 'deny' },
    })
    const token = agent.createToken({ services: { other: 'write' } })
    const error = await rejection(join('api', { agent: { ...agentOptions, token } }).register({ port: 1 }))
    assert.equal(error.code, 'ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(agent.requestCount(DEREGISTER), 0)
  })

  it('does not hold up a close when the agent is away, and says what is left behind', async (t) => {
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

  it('waits for an agent that starts later', async (t) => {
    const { agent, join } = await startMesh(t)
    await agent.stop()
    const registering = join('api').register({ port: 1 })
    await agent.restart()
    await registering
    assert.equal((await instances(agent, 'api')).length, 1)
  })

  it('names the last answer of the agent when the time is over or its signal is aborted', async (t) => {
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

  it('can be dialed at once, also when the name was dialed before', async (t) => {
    const { join } = await startMesh(t)
    const [api, web] = [join('api'), join('web')]
    const listener = await api.listen({ port: 0, host: '127.0.0.1' }, greet)
    assert.equal((await rejection(web.dial('api'))).code, 'ERR_CONNECT_NO_INSTANCES')
    await api.register({ port: portOf(listener), address: '127.0.0.1' })
    assert.equal(await readAll(await web.dial('api')), 'hello web')
  })

  it('changes the status of its TTL check', async (t) => {
    const { agent, join } = await startMesh(t)
    const registration = await join('api').register({ port: 1 })
    await registration.setStatus('warning', { note: 'slow' })
    const [found] = await instances(agent, 'api')
    assert.ok(found?.Checks.some(({ Status, Output }) => Status === 'warning' && Output === 'slow'))
  })

  it('leaves the instance alone that another process has registered under its id', async (t) => {
    const { agent, join } = await startMesh(t)
    const old = await join('api').register({ port: 1, id: 'api-1' })
    await join('api').register({ port: 2, id: 'api-1' })
    await old.close()
    assert.deepEqual(
      (await instances(agent, 'api')).map(({ Service: { Port } }) => Port),
      [2],
    )
  })

  it('is critical as a proxy while the service that it stands for is', async (t) => {
    const { agent, join } = await startMesh(t)
    const Check = { TTL: '1m', Status: 'critical' }
    agent.registerService({ ID: 'db-1', Name: 'db', Port: 1, Tags: ['blue'], Check })
    await join('db').register({ port: 2, kind: 'proxy', destinationId: 'db-1' })
    const [found] = await instances(agent, 'db')
    assert.deepEqual(found?.Service['Tags'], ['blue'])
    assert.ok(found.Checks.some(({ CheckID, Status }) => CheckID.endsWith(':alias') && Status === 'critical'))
  })

  for (const [what, options] of [
    ['no port', {}],
    ['port 0', { port: 0 }],
    ['a port as text', { port: '80' }],
    ['an unknown option', { port: 1, name: 'x' }],
    ['a check of neither kind', { port: 1, check: {} }],
    ['a check of both kinds', { port: 1, check: { ttlMs: 1, tcp: 'a:1' } }],
    ['a TTL of nothing', { port: 1, check: { ttlMs: 0 } }],
    ['tags that are no list', { port: 1, tags: 'a' }],
    ['meta that is not text', { port: 1, meta: { a: 1 } }],
    ['a negative weight', { port: 1, weights: { passing: -1, warning: 1 } }],
  ] as const) {
    it(`takes no ${what}`, async (t) => {
      const { join } = await startMesh(t)
      assert.equal((await rejection(join('api').register(options as never))).code, 'ERR_CONNECT_OPTION')
    })
  }
})
