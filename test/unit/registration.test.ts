import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Registration } from '../../src/agent/registration.js'
import { AgentError, type ConnectError, type ErrorCode } from '../../src/errors.js'
import { type RegisterOptions, serviceDefinition } from '../../src/register-options.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock } from '../fixtures/fake-clock.js'

const REGISTER = '/v1/agent/service/register'
const DEREGISTER = '/v1/agent/service/deregister/web-8080'
const PASS = '/v1/agent/check/pass/service%3Aweb-8080'
const FIND = '/v1/agent/service/web-8080'

const answered = (code: ErrorCode, status?: number): AgentError =>
  new AgentError(code, code, { address: 'a', request: 'r', status })
const FORGOTTEN = answered('ERR_CONNECT_AGENT_FAILED', 500)
const AWAY = answered('ERR_CONNECT_AGENT_UNREACHABLE')

/** A registration whose agent is answered by hand. */
function open(options: Partial<RegisterOptions> = {}) {
  const [agent, clock] = [new FakeAgent({ datacenter: 'dc1' }), new FakeClock()]
  const warnings: ConnectError[] = []
  let closed = 0
  const { definition, heartbeatMs } = serviceDefinition('web', { port: 8080, ...options })
  const registration = new Registration({
    agent,
    definition,
    heartbeatMs,
    clock,
    onError: (error) => warnings.push(error),
    onClosed: () => {
      closed += 1
    },
  })
  let seen = 0
  return {
    agent,
    clock,
    warnings,
    registration,
    closed: () => closed,
    start: () => registration.start(new AbortController().signal),
    /** The paths that were asked for since the last time. */
    asked: async () => {
      await clock.advance(0)
      const paths = agent.requests.slice(seen).map(({ request }) => request.path)
      seen = agent.requests.length
      return paths
    },
    answer: async () => {
      agent.requests.at(-1)!.answer()
      await clock.advance(0)
    },
    fail: async (error: Error) => {
      agent.requests.at(-1)!.fail(error)
      await clock.advance(0)
    },
  }
}

/** Registered, with its first heartbeat behind it. */
async function started(options: Partial<RegisterOptions> = {}) {
  const opened = open(options)
  const start = opened.start()
  await opened.answer()
  await opened.answer()
  await start
  await opened.asked()
  return opened
}

describe('Registration: start', () => {
  it('registers, replaces the checks of an earlier one, and says at once that it lives', async () => {
    const { start, agent, asked, answer, clock, registration } = open()
    const done = start()
    assert.deepEqual(await asked(), [REGISTER])
    const { method, query, body } = agent.last(REGISTER).request
    assert.deepEqual([method, query], ['PUT', { 'replace-existing-checks': true }])
    assert.equal((body as { ID: string }).ID, registration.id)
    await answer()
    assert.deepEqual(await asked(), [PASS])
    await answer()
    await done
    assert.deepEqual(clock.delays, [5000])
  })

  it('an agent that says no is left alone', async () => {
    const { start, fail, asked, closed, clock } = open()
    const rejected = assert.rejects(start(), { code: 'ERR_CONNECT_AGENT_FORBIDDEN' })
    await fail(answered('ERR_CONNECT_AGENT_FORBIDDEN', 403))
    await rejected
    assert.deepEqual(await asked(), [REGISTER])
    assert.equal(closed(), 1)
    assert.equal(clock.pending, 0)
  })

  it('an agent that falls silent may have registered us: it is taken back', async () => {
    const { start, fail, answer, asked, closed } = open()
    const rejected = assert.rejects(start(), { code: 'ERR_CONNECT_AGENT_UNREACHABLE' })
    await fail(AWAY)
    assert.deepEqual(await asked(), [REGISTER, DEREGISTER])
    await answer()
    await rejected
    assert.equal(closed(), 1)
  })
})

describe('Registration: heartbeat', () => {
  it('tells three times in each TTL that it lives', async () => {
    const { clock, asked, answer } = await started({ check: { ttlMs: 3000 } })
    for (let i = 0; i < 3; i += 1) {
      await clock.advance(999)
      assert.deepEqual(await asked(), [])
      await clock.advance(1)
      assert.deepEqual(await asked(), [PASS])
      await answer()
    }
  })

  it('with a TCP check it looks whether the agent still knows it', async () => {
    const { clock, asked, answer } = await started({ check: { tcp: 'a:1', intervalMs: 500 } })
    await clock.advance(500)
    assert.deepEqual(await asked(), [FIND])
    await answer()
    assert.deepEqual(clock.delays, [500])
  })

  it('an agent that has forgotten it gets it again, without a warning', async () => {
    const { clock, asked, answer, fail, warnings } = await started()
    await clock.advance(5000)
    await fail(FORGOTTEN)
    assert.deepEqual(await asked(), [PASS, REGISTER])
    await answer()
    assert.deepEqual(await asked(), [PASS])
    await answer()
    assert.deepEqual(warnings, [])
    assert.deepEqual(clock.delays, [5000])
  })

  it('an agent that is away is a warning at each beat, until it is back', async () => {
    const { clock, asked, answer, fail, warnings } = await started()
    for (let i = 1; i <= 2; i += 1) {
      await clock.advance(5000)
      await fail(AWAY)
      await fail(AWAY)
      assert.equal(warnings.length, i)
    }
    assert.deepEqual([warnings[0]!.code, warnings[0]!.cause], ['ERR_CONNECT_REGISTER', AWAY])
    await asked()
    await clock.advance(5000)
    assert.deepEqual(await asked(), [PASS])
    await answer()
    assert.equal(warnings.length, 2)
  })
})

describe('Registration: close', () => {
  it('deregisters once, however often it is called', async () => {
    const { registration, asked, answer, closed, clock, agent } = await started()
    const closing = registration.close()
    assert.equal(registration.close(), closing)
    assert.deepEqual(await asked(), [DEREGISTER])
    const { method, query, timeoutMs } = agent.last(DEREGISTER).request
    assert.deepEqual([method, query, timeoutMs], ['PUT', undefined, 2000])
    await answer()
    await closing
    assert.equal(closed(), 1)
    assert.equal(clock.pending, 0)
  })

  it('cuts a heartbeat short', async () => {
    const { registration, clock, asked, answer, agent } = await started()
    await clock.advance(5000)
    const closing = registration.close()
    assert.deepEqual(await asked(), [PASS, DEREGISTER])
    assert.equal(agent.last(PASS).request.signal?.aborted, true)
    await answer()
    await closing
  })

  it('waits for a registration under way, which the agent could hear last', async () => {
    const { registration, clock, asked, answer, fail } = await started()
    await clock.advance(5000)
    await fail(FORGOTTEN)
    assert.deepEqual(await asked(), [PASS, REGISTER])
    const closing = registration.close()
    assert.deepEqual(await asked(), [])
    await answer()
    assert.deepEqual(await asked(), [DEREGISTER])
    await answer()
    await closing
  })

  it('an agent that does not know it is as good', async () => {
    const { registration, fail, warnings, clock } = await started()
    const closing = registration.close()
    await clock.advance(0)
    await fail(answered('ERR_CONNECT_AGENT_NOT_FOUND', 404))
    await closing
    assert.deepEqual(warnings, [])
  })

  it('tries three times, a little apart, and then warns and gives up', async () => {
    const { registration, fail, warnings, clock, asked } = await started()
    const closing = registration.close()
    for (const pause of [200, 400, undefined]) {
      assert.deepEqual(await asked(), [DEREGISTER])
      await fail(AWAY)
      assert.deepEqual(clock.delays, pause === undefined ? [] : [pause])
      await clock.advance(pause ?? 0)
    }
    await closing
    assert.deepEqual(await asked(), [])
    assert.deepEqual(
      warnings.map(({ code, cause }) => [code, cause]),
      [['ERR_CONNECT_REGISTER', AWAY]],
    )
  })
})

describe('Registration: abandon', () => {
  it('ends the heartbeat, and leaves the registration to its check', async () => {
    const { registration, clock, asked, closed } = await started()
    registration.abandon()
    await registration.close()
    await clock.advance(60_000)
    assert.deepEqual(await asked(), [])
    assert.equal(closed(), 1)
    assert.equal(clock.pending, 0)
  })
})
