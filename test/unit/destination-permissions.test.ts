import assert from 'node:assert/strict'
import { type TestContext, describe, it } from 'node:test'
import { DEFAULT_NORMALIZATION } from '../../src/agent/endpoints/mesh-entry.js'
import type { IntentionDecision } from '../../src/authorize/authorizer.js'
import { DestinationIntentions } from '../../src/authorize/destination-intentions.js'
import { agentError } from '../fixtures/errors.js'
import { FakeAgent } from '../fixtures/fake-agent.js'
import { FakeClock, settle } from '../fixtures/fake-clock.js'
import { makePeer } from '../fixtures/peers.js'

const MATCH = '/v1/connect/intentions/match'
const AUTHORIZE = '/v1/agent/connect/authorize'
const CHAIN = '/v1/discovery-chain/api'
const MESH = '/v1/config/mesh'
const SELF = '/v1/agent/self'
const web = makePeer()
const signal = new AbortController().signal

const READ_ONLY = {
  SourceName: 'web',
  DestinationName: 'api',
  Permissions: [{ Action: 'allow', HTTP: { PathPrefix: '/', Methods: ['GET'] } }],
}
const ANY = { SourceName: '*', DestinationName: 'api', Action: 'allow' }

class Setup {
  readonly agent = new FakeAgent({}, { hasChains: true })
  readonly intentions: DestinationIntentions
  readonly changes: string[] = []
  readonly warnings: string[] = []
  #index = 0

  constructor(t: TestContext) {
    const time = { clock: new FakeClock(), random: () => 0.5 }
    this.intentions = new DestinationIntentions({
      agent: this.agent,
      service: 'api',
      staleMs: 10_000,
      ...time,
    })
    this.intentions.on('changed', () => this.changes.push('changed'))
    this.intentions.on('failed', ({ message }) => this.warnings.push(message))
    t.after(() => {
      this.intentions.close()
    })
  }

  async answer(path: string, body: unknown): Promise<void> {
    await settle()
    this.agent.last(path).answer({ body, index: (this.#index += 1) })
    await settle()
  }

  async protocol(Protocol: string): Promise<void> {
    await this.answer(CHAIN, { Chain: { Protocol } })
  }

  decide(decidesRequests = true): Promise<IntentionDecision> {
    return Promise.resolve(this.intentions.decide(web, { signal, decidesRequests }))
  }

  /** A decision about the intentions, whose agent answers everything. */
  async decideWith(intentions: readonly object[], protocol = 'http'): Promise<IntentionDecision> {
    const decision = this.decide()
    await this.answer(MATCH, { api: intentions })
    await this.protocol(protocol)
    await this.answer(MESH, [])
    if (this.agent.count(AUTHORIZE) > 0) await this.answer(AUTHORIZE, { Authorized: true, Reason: 'default' })
    if (this.agent.count(SELF) > 0) await this.answer(SELF, { DebugConfig: { ACLsEnabled: true } })
    return decision
  }
}

function isAllowed({ requests }: IntentionDecision, method: string): boolean | undefined {
  return requests?.decide({ method, path: '/', lines: () => [] }).authorized
}

describe('DestinationIntentions with permissions', () => {
  it('denies connections that carry no requests, and asks the agent nothing', async (t) => {
    const setup = new Setup(t)
    const deciding = setup.decide(false)
    await setup.answer(MATCH, { api: [READ_ONLY] })
    const { decision, requests } = await deciding
    assert.equal(decision.authorized, false)
    assert.match(decision.reason, /has permissions, which decide HTTP requests and no connections$/)
    assert.equal(requests, undefined)
    assert.equal(setup.agent.count(CHAIN), 0)
  })

  it('admits a connection whose requests it decides', async (t) => {
    const found = await new Setup(t).decideWith([READ_ONLY])
    assert.deepEqual([found.decision.authorized, found.decision.basis], [true, 'permissions'])
    assert.deepEqual(found.requests?.normalization, DEFAULT_NORMALIZATION)
    assert.equal(isAllowed(found, 'GET'), true)
  })

  it('asks the agent what applies to a source that no intention matches', async (t) => {
    const setup = new Setup(t)
    const found = await setup.decideWith([READ_ONLY])
    const { body } = setup.agent.last(AUTHORIZE).request as { body?: { ClientCertURI?: string } }
    assert.match(body?.ClientCertURI ?? '', /^spiffe:.*\/svc\/consul-connect-default-policy$/)
    assert.equal(isAllowed(found, 'POST'), true)
  })

  it('reads the default policy from the settings of the agent where an intention matches every source', async (t) => {
    const setup = new Setup(t)
    const found = await setup.decideWith([READ_ONLY, ANY])
    assert.equal(setup.agent.count(AUTHORIZE), 0)
    assert.equal(isAllowed(found, 'POST'), false)
  })

  it('takes the default policy for deny if the token may not read the settings', async (t) => {
    const setup = new Setup(t)
    const deciding = setup.decide()
    await setup.answer(MATCH, { api: [READ_ONLY, ANY] })
    await setup.protocol('http')
    await setup.answer(MESH, [])
    setup.agent.last(SELF).fail(agentError('ERR_CONNECT_AGENT_FORBIDDEN'))
    assert.equal(isAllowed(await deciding, 'POST'), false)
  })

  for (const protocol of ['tcp', '', 'HTTP3']) {
    it(`denies connections to a service of the protocol ${JSON.stringify(protocol)}`, async (t) => {
      const { decision, requests } = await new Setup(t).decideWith([READ_ONLY], protocol)
      assert.deepEqual([decision.authorized, decision.basis, requests], [false, 'permissions', undefined])
      assert.match(decision.reason, /but the protocol of api is (tcp|http3)$/)
    })
  }

  it('follows the protocol of the service', async (t) => {
    const setup = new Setup(t)
    await setup.decideWith([READ_ONLY])
    setup.changes.length = 0
    await setup.protocol('tcp')
    assert.deepEqual(setup.changes, ['changed'])
    assert.equal((await setup.decide()).decision.authorized, false)
    await setup.protocol('grpc')
    assert.equal((await setup.decide()).decision.authorized, true)
  })

  it('follows the mesh entry', async (t) => {
    const setup = new Setup(t)
    await setup.decideWith([READ_ONLY])
    setup.changes.length = 0
    const HTTP = { Incoming: { RequestNormalization: { MergeSlashes: true } } }
    await setup.answer(MESH, [{ Name: 'mesh', HTTP }])
    assert.deepEqual(setup.changes, ['changed'])
    assert.equal((await setup.decide()).requests?.normalization.mergeSlashes, true)
  })

  it('normalizes by default where the agent knows no mesh entry', async (t) => {
    const setup = new Setup(t)
    const deciding = setup.decide()
    await setup.answer(MATCH, { api: [READ_ONLY] })
    await setup.protocol('http')
    setup.agent.last(MESH).fail(agentError('ERR_CONNECT_AGENT_REFUSED'))
    await settle()
    await setup.answer(AUTHORIZE, { Authorized: false, Reason: 'default' })
    assert.deepEqual((await deciding).requests?.normalization, DEFAULT_NORMALIZATION)
  })

  it('decides nothing if the agent refuses the protocol', async (t) => {
    const setup = new Setup(t)
    const deciding = setup.decide()
    await setup.answer(MATCH, { api: [READ_ONLY] })
    setup.agent.last(CHAIN).fail(agentError('ERR_CONNECT_AGENT_FORBIDDEN'))
    await assert.rejects(deciding, { code: 'ERR_CONNECT_AGENT_FORBIDDEN' })
  })

  it('warns once of what it does not understand, and again after a change', async (t) => {
    const setup = new Setup(t)
    const strange = (field: string): object => ({
      ...READ_ONLY,
      Permissions: [{ Action: 'allow', HTTP: { PathPrefix: '/' }, [field]: 1 }],
    })
    await setup.decideWith([strange('A'), { ...ANY, JWT: { Providers: ['x'] } }])
    const permission =
      /^api: a permission of intention default\/web => default\/api: unknown field .*\.A; what it would allow is denied$/
    assert.equal(setup.warnings.length, 2)
    assert.match(
      setup.warnings[0] ?? '',
      /^api: intention default\/\* => default\/api has a requirement of JSON Web Tokens/,
    )
    assert.match(setup.warnings[1] ?? '', permission)
    await setup.answer(MATCH, {
      api: [strange('A'), { ...ANY, Description: 'x', JWT: { Providers: ['x'] } }],
    })
    assert.equal(setup.warnings.length, 2)
    await setup.answer(MATCH, { api: [strange('B')] })
    assert.equal(setup.warnings.length, 3)
    assert.match(setup.warnings[2] ?? '', /unknown field .*\.B;/)
  })
})
