import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import { DestinationIntentions } from '../../src/authorize/destination-intentions.js'
import type { Decision } from '../../src/authorize/authorizer.js'
import { AgentError, type ErrorCode } from '../../src/base/errors.js'
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
      assert.equal(clock.pending, 0, 'a timer is left')
    })
  }

  /** The agent's answer to whoever reads or watches: `web allow`, `* deny`, … */
  async tell(...rules: string[]): Promise<void> {
    await settle()
    const api = rules.map((rule) => {
      const [SourceName, Action] = rule.split(' ')
      return { SourceName, DestinationName: 'api', Action }
    })
    this.agent.last(MATCH).answer({ body: { api }, index: (this.#index += 1) })
    await settle()
  }

  async fail(code: ErrorCode = 'ERR_CONNECT_AGENT_UNREACHABLE', path = MATCH): Promise<void> {
    await settle()
    this.agent.last(path).fail(new AgentError(code, code, { address: 'a', request: 'r' }))
    await settle()
  }

  /** The agent's word on whoever is asked about. */
  async say(Authorized: boolean, ageMs = 0): Promise<void> {
    await settle()
    this.agent.last(AUTHORIZE).answer({ body: { Authorized, Reason: 'because' }, ageMs })
    await settle()
  }

  decide(peer = web): Promise<Decision> {
    const decision = Promise.resolve(this.intentions.decide(peer, never))
    decision.catch(() => undefined)
    return decision
  }

  /** The ground of a decision that the agent makes. */
  async groundAfter(authorized: boolean, ageMs?: number): Promise<string> {
    const ground = this.ground()
    await this.say(authorized, ageMs)
    return ground
  }

  async ground(peer = web): Promise<string> {
    const { authorized, basis } = await this.decide(peer)
    return `${authorized ? 'allowed' : 'denied'}: ${basis}`
  }

  get asked(): number {
    return this.agent.count(AUTHORIZE)
  }
}

describe('Intentions: the watched copy', () => {
  it('is waited for by the first, and decides without the agent', async (t) => {
    const setup = new Setup(t)
    const first = setup.ground()
    await setup.tell('web allow', '* deny')
    assert.equal(await first, 'allowed: intention')
    assert.equal(await setup.ground(makePeer({ service: 'db' })), 'denied: intention')
    assert.deepEqual([setup.asked, setup.intentions.size], [0, 2])
    assert.deepEqual(setup.events, ['changed'])
  })

  it('is followed', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.tell('web deny')
    assert.equal(await setup.ground(), 'denied: intention')
    await setup.tell('web deny')
    assert.deepEqual(setup.events, ['changed', 'changed'])
  })

  it('that cannot be had denies, with what the agent said', async (t) => {
    const setup = new Setup(t)
    const decision = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_SHAPE')
    await assert.rejects(decision, { code: 'ERR_CONNECT_AGENT_SHAPE' })
    await assert.rejects(setup.decide(), { code: 'ERR_CONNECT_AGENT_SHAPE' })
    assert.deepEqual(setup.events, ['failed'])
  })

  it('is asked for again by who comes a while after a failure', async (t) => {
    const setup = new Setup(t)
    for (let i = 0; i < 8; i += 1) {
      await setup.fail()
      await setup.clock.advance(i < 7 ? 10_000 : 1_000)
    }
    const decision = setup.ground()
    await setup.tell('web allow')
    assert.equal(await decision, 'allowed: intention')
  })
})

describe('Intentions: the default', () => {
  it('is asked for once for each identity, and kept for a minute', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    const both = [setup.ground(), setup.ground()]
    await setup.say(true)
    assert.deepEqual(await Promise.all(both), ['allowed: default', 'allowed: default'])
    await setup.clock.advance(59_999)
    assert.equal(await setup.ground(), 'allowed: default')
    assert.equal(setup.asked, 1)
    void setup.decide(makePeer({ service: 'db' }))
    await setup.say(false)
    assert.equal(setup.asked, 2)
    await setup.clock.advance(1)
    assert.equal(setup.events.at(-1), 'changed', 'who is connected is asked about again')
    assert.equal(await setup.groundAfter(false), 'denied: default')
    assert.equal(setup.asked, 3)
  })

  it('is asked for again when the intentions change', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    assert.equal(await setup.groundAfter(true), 'allowed: default')
    await setup.tell('db allow')
    assert.equal(await setup.groundAfter(false), 'denied: default')
  })

  it('right after a change it may be the agent’s of before: it is asked for once more', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.tell()
    assert.equal(await setup.groundAfter(true), 'allowed: default')
    const told = setup.events.length
    await setup.clock.advance(1_000)
    assert.deepEqual(setup.events.slice(told), ['changed'])
    assert.equal(await setup.groundAfter(false), 'denied: default')
  })

  it('what is still being asked for a second after a change is asked for once more', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.tell()
    const early = setup.ground()
    const told = setup.events.length
    await setup.clock.advance(1_000)
    assert.deepEqual(setup.events.slice(told), ['changed'])
    await setup.say(true)
    assert.equal(await early, 'allowed: default')
    assert.equal(await setup.groundAfter(false), 'denied: default')
  })

  it('said in the second after a change it does not serve when the agent goes away', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.tell()
    assert.equal(await setup.groundAfter(true), 'allowed: default')
    await setup.clock.advance(1_000)
    const late = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_UNREACHABLE', AUTHORIZE)
    await assert.rejects(late, { code: 'ERR_CONNECT_AGENT_UNREACHABLE' })
  })

  it('is asked for again when the agent is back', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    const before = setup.ground()
    await setup.say(true)
    await before
    await setup.fail()
    await setup.clock.advance(1_000)
    await setup.tell()
    assert.equal(await setup.groundAfter(false), 'denied: default')
  })

  it('from a copy of the agent’s that is older than a change it is none', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.clock.advance(5_000)
    await setup.tell()
    const decision = setup.decide()
    await setup.say(true, 1_000)
    await assert.rejects(decision, { code: 'ERR_CONNECT_AGENT_STALE' })
  })

  it('on the agent’s return with nothing new, its old copy serves', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    await setup.fail()
    await setup.clock.advance(1_000)
    await setup.tell()
    assert.equal(await setup.groundAfter(true, 2_000), 'allowed: default')
  })

  it('an answer that comes when the intentions have changed is no answer', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    const decision = setup.ground()
    await settle()
    const early = setup.agent.last(AUTHORIZE)
    await setup.tell('web deny')
    early.answer({ body: { Authorized: true, Reason: 'because' } })
    assert.equal(await decision, 'denied: intention')
  })

  it('serves while the agent is away, and no longer than it may', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    const known = setup.ground()
    await setup.say(true)
    await known
    await setup.clock.advance(69_999)
    const last = setup.ground()
    await setup.fail('ERR_CONNECT_AGENT_FAILED', AUTHORIZE)
    assert.equal(await last, 'allowed: default')
    await setup.clock.advance(1)
    const late = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_FAILED', AUTHORIZE)
    await assert.rejects(late, { code: 'ERR_CONNECT_AGENT_FAILED' })
  })

  it('from a copy of the agent’s that is out of date serves for as long as ours would', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    assert.equal(await setup.groundAfter(true, 10_000), 'allowed: default')
    const late = setup.decide(makePeer({ service: 'db' }))
    await setup.say(true, 11_000)
    await assert.rejects(late, { code: 'ERR_CONNECT_AGENT_STALE' })
  })

  for (const code of ['ERR_CONNECT_AGENT_FORBIDDEN', 'ERR_CONNECT_AGENT_SHAPE'] as const) {
    it(`${code} is an answer: nothing of before serves`, async (t) => {
      const setup = new Setup(t)
      await setup.tell()
      const known = setup.ground()
      await setup.say(true)
      await known
      await setup.clock.advance(60_000)
      const decision = setup.decide()
      await setup.fail(code, AUTHORIZE)
      await assert.rejects(decision, { code })
    })
  }
})

describe('Intentions: without the right to read them', () => {
  it('the agent is asked about each connection, and one warning says what to grant', async (t) => {
    const setup = new Setup(t)
    const warnings: Error[] = []
    setup.intentions.on('failed', (error) => warnings.push(error))
    const first = setup.ground()
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.say(true)
    assert.equal(await first, 'allowed: agent')
    assert.equal(await setup.groundAfter(false), 'denied: agent')
    assert.equal(setup.asked, 2)
    await setup.clock.advance(3_000)
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(warnings.length, 1)
    assert.match(warnings[0]?.message ?? '', /service "api" \{ policy = "write", intentions = "read" \}/)
  })

  it('the copy is not trusted after the second 403 in a row, and is again when it may be read again', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(await setup.ground(), 'allowed: intention')
    await setup.clock.advance(2_000)
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    assert.equal(setup.intentions.size, undefined)
    assert.equal(await setup.groundAfter(false), 'denied: agent')
    await setup.clock.advance(4_000)
    // The same as before, which is no news to a watch.
    await setup.tell('web allow')
    assert.equal(await setup.ground(), 'allowed: intention')
    assert.deepEqual(setup.events, ['changed', 'failed', 'stale', 'fresh', 'failed', 'changed', 'changed'])
  })

  for (const code of ['ERR_CONNECT_AGENT_FORBIDDEN', 'ERR_CONNECT_AGENT_TOKEN_UNKNOWN'] as const) {
    it(`a single ${code}, as of a server that restarts, leaves the copy in use`, async (t) => {
      const setup = new Setup(t)
      await setup.tell('web allow')
      await setup.fail(code)
      assert.equal(await setup.ground(), 'allowed: intention')
      await setup.clock.advance(2_000)
      await setup.tell('web allow')
      await setup.fail(code)
      assert.equal(await setup.ground(), 'allowed: intention')
      assert.equal(setup.asked, 0)
    })
  }

  it('a token that stays unknown is an agent that is away: the copy serves for as long as it may', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    for (let i = 0; i < 20; i += 1) {
      await setup.fail('ERR_CONNECT_AGENT_TOKEN_UNKNOWN')
      await setup.clock.advance(10_000)
    }
    assert.equal(await setup.ground(), 'denied: stale')
  })

  it('what was said while they could be read does not serve', async (t) => {
    const setup = new Setup(t)
    await setup.tell()
    const known = setup.ground()
    await setup.say(true)
    await known
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.clock.advance(2_000)
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    const decision = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_UNREACHABLE', AUTHORIZE)
    await assert.rejects(decision, { code: 'ERR_CONNECT_AGENT_UNREACHABLE' })
  })

  it('an answer from a copy that the agent cannot refresh is none', async (t) => {
    const setup = new Setup(t)
    const first = setup.decide()
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.say(true, 1_000)
    await assert.rejects(first, { code: 'ERR_CONNECT_AGENT_STALE' })
  })

  it('open connections are asked about again each minute', async (t) => {
    const setup = new Setup(t)
    const first = setup.ground()
    await setup.fail('ERR_CONNECT_AGENT_FORBIDDEN')
    await setup.say(true)
    await first
    const told = setup.events.length
    await setup.clock.advance(60_000)
    assert.equal(setup.events.slice(told).filter((event) => event === 'changed').length, 1)
  })
})

describe('Intentions: the agent is away', () => {
  it('the last known serve for exactly so long, and then nobody is let in', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.fail()
    assert.deepEqual(setup.events, ['changed', 'failed', 'stale'])
    await setup.clock.advance(9_999)
    assert.equal(await setup.ground(), 'allowed: intention')
    await setup.clock.advance(1)
    assert.equal(await setup.ground(), 'denied: stale')
    assert.equal(setup.events.at(-1), 'changed')
    assert.match((await setup.decide()).reason, /not be read since 2030-01-01T00:00:00.000Z/)
  })

  it('0 lets nobody in at once', async (t) => {
    const setup = new Setup(t, 0)
    await setup.tell('web allow')
    await setup.fail()
    assert.deepEqual(setup.events, ['changed', 'failed', 'stale', 'changed'])
    assert.equal(await setup.ground(), 'denied: stale')
  })

  it('on its return everything is decided again, also when nothing is new', async (t) => {
    const setup = new Setup(t, 0)
    await setup.tell('web allow')
    await setup.fail()
    await setup.clock.advance(1_000)
    await setup.tell('web allow')
    assert.equal(await setup.ground(), 'allowed: intention')
    assert.deepEqual(setup.events.slice(-2), ['fresh', 'changed'])
    assert.equal(setup.intentions.staleSince, undefined)
  })

  it('one that hangs has been away since it was asked', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    const askedAt = setup.clock.now()
    await setup.clock.advance(6_000)
    await setup.fail('ERR_CONNECT_AGENT_TIMEOUT')
    assert.equal(setup.intentions.staleSince, askedAt)
    await setup.clock.advance(3_999)
    assert.equal(await setup.ground(), 'allowed: intention')
    await setup.clock.advance(1)
    assert.equal(await setup.ground(), 'denied: stale')
  })

  it('a clock that is set back gives no more time', async (t) => {
    const setup = new Setup(t)
    await setup.tell('web allow')
    await setup.fail()
    await setup.clock.advance(10_000)
    setup.clock.set(setup.clock.now() - 3_600_000)
    assert.equal(await setup.ground(), 'denied: stale')
  })
})
