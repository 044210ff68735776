import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { type Authorizer, authorizeByAgent, decide } from '../../src/authorize/authorizer.js'
import { AgentError } from '../../src/errors.js'
import type { Peer } from '../../src/identity/peer.js'
import { FakeAgent } from '../fixtures/fake-agent.js'

const bounds = { timeoutMs: 1000 }
const peer: Peer = {
  spiffeId: 'spiffe://a.consul/ns/default/dc/dc1/svc/web',
  trustDomain: 'a.consul',
  partition: 'default',
  namespace: 'default',
  datacenter: 'dc1',
  service: 'web',
  serialNumber: '0a:0b',
  fingerprint256: 'AA',
  notAfter: new Date(0),
}
const request = { peer, service: 'db' }
const decideBy = (authorizer: () => unknown) => decide(authorizer as Authorizer, request, bounds)

describe('decide', () => {
  it('a decision is taken as it is, at once or later', async () => {
    for (const authorized of [true, false]) {
      const decision = { authorized, reason: 'because' }
      assert.deepEqual(await decideBy(() => decision), decision)
      assert.deepEqual(await decideBy(() => Promise.resolve(decision)), decision)
    }
  })

  it('the authorizer gets the peer, the service and the signal', async () => {
    let given: unknown
    await decide(
      (asked) => {
        given = asked
        return { authorized: true, reason: '' }
      },
      request,
      bounds,
    )
    const { signal, ...asked } = given as { signal: unknown }
    assert.deepEqual(asked, request)
    assert.ok(signal instanceof AbortSignal)
  })

  const noDecisions: unknown[] = [
    undefined,
    null,
    true,
    1,
    'allow',
    {},
    [],
    { authorized: true },
    { reason: 'x' },
    { authorized: 1, reason: 'x' },
    { authorized: 'true', reason: 'x' },
    { authorized: true, reason: 5 },
    { allowed: true, reason: 'x' },
    () => ({ authorized: true, reason: 'x' }),
  ]
  for (const answer of noDecisions) {
    it(`denies on ${inspect(answer)}`, async () => {
      assert.deepEqual(await decideBy(() => answer), {
        authorized: false,
        reason: 'the authorizer gave no decision of the form { authorized, reason }',
      })
    })
  }

  const cause = new Error('the agent is away')
  const thrown: unknown[] = [
    cause,
    'a string',
    undefined,
    null,
    { authorized: true, reason: 'x' },
    Object.create(null),
  ]
  for (const what of thrown) {
    it(`denies on a throw of ${inspect(what)}`, async () => {
      const fail = (): never => {
        throw what
      }
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- whatever it is
      for (const authorizer of [fail, () => Promise.reject(what)]) {
        const { authorized, reason, cause: given } = await decideBy(authorizer)
        assert.equal(authorized, false)
        assert.match(reason, /^no decision could be made/)
        assert.ok(given instanceof Error)
        assert.equal(what instanceof Error ? given : given.cause, what)
      }
    })
  }

  it('denies on an answer that throws when it is read', async () => {
    const hostile = {
      get authorized(): boolean {
        throw cause
      },
      reason: 'x',
    }
    assert.equal((await decideBy(() => hostile)).authorized, false)
  })
})

describe('authorizeByAgent', () => {
  it('asks for the target, the identity as the certificate has it, and its serial', async () => {
    const agent = new FakeAgent()
    const decision = decide(authorizeByAgent(agent), request, bounds)
    const [{ request: asked, answer }] = agent.requests as [(typeof agent.requests)[0]]
    const { signal, ...rest } = asked
    assert.ok(signal instanceof AbortSignal)
    assert.deepEqual(rest, {
      method: 'POST',
      path: '/v1/agent/connect/authorize',
      body: { Target: 'db', ClientCertURI: peer.spiffeId, ClientCertSerial: '0a:0b' },
    })
    answer({ body: { Authorized: true, Reason: 'x' } })
    assert.deepEqual(await decision, { authorized: true, reason: 'x' })
  })

  it('whatever goes wrong with the agent is a denial', async () => {
    for (const code of [
      'ERR_CONNECT_AGENT_FORBIDDEN',
      'ERR_CONNECT_AGENT_TIMEOUT',
      'ERR_CONNECT_AGENT_SHAPE',
    ] as const) {
      const agent = new FakeAgent()
      const decision = decide(authorizeByAgent(agent), request, bounds)
      const failure = new AgentError(code, code, { address: 'a', request: 'r' })
      agent.requests[0]!.fail(failure)
      assert.deepEqual(await decision, {
        authorized: false,
        reason: `no decision could be made: ${code}`,
        cause: failure,
      })
    }
  })
})
