import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import {
  type AuthorizeRequest,
  type Authorizer,
  type IntentionDecision,
  type Outcome,
  runAuthorizer,
} from '../../src/authorize/authorizer.js'
import { allOf, anyOf, authorizeAny, authorizeIntentions } from '../../src/authorize/authorizers.js'
import { DenyingPolicy } from '../../src/authorize/requests/request-policy.js'
import { makePeer } from '../fixtures/peers.js'

const bounds = { timeoutMs: 1000 }
const request = { peer: makePeer(), service: 'db' }
const allowed = { authorized: true, reason: 'an intention', basis: 'intention' } as const
const intentions = (): IntentionDecision => ({ decision: allowed })
const decideBy = (authorizer: () => unknown): Promise<Outcome> =>
  runAuthorizer(authorizer as Authorizer, request, intentions, bounds)

describe('runAuthorizer', () => {
  it('returns the decision of the authorizer, synchronous or asynchronous', async () => {
    for (const authorized of [true, false]) {
      const decision = { authorized, reason: 'a reason' }
      const outcome = { ...decision, basis: 'authorizer', requests: undefined }
      assert.deepEqual(await decideBy(() => decision), outcome)
      assert.deepEqual(await decideBy(() => Promise.resolve(decision)), outcome)
    }
  })

  it('passes the peer, the service, the signal, and the intentions to the authorizer', async () => {
    const requests: AuthorizeRequest[] = []
    const authorizer: Authorizer = (received) => {
      requests.push(received)
      return received.intentions()
    }
    const outcome = { ...allowed, requests: undefined }
    assert.deepEqual(await runAuthorizer(authorizer, request, intentions, bounds), outcome)
    const [{ signal, intentions: _, ...passed } = assert.fail('no request')] = requests
    assert.deepEqual(passed, request)
    assert.ok(signal instanceof AbortSignal)
  })

  it('keeps the permissions of intentions, whatever the authorizer makes of the decision', async () => {
    const requests = new DenyingPolicy({ authorized: false, reason: 'test', basis: 'permissions' })
    const asked = (): IntentionDecision => ({ decision: allowed, requests })
    const authorizers: Record<string, Authorizer> = {
      'passes it on': ({ intentions: ask }) => ask(),
      'copies it': async ({ intentions: ask }) => ({ ...(await ask()) }),
      'makes its own': async ({ intentions: ask }) => ({
        authorized: (await ask()).authorized,
        reason: 'own',
      }),
      'allows in any case': async ({ intentions: ask }) => {
        await ask()
        return { authorized: true, reason: 'any' }
      },
      'combines all': allOf(authorizeIntentions, authorizeAny),
      'combines any': anyOf(authorizeIntentions, authorizeAny),
    }
    for (const [name, authorizer] of Object.entries(authorizers))
      assert.equal((await runAuthorizer(authorizer, request, asked, bounds)).requests, requests, name)
    const without = await runAuthorizer(authorizeAny, request, asked, bounds)
    assert.deepEqual([without.authorized, without.requests], [true, undefined])
  })

  it('replaces an unknown basis by `authorizer`', async () => {
    for (const basis of ['whatever', 5, {}, 'constructor']) {
      const outcome = await decideBy(() => ({ authorized: true, reason: 'x', basis }))
      assert.equal(outcome.basis, 'authorizer')
    }
  })

  const invalidDecisions: unknown[] = [
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
  for (const answer of invalidDecisions) {
    it(`denies on ${inspect(answer)}`, async () => {
      const { cause, ...outcome } = await decideBy(() => answer)
      const reason = 'authorizer failed: expected { authorized, reason } from the authorizer'
      assert.deepEqual(outcome, { authorized: false, basis: 'failed', reason, requests: undefined })
      assert.ok(cause instanceof Error)
    })
  }

  const cause = new Error('agent unreachable')
  const thrown: unknown[] = [
    cause,
    'a string',
    undefined,
    null,
    { authorized: true, reason: 'x' },
    Object.create(null),
  ]
  for (const value of thrown) {
    it(`denies when the authorizer throws ${inspect(value)}`, async () => {
      const fail = (): never => {
        throw value
      }
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- users may reject with any value
      for (const authorizer of [fail, () => Promise.reject(value)]) {
        const outcome = await decideBy(authorizer)
        assert.equal(outcome.authorized, false)
        assert.match(outcome.reason, /^authorizer failed/)
        assert.ok(outcome.cause instanceof Error)
        assert.equal(value instanceof Error ? outcome.cause : outcome.cause.cause, value)
      }
    })
  }

  it('denies on a decision with a getter that throws', async () => {
    const hostile = {
      get authorized(): boolean {
        throw cause
      },
      reason: 'x',
    }
    assert.equal((await decideBy(() => hostile)).authorized, false)
  })
})
