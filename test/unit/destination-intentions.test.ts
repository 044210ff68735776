import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import { DestinationIntentions } from '../../src/authorize/destination-intentions.js'
import type { Decision } from '../../src/authorize/decision.js'
import type { ErrorCode } from '../../src/base/errors.js'
import { agentError } from '../fixtures/errors.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { makePeer } from '../fixtures/peers.js'

const MATCH = '/v1/connect/intentions/match'
const AUTHORIZE = '/v1/agent/connect/authorize'
const web = makePeer()
const never = new AbortController().signal

class Setup {
  readonly agent = new FakeAgent()
  readonly clock = new FakeClock()
  readonly events: string[] = []
  readonly intentions: DestinationIntentions
  #index = 0

  constructor(t: TestContext, staleMs = 10_000) {
    const { agent, clock, events } = this
    this.intentions = new DestinationIntentions({ agent, service: 'api', staleMs, clock, random: () => 0.5 })
    for (const event of ['changed', 'stale', 'fresh', 'failed'] as const)
      this.intentions.on(event, () => events.push(event))
    t.after(async () => {
      this.intentions.close()
      await settle()
      assert.equal(clock.pending, 0, 'a timer is pending after close()')
    })
  }

  /** Answers the pending read with these intentions: `web allow`, `* deny`, … */
  async answer(...rules: string[]): Promise<void> {
    await settle()
    const api = rules.map((rule) => {
      const [SourceName, Action] = rule.split(' ')
      return { SourceName, DestinationName: 'api', Action }
    })
    this.agent.last(MATCH).answer({ body: { api }, index: (this.#index += 1) })
    await settle()
  }

  /** Fails the pending request. */
  async fail(code: ErrorCode = 'ERR_CONNECT_AGENT_UNREACHABLE', path = MATCH): Promise<void> {
    await settle()
    this.agent.last(path).fail(agentError(code))
    await settle()
  }

  /** Answers the pending request for authorization. `ageMs` is the age of the data of the agent. */
  async authorize(Authorized: boolean, ageMs = 0): Promise<void> {
    await settle()
    this.agent.last(AUTHORIZE).answer({ body: { Authorized, Reason: 'a reason' }, ageMs })
    await settle()
  }

  decide(peer = web): Promise<Decision> {
    const request = { signal: never, decidesRequests: false }
    const decision = Promise.resolve(this.intentions.decide(peer, request)).then((found) => found.decision)
    decision.catch(() => undefined)
    return decision
  }

  async outcome(peer = web): Promise<string> {
    const { authorized, basis } = await this.decide(peer)
    return `${authorized ? 'allowed' : 'denied'}: ${basis}`
  }

  /** The outcome of a decision by the agent. */
  async outcomeOf(authorized: boolean, ageMs?: number): Promise<string> {
    const outcome = this.outcome()
    await this.authorize(authorized, ageMs)
    return outcome
  }

  /** The number of requests for authorization. */
  get authorizeCount(): number {
    return this.agent.count(AUTHORIZE)
  }
}

describe('DestinationIntentions', () => {
  it('decides by the watched intentions, without a request, and waits for the first answer', async (t) => {
    const setup = new Setup(t)
    const first = setup.outcome()
    await setup.answer('web allow', '* deny')
    assert.equal(await first, 'allowed: intention')
    assert.equal(await setup.outcome(makePeer({ service: 'db' })), 'denied: intention')
    assert.deepEqual([setup.authorizeCount, setup.intentions.size], [0, 2])
    assert.deepEqual(setup.events, ['changed'])
  })

  it('decides by the latest intentions', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.answer('web deny')
    assert.equal(await setup.outcome(), 'denied: intention')
    await setup.answer('web deny')
    assert.deepEqual(setup.events, ['changed', 'changed'])
  })

  it('rejects with the error of the agent if the intentions cannot be read', async (t) => {
    const setup = new Setup(t)
    const decision = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_SHAPE')
    await assert.rejects(decision, { code: 'ERR_CONNECT_AGENT_SHAPE' })
    await assert.rejects(setup.decide(), { code: 'ERR_CONNECT_AGENT_SHAPE' })
    assert.deepEqual(setup.events, ['failed'])
  })

  it('reads the intentions for a decision during the delay after a failure', async (t) => {
    const setup = new Setup(t)
    for (let i = 0; i < 8; i += 1) {
      await setup.fail()
      await setup.clock.advance(i < 7 ? 10_000 : 1_000)
    }
    const decision = setup.outcome()
    await setup.answer('web allow')
    assert.equal(await decision, 'allowed: intention')
  })
})

describe('DestinationIntentions without a matching intention', () => {
  it('asks the agent once for each identity, and again after a minute', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    const both = [setup.outcome(), setup.outcome()]
    await setup.authorize(true)
    assert.deepEqual(await Promise.all(both), ['allowed: default', 'allowed: default'])
    await setup.clock.advance(59_999)
    assert.equal(await setup.outcome(), 'allowed: default')
    assert.equal(setup.authorizeCount, 1)
    void setup.decide(makePeer({ service: 'db' }))
    await setup.authorize(false)
    assert.equal(setup.authorizeCount, 2)
    await setup.clock.advance(1)
    assert.equal(setup.events.at(-1), 'changed', 'open connections are authorized again')
    assert.equal(await setup.outcomeOf(false), 'denied: default')
    assert.equal(setup.authorizeCount, 3)
  })

  it('asks the agent again when the intentions change', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    assert.equal(await setup.outcomeOf(true), 'allowed: default')
    await setup.answer('db allow')
    assert.equal(await setup.outcomeOf(false), 'denied: default')
  })

  it('asks again a second after a change, because the agent may have answered from an old copy', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.answer()
    assert.equal(await setup.outcomeOf(true), 'allowed: default')
    const before = setup.events.length
    await setup.clock.advance(1_000)
    assert.deepEqual(setup.events.slice(before), ['changed'])
    assert.equal(await setup.outcomeOf(false), 'denied: default')
  })

  it('asks again if a request was pending a second after a change', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.answer()
    const early = setup.outcome()
    const before = setup.events.length
    await setup.clock.advance(1_000)
    assert.deepEqual(setup.events.slice(before), ['changed'])
    await setup.authorize(true)
    assert.equal(await early, 'allowed: default')
    assert.equal(await setup.outcomeOf(false), 'denied: default')
  })

  it('does not use an answer of the second after a change while the agent is unreachable', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.answer()
    assert.equal(await setup.outcomeOf(true), 'allowed: default')
    await setup.clock.advance(1_000)
    const late = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_UNREACHABLE', AUTHORIZE)
    await assert.rejects(late, { code: 'ERR_CONNECT_AGENT_UNREACHABLE' })
  })

  it('asks again when the agent answers again', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    await setup.outcomeOf(true)
    await setup.fail()
    await setup.clock.advance(1_000)
    await setup.answer()
    assert.equal(await setup.outcomeOf(false), 'denied: default')
  })

  it('rejects an answer from data that is older than the last change', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.clock.advance(5_000)
    await setup.answer()
    const decision = setup.decide()
    await setup.authorize(true, 1_000)
    await assert.rejects(decision, { code: 'ERR_CONNECT_AGENT_STALE' })
  })

  it('accepts an older answer when the agent answers again without a change', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    await setup.fail()
    await setup.clock.advance(1_000)
    await setup.answer()
    assert.equal(await setup.outcomeOf(true, 2_000), 'allowed: default')
  })

  it('ignores an answer that arrives after a change of the intentions', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    const decision = setup.outcome()
    await settle()
    const request = setup.agent.last(AUTHORIZE)
    await setup.answer('web deny')
    request.answer({ body: { Authorized: true, Reason: 'a reason' } })
    assert.equal(await decision, 'denied: intention')
  })

  it('uses the last answer for 10 s more while the agent fails', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    await setup.outcomeOf(true)
    await setup.clock.advance(69_999)
    const last = setup.outcome()
    await setup.fail('ERR_CONNECT_AGENT_FAILED', AUTHORIZE)
    assert.equal(await last, 'allowed: default')
    await setup.clock.advance(1)
    const late = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_FAILED', AUTHORIZE)
    await assert.rejects(late, { code: 'ERR_CONNECT_AGENT_FAILED' })
  })

  it('accepts an answer from data of at most 10 s', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    assert.equal(await setup.outcomeOf(true, 10_000), 'allowed: default')
    const late = setup.decide(makePeer({ service: 'db' }))
    await setup.authorize(true, 11_000)
    await assert.rejects(late, { code: 'ERR_CONNECT_AGENT_STALE' })
  })

  for (const code of ['ERR_CONNECT_AGENT_FORBIDDEN', 'ERR_CONNECT_AGENT_SHAPE'] as const) {
    it(`does not use the last answer after ${code}`, async (t) => {
      const setup = new Setup(t)
      await setup.answer()
      await setup.outcomeOf(true)
      await setup.clock.advance(60_000)
      const decision = setup.decide()
      await setup.fail(code, AUTHORIZE)
      await assert.rejects(decision, { code })
    })
  }
})

describe('DestinationIntentions without intentions:read', () => {
  it('asks the agent for each connection, and reports the missing permission once', async (t) => {
    const setup = new Setup(t)
    const warnings: Error[] = []
    setup.intentions.on('failed', (error) => warnings.push(error))
    const first = setup.outcome()
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.authorize(true)
    assert.equal(await first, 'allowed: agent')
    assert.equal(await setup.outcomeOf(false), 'denied: agent')
    assert.equal(setup.authorizeCount, 2)
    await setup.clock.advance(3_000)
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(warnings.length, 1)
    assert.match(warnings[0]?.message ?? '', /service "api" \{ policy = "write", intentions = "read" \}/)
  })

  it('stops using the intentions after the second 403 in a row, until they can be read again', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(await setup.outcome(), 'allowed: intention')
    await setup.clock.advance(2_000)
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(setup.intentions.size, undefined)
    assert.equal(await setup.outcomeOf(false), 'denied: agent')
    await setup.clock.advance(4_000)
    // The watch emits no change for equal intentions.
    await setup.answer('web allow')
    assert.equal(await setup.outcome(), 'allowed: intention')
    assert.deepEqual(setup.events, ['changed', 'failed', 'stale', 'fresh', 'failed', 'changed', 'changed'])
  })

  for (const code of ['ERR_CONNECT_AGENT_FORBIDDEN', 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'] as const) {
    it(`keeps using the intentions after a single ${code}, which a restarting server causes`, async (t) => {
      const setup = new Setup(t)
      await setup.answer('web allow')
      await setup.fail(code)
      assert.equal(await setup.outcome(), 'allowed: intention')
      await setup.clock.advance(2_000)
      await setup.answer('web allow')
      await setup.fail(code)
      assert.equal(await setup.outcome(), 'allowed: intention')
      assert.equal(setup.authorizeCount, 0)
    })
  }

  it('denies, as with an unreachable agent, if the token remains unknown', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    for (let i = 0; i < 20; i += 1) {
      await setup.fail('ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
      await setup.clock.advance(10_000)
    }
    assert.equal(await setup.outcome(), 'denied: stale')
  })

  it('does not use answers from the time when the intentions could be read', async (t) => {
    const setup = new Setup(t)
    await setup.answer()
    await setup.outcomeOf(true)
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.clock.advance(2_000)
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    const decision = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_UNREACHABLE', AUTHORIZE)
    await assert.rejects(decision, { code: 'ERR_CONNECT_AGENT_UNREACHABLE' })
  })

  it('rejects an answer from cached data of the agent', async (t) => {
    const setup = new Setup(t)
    const first = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.authorize(true, 1_000)
    await assert.rejects(first, { code: 'ERR_CONNECT_AGENT_STALE' })
  })

  it('authorizes open connections again every minute', async (t) => {
    const setup = new Setup(t)
    const first = setup.outcome()
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.authorize(true)
    await first
    const before = setup.events.length
    await setup.clock.advance(60_000)
    assert.equal(setup.events.slice(before).filter((event) => event === 'changed').length, 1)
  })
})

describe('DestinationIntentions while the agent is unreachable', () => {
  it('uses the last intentions for staleMs, and then denies', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.fail()
    assert.deepEqual(setup.events, ['changed', 'failed', 'stale'])
    await setup.clock.advance(9_999)
    assert.equal(await setup.outcome(), 'allowed: intention')
    await setup.clock.advance(1)
    assert.equal(await setup.outcome(), 'denied: stale')
    assert.equal(setup.events.at(-1), 'changed')
    assert.match((await setup.decide()).reason, /not be read since 2030-01-01T00:00:00.000Z/)
  })

  it('denies immediately with a staleMs of 0', async (t) => {
    const setup = new Setup(t, 0)
    await setup.answer('web allow')
    await setup.fail()
    assert.deepEqual(setup.events, ['changed', 'failed', 'stale', 'changed'])
    assert.equal(await setup.outcome(), 'denied: stale')
  })

  it('reports a change when the agent answers again, also with equal intentions', async (t) => {
    const setup = new Setup(t, 0)
    await setup.answer('web allow')
    await setup.fail()
    await setup.clock.advance(1_000)
    await setup.answer('web allow')
    assert.equal(await setup.outcome(), 'allowed: intention')
    assert.deepEqual(setup.events.slice(-2), ['fresh', 'changed'])
    assert.equal(setup.intentions.staleSince, undefined)
  })

  it('counts staleMs from the request if the agent hangs', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    const requestedAt = setup.clock.now()
    await setup.clock.advance(6_000)
    await setup.fail('ERR_CONNECT_AGENT_TIMEOUT')
    assert.equal(setup.intentions.staleSince, requestedAt)
    await setup.clock.advance(3_999)
    assert.equal(await setup.outcome(), 'allowed: intention')
    await setup.clock.advance(1)
    assert.equal(await setup.outcome(), 'denied: stale')
  })

  it('denies also after the clock is set back', async (t) => {
    const setup = new Setup(t)
    await setup.answer('web allow')
    await setup.fail()
    await setup.clock.advance(10_000)
    setup.clock.set(setup.clock.now() - 3_600_000)
    assert.equal(await setup.outcome(), 'denied: stale')
  })
})
