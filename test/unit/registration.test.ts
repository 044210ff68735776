import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { AgentClient, type AgentResponse, type OwnRequest } from '../../src/agent/client.js'
import { Registration } from '../../src/service/registration.js'
import { agentSettings } from '../../src/agent/settings.js'
import type { ConnectError } from '../../src/base/errors.js'
import { type RegisterOptions, serviceDefinition } from '../../src/service/options/register-options.js'
import { FakeClock } from '../fixtures/fake-clock.js'
import { AWAY, agentError } from '../fixtures/errors.js'

const OWNER = 'aabbccdd'
const REGISTER = 'register'
const DEREGISTER = 'deregister/web-1'
const PASS = `pass/service%3Aweb-1%3A${OWNER}`
const FIND = 'service/web-1'
const CATALOG = '/v1/health/service/web'

const UNKNOWN_CHECK = agentError('ERR_CONNECT_AGENT_FAILED', 500)
const NOT_FOUND = agentError('ERR_CONNECT_AGENT_NOT_FOUND', 404)

/** An agent client without a network. It answers each request at once, from `answers` or with a default. */
class ScriptedAgent extends AgentClient {
  readonly requests: OwnRequest[] = []
  /** The answers by the end of the path. The last answer of a list is repeated. */
  readonly answers = new Map<string, unknown[]>()

  constructor() {
    super(agentSettings({ env: {} }))
  }

  override request<T>(request: OwnRequest, parse: (body: unknown) => T): Promise<AgentResponse<T>> {
    this.requests.push(request)
    const path = shortPath(request.path)
    const answers = this.answers.get(path) ?? [DEFAULT_ANSWERS[path]]
    const answer = answers.length > 1 ? answers.shift() : answers[0]
    if (answer instanceof Error) return Promise.reject(answer)
    return Promise.resolve(answer).then((body) => ({ value: parse(body), index: undefined, hash: undefined }))
  }

  /** Returns the paths requested since the last call. */
  paths(): string[] {
    return this.requests.splice(0).map(({ path }) => shortPath(path))
  }
}

const DEFAULT_ANSWERS: Readonly<Record<string, unknown>> = {
  [FIND]: { Meta: { 'connect-owner': OWNER } },
  [CATALOG]: [{}],
}

function shortPath(path: string): string {
  return path.replace(/^\/v1\/agent\/(?:service\/(?=register|deregister|maintenance)|check\/)?/, '')
}

function open(options: Partial<RegisterOptions> = {}) {
  const [agent, clock] = [new ScriptedAgent(), new FakeClock()]
  const warnings: ConnectError[] = []
  let closed = 0
  const { definition, heartbeatMs } = serviceDefinition('web', { port: 8080, id: 'web-1', ...options }, OWNER)
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
  return { agent, clock, warnings, registration, closed: () => closed, signal: new AbortController().signal }
}

/** Opens a registration and waits for its start. */
async function started(options: Partial<RegisterOptions> = {}) {
  const opened = open(options)
  await opened.registration.start(opened.signal)
  opened.agent.paths()
  return opened
}

describe('Registration: start', () => {
  it('registers, replaces the checks of an earlier registration, and waits for the catalog', async () => {
    const { agent, clock, registration, signal } = open()
    agent.answers.set(CATALOG, [[], [], [{}]])
    let isDone = false
    const done = registration.start(signal).then(() => {
      isDone = true
    })
    await clock.advance(29)
    assert.equal(isDone, false)
    await clock.advance(1)
    await done
    const [{ method, query, body } = { body: undefined }] = agent.requests
    assert.deepEqual([method, query], ['PUT', { 'replace-existing-checks': true }])
    assert.equal((body as { ID: string }).ID, 'web-1')
    assert.deepEqual(agent.paths(), [REGISTER, CATALOG, CATALOG, CATALOG])
    assert.deepEqual(clock.delays, [5000])
  })

  it('waits 3 s at most for the catalog', async () => {
    const { agent, clock, registration, signal } = open()
    agent.answers.set(CATALOG, [[]])
    const done = registration.start(signal)
    await clock.advance(3_250)
    await done
  })

  it('does not wait for the catalog without permission to read it', async () => {
    const { agent, registration, signal } = open()
    agent.answers.set(CATALOG, [agentError('ERR_CONNECT_AGENT_FORBIDDEN', 403)])
    await registration.start(signal)
    assert.deepEqual(agent.paths(), [REGISTER, CATALOG])
  })

  it('retries while the agent does not answer', async () => {
    const { agent, clock, registration, signal } = open()
    agent.answers.set(REGISTER, [AWAY, agentError('ERR_CONNECT_AGENT_TOKEN_UNKNOWN', 403), undefined])
    const done = registration.start(signal)
    await clock.advance(100)
    assert.equal(registration.lastError?.message, 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
    await clock.advance(200)
    await done
    assert.equal(registration.lastError, undefined)
    assert.deepEqual(agent.paths(), [REGISTER, REGISTER, REGISTER, CATALOG])
  })

  it('does not retry after a refusal of the agent', async () => {
    const { agent, registration, signal, closed, clock } = open()
    agent.answers.set(REGISTER, [agentError('ERR_CONNECT_AGENT_FORBIDDEN', 403)])
    await assert.rejects(registration.start(signal), { code: 'ERR_CONNECT_AGENT_FORBIDDEN' })
    assert.deepEqual(agent.paths(), [REGISTER])
    assert.equal(closed(), 1)
    assert.equal(clock.pending, 0)
  })

  it('deregisters after an aborted start, which may have registered the service', async () => {
    const { agent, clock, registration, closed } = open()
    const controller = new AbortController()
    agent.answers.set(REGISTER, [AWAY, new Error('aborted')])
    const rejected = assert.rejects(registration.start(controller.signal))
    await clock.advance(0)
    controller.abort()
    await rejected
    assert.deepEqual(agent.paths(), [REGISTER, REGISTER, FIND, DEREGISTER])
    assert.equal(closed(), 1)
  })

  it('copies tags, metadata, and weights of the service to its proxy, unless the proxy has its own', async () => {
    const destination = { Tags: ['v2'], Meta: { version: '2' }, Weights: { Passing: 5, Warning: 2 } }
    const owner = { 'connect-owner': OWNER }
    for (const [own, expected] of [
      [{}, { ...destination, Meta: { version: '2', ...owner } }],
      [
        { tags: ['own'], meta: { a: 'b' }, weights: { passing: 1, warning: 1 } },
        { Tags: ['own'], Meta: { a: 'b', ...owner }, Weights: { Passing: 1, Warning: 1 } },
      ],
    ] as const) {
      const { agent, registration, signal } = open({ kind: 'proxy', destinationId: 'web-7', ...own })
      agent.answers.set('service/web-7', [destination])
      await registration.start(signal)
      const { body } = agent.requests.find(({ path }) => path.endsWith(REGISTER)) ?? {}
      const { Tags, Meta, Weights } = body as Record<string, unknown>
      assert.deepEqual({ Tags, Meta, Weights }, expected)
    }
  })
})

describe('Registration: heartbeat', () => {
  it('renews a TTL three times in each period', async () => {
    const { agent, clock } = await started({ check: { ttlMs: 3000 } })
    for (let i = 0; i < 3; i += 1) {
      await clock.advance(999)
      assert.deepEqual(agent.paths(), [])
      await clock.advance(1)
      assert.equal(agent.requests[0]?.isHeartbeat, true)
      assert.deepEqual(agent.paths(), [PASS])
    }
  })

  it('renews the status that was set last', async () => {
    const { agent, clock, registration } = await started()
    await registration.setStatus('warning', { note: 'slow' })
    await clock.advance(5000)
    const warn = PASS.replace('pass', 'warn')
    const request = [warn, { note: 'slow' }]
    assert.deepEqual(
      agent.requests.map(({ path, query }) => [shortPath(path), query]),
      [request, request],
    )
  })

  it('checks for the registration when the agent runs the check', async () => {
    const { agent, clock } = await started({ check: { tcp: 'a:1', intervalMs: 500 } })
    await clock.advance(500)
    assert.deepEqual(agent.paths(), [FIND])
    assert.deepEqual(clock.delays, [500])
  })

  it('registers again with status and maintenance when the agent lost the service, without a warning', async () => {
    const { agent, clock, registration, warnings } = await started()
    await registration.setStatus('critical')
    await registration.enterMaintenance({ reason: 'upgrade' })
    agent.paths()
    const fail = PASS.replace('pass', 'fail')
    agent.answers.set(fail, [UNKNOWN_CHECK, undefined]).set(FIND, [NOT_FOUND])
    await clock.advance(5000)
    assert.deepEqual(agent.paths(), [fail, FIND, REGISTER, 'maintenance/web-1', fail])
    assert.deepEqual(warnings, [])
    assert.deepEqual(clock.delays, [5000])
  })

  it('warns at each heartbeat while the agent is unreachable', async () => {
    const { agent, clock, warnings } = await started()
    agent.answers.set(PASS, [AWAY]).set(FIND, [AWAY])
    await clock.advance(5000)
    await clock.advance(5000)
    const warning = ['ERR_CONNECT_REGISTER', AWAY]
    assert.deepEqual(
      warnings.map(({ code, cause }) => [code, cause]),
      [warning, warning],
    )
    agent.answers.clear()
    await clock.advance(5000)
    assert.equal(warnings.length, 2)
  })

  for (const check of [{ ttlMs: 15_000 }, { tcp: 'a:1', intervalMs: 5_000 }] as const) {
    it(`warns and stops when another process has registered the ID (check ${Object.keys(check)[0] ?? ''})`, async () => {
      const { agent, clock, registration, warnings, closed } = await started({ check })
      agent.answers.set(PASS, [UNKNOWN_CHECK]).set(FIND, [{ Meta: { 'connect-owner': 'other' } }])
      await clock.advance(5000)
      assert.match(warnings[0]?.message ?? '', /^web-1: gets no more heartbeats: another process/)
      await registration.close()
      await clock.advance(60_000)
      assert.ok(!agent.paths().some((path) => path === REGISTER || path === DEREGISTER))
      assert.equal(closed(), 1)
    })
  }
})

describe('Registration: close', () => {
  it('deregisters once, however often it is called', async () => {
    const { agent, registration, closed, clock } = await started()
    const closing = registration.close()
    assert.equal(registration.close(), closing)
    await closing
    assert.deepEqual(agent.paths(), [FIND, DEREGISTER])
    assert.equal(closed(), 1)
    assert.equal(clock.pending, 0)
  })

  it('leaves the registration of another process, and warns', async () => {
    const { agent, registration, warnings } = await started()
    agent.answers.set(FIND, [{ Meta: {} }])
    await registration.close()
    assert.deepEqual(agent.paths(), [FIND])
    assert.match(warnings[0]?.message ?? '', /^web-1: could not be deregistered: another process/)
  })

  it('succeeds without a warning when the agent does not have the service', async () => {
    const { agent, registration, warnings } = await started()
    agent.answers.set(FIND, [NOT_FOUND])
    await registration.close()
    assert.deepEqual(warnings, [])
  })

  it('tries three times with pauses, and then warns', async () => {
    const { agent, registration, warnings, clock } = await started()
    agent.answers.set(DEREGISTER, [AWAY])
    const closing = registration.close()
    for (const pause of [200, 400, undefined]) {
      await clock.advance(0)
      assert.deepEqual(agent.paths(), [FIND, DEREGISTER])
      assert.deepEqual(clock.delays, pause === undefined ? [] : [pause])
      await clock.advance(pause ?? 0)
    }
    await closing
    assert.deepEqual(
      warnings.map(({ code, cause }) => [code, cause]),
      [['ERR_CONNECT_REGISTER', AWAY]],
    )
  })
})

describe('Registration: abandon', () => {
  it('ends the heartbeats, and does not deregister', async () => {
    const { agent, registration, clock, closed } = await started()
    registration.abandon()
    await registration.close()
    await clock.advance(60_000)
    assert.deepEqual(agent.paths(), [])
    assert.equal(closed(), 1)
    assert.equal(clock.pending, 0)
  })
})

describe('Registration: setStatus and maintenance', () => {
  it('rejects a status for a check that the agent runs, and an unknown status', async () => {
    const { registration } = await started({ check: { tcp: 'a:1' } })
    await assert.rejects(registration.setStatus('warning'), { code: 'ERR_CONNECT_OPTION' })
    await assert.rejects(registration.setStatus('toString' as 'passing'), { code: 'ERR_CONNECT_OPTION' })
  })

  it('enters and leaves maintenance mode', async () => {
    const { agent, registration } = await started()
    await registration.enterMaintenance({ reason: 'upgrade' })
    await registration.leaveMaintenance()
    assert.deepEqual(
      agent.requests.map(({ query }) => query),
      [
        { enable: true, reason: 'upgrade' },
        { enable: false, reason: undefined },
      ],
    )
    await registration.close()
    await assert.rejects(registration.enterMaintenance(), { code: 'ERR_CONNECT_CLOSED' })
  })
})
