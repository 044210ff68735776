import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import type { Authorizer, AuthorizeRequest } from '../../src/authorize/authorizer.js'
import {
  allOf,
  anyOf,
  authorizeAny,
  authorizeIntentions,
  authorizeOneOf,
  authorizeService,
  authorizeTrustDomain,
} from '../../src/authorize/authorizers.js'
import { OptionError } from '../../src/base/errors.js'
import type { Peer } from '../../src/identity/peer.js'
import { makePeer } from '../fixtures/peers.js'

const peer = makePeer()
const request: AuthorizeRequest = {
  peer,
  service: 'api',
  signal: new AbortController().signal,
  intentions: () => ({ authorized: false, reason: 'an intention', basis: 'intention' }),
}
const authorizes = async (authorizer: Authorizer, changes: Partial<Peer> = {}): Promise<boolean> =>
  (await authorizer({ ...request, peer: { ...peer, ...changes } })).authorized

const allow: Authorizer = () => ({ authorized: true, reason: 'allow' })
const deny: Authorizer = () => ({ authorized: false, reason: 'deny' })
const throwing: Authorizer = () => {
  throw new Error('boom')
}
const malformed = (() => 'allow') as unknown as Authorizer
const unused: Authorizer = () => assert.fail('the authorizer was called')

describe('authorizers', () => {
  it('authorizeIntentions returns the decision of the intentions', async () => {
    assert.deepEqual(await authorizeIntentions(request), request.intentions())
  })

  it('authorizeAny allows every peer', async () => {
    assert.equal(await authorizes(authorizeAny), true)
  })

  it('authorizeService allows a service of the default namespace and partition, in any datacenter', async () => {
    const authorizer = authorizeService('web')
    assert.equal(await authorizes(authorizer), true)
    assert.equal(await authorizes(authorizer, { datacenter: 'dc2' }), true)
    for (const changes of [{ service: 'Web' }, { service: 'db' }, { namespace: 'x' }, { partition: 'x' }])
      assert.equal(await authorizes(authorizer, changes), false, inspect(changes))
  })

  it('authorizeService compares namespace, partition, and datacenter if they are set', async () => {
    const scope = { namespace: 'n', partition: 'p', datacenter: 'd' }
    const authorizer = authorizeService({ service: 'web', ...scope })
    assert.equal(await authorizes(authorizer, scope), true)
    for (const key of Object.keys(scope))
      assert.equal(await authorizes(authorizer, { ...scope, [key]: 'default' }), false, key)
  })

  it('authorizeOneOf allows the listed services, and lists them in a denial', async () => {
    const authorizer = authorizeOneOf(['db', { service: 'web' }])
    assert.equal(await authorizes(authorizer), true)
    assert.equal(await authorizes(authorizer, { service: 'db' }), true)
    assert.equal(await authorizes(authorizer, { service: 'x' }), false)
    assert.match(
      (await authorizer({ ...request, peer: { ...peer, service: 'x' } })).reason,
      /only db, web may connect/,
    )
  })

  it('authorizeTrustDomain allows one trust domain', async () => {
    assert.equal(await authorizes(authorizeTrustDomain('a.consul')), true)
    assert.equal(await authorizes(authorizeTrustDomain('b.consul')), false)
  })

  it('refuse invalid arguments', () => {
    const invalid: readonly (readonly [string, () => unknown])[] = [
      ['allowed[0].service', () => authorizeService('')],
      ['allowed[0].service', () => authorizeService({} as never)],
      ['allowed[0].servcie', () => authorizeService({ service: 'a', servcie: 'b' } as never)],
      ['allowed[0].namespace', () => authorizeService({ service: 'a', namespace: '' })],
      ['allowed[0]', () => authorizeService(5 as never)],
      ['allowed', () => authorizeOneOf([])],
      ['allowed', () => authorizeOneOf('web' as never)],
      ['trustDomain', () => authorizeTrustDomain('')],
      ['trustDomain', () => authorizeTrustDomain('A.consul')],
      ['trustDomain', () => authorizeTrustDomain(undefined as never)],
      ['authorizers', () => allOf()],
      ['authorizers', () => anyOf()],
      ['authorizers[1]', () => allOf(allow, {} as never)],
      ['authorizers[0]', () => anyOf(true as never)],
    ]
    for (const [option, make] of invalid) {
      assert.throws(make, (error) => {
        assert.ok(error instanceof OptionError)
        assert.ok(error.option.endsWith(option), `${error.option}, expected ${option}`)
        return true
      })
    }
  })
})

describe('allOf', () => {
  it('allows if every authorizer allows, with all reasons', async () => {
    assert.deepEqual(await allOf(allow, authorizeAny)(request), {
      authorized: true,
      reason: 'allow; all services of the mesh are authorized',
    })
  })

  it('stops at the first denial and returns it', async () => {
    assert.deepEqual(await allOf(allow, authorizeIntentions, unused)(request), request.intentions())
  })

  for (const [problem, authorizer] of [
    ['throws', throwing],
    ['returns a malformed decision', malformed],
  ] as const) {
    it(`fails if an authorizer ${problem}`, async () => {
      await assert.rejects(async () => allOf(allow, authorizer, unused)(request))
    })
  }
})

describe('anyOf', () => {
  it('returns the first decision that allows', async () => {
    assert.deepEqual(await anyOf(deny, allow, unused)(request), { authorized: true, reason: 'allow' })
  })

  it('denies with all reasons if no authorizer allows', async () => {
    const { authorized, reason } = await anyOf(deny, authorizeIntentions)(request)
    assert.deepEqual([authorized, reason], [false, 'deny; an intention'])
  })

  it('treats a failing authorizer as a denial, and continues', async () => {
    assert.equal(await authorizes(anyOf(throwing, malformed, allow)), true)
    const { authorized, reason } = await anyOf(throwing, malformed)(request)
    assert.equal(authorized, false)
    assert.match(reason, /boom; .*expected { authorized, reason }/)
  })
})
