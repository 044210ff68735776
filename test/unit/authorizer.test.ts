import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import { type Authorizer, type Outcome, runAuthorizer } from '../../src/authorize/authorizer.js'
import type { Peer } from '../../src/identity/peer.js'

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
const intentions = () => ({ authorized: true, reason: 'an intention', basis: 'intention' }) as const
const decideBy = (authorizer: () => unknown): Promise<Outcome> =>
  runAuthorizer(authorizer as Authorizer, request, intentions, bounds)

describe('runAuthorizer', () => {
  it('a decision is taken as it is, at once or later', async () => {
    for (const authorized of [true, false]) {
      const decision = { authorized, reason: 'because' }
      const outcome = { ...decision, basis: 'authorizer' }
      assert.deepEqual(await decideBy(() => decision), outcome)
      assert.deepEqual(await decideBy(() => Promise.resolve(decision)), outcome)
    }
  })

  it('the authorizer gets the peer, the service and the signal', async () => {
    let given: unknown
    const outcome = await runAuthorizer(
      (asked) => {
        given = asked
        return asked.intentions()
      },
      request,
      intentions,
      bounds,
    )
    const { signal, intentions: asking, ...asked } = given as { signal: unknown; intentions: unknown }
    assert.deepEqual(asked, request)
    assert.ok(signal instanceof AbortSignal)
    assert.equal(typeof asking, 'function')
    assert.deepEqual(outcome, intentions())
  })

  it('a ground that is none of ours is the authorizer’s', async () => {
    for (const basis of ['whatever', 5, {}, 'constructor']) {
      const outcome = await decideBy(() => ({ authorized: true, reason: 'x', basis }))
      assert.equal(outcome.basis, 'authorizer')
    }
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
      const { cause, ...outcome } = await decideBy(() => answer)
      const reason = 'authorizer failed: expected { authorized, reason } from the authorizer'
      assert.deepEqual(outcome, { authorized: false, basis: 'failed', reason })
      assert.ok(cause instanceof Error)
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
        assert.match(reason, /^authorizer failed/)
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
