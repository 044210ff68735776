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
const passes = async (authorizer: Authorizer, who: Partial<Peer> = {}): Promise<boolean> =>
  (await authorizer({ ...request, peer: { ...peer, ...who } })).authorized

const yes: Authorizer = () => ({ authorized: true, reason: 'yes' })
const no: Authorizer = () => ({ authorized: false, reason: 'no' })
const boom: Authorizer = () => {
  throw new Error('boom')
}
const nonsense = (() => 'yes') as unknown as Authorizer
const unasked: Authorizer = () => assert.fail('asked')

describe('authorizers', () => {
  it('the intentions’ answer is passed on', async () => {
    assert.deepEqual(await authorizeIntentions(request), request.intentions())
  })

  it('anybody', async () => {
    assert.equal(await passes(authorizeAny), true)
  })

  it('one service, in the default namespace and partition, of any datacenter', async () => {
    const only = authorizeService('web')
    assert.equal(await passes(only), true)
    assert.equal(await passes(only, { datacenter: 'dc2' }), true)
    for (const who of [{ service: 'Web' }, { service: 'db' }, { namespace: 'x' }, { partition: 'x' }])
      assert.equal(await passes(only, who), false, inspect(who))
  })

  it('one service of a place', async () => {
    const there = { namespace: 'n', partition: 'p', datacenter: 'd' }
    const only = authorizeService({ service: 'web', ...there })
    assert.equal(await passes(only, there), true)
    for (const key of Object.keys(there))
      assert.equal(await passes(only, { ...there, [key]: 'default' }), false, key)
  })

  it('several services', async () => {
    const some = authorizeOneOf(['db', { service: 'web' }])
    assert.equal(await passes(some), true)
    assert.equal(await passes(some, { service: 'db' }), true)
    assert.equal(await passes(some, { service: 'x' }), false)
    assert.match(
      (await some({ ...request, peer: { ...peer, service: 'x' } })).reason,
      /only db, web may connect/,
    )
  })

  it('a trust domain', async () => {
    assert.equal(await passes(authorizeTrustDomain('a.consul')), true)
    assert.equal(await passes(authorizeTrustDomain('b.consul')), false)
  })

  it('refuse what names nobody', () => {
    const wrong: readonly (readonly [string, () => unknown])[] = [
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
      ['authorizers[1]', () => allOf(yes, {} as never)],
      ['authorizers[0]', () => anyOf(true as never)],
    ]
    for (const [option, make] of wrong) {
      assert.throws(make, (error) => {
        assert.ok(error instanceof OptionError)
        assert.ok(error.option.endsWith(option), `${error.option} and not ${option}`)
        return true
      })
    }
  })
})

describe('allOf', () => {
  it('is passed by whoever passes each, and says all reasons', async () => {
    assert.deepEqual(await allOf(yes, authorizeAny)(request), {
      authorized: true,
      reason: 'yes; all services of the mesh are authorized',
    })
  })

  it('stops at the first that denies, and gives its answer', async () => {
    assert.deepEqual(await allOf(yes, authorizeIntentions, unasked)(request), request.intentions())
  })

  for (const [what, authorizer] of [
    ['throws', boom],
    ['answers nonsense', nonsense],
  ] as const) {
    it(`fails with one that ${what}`, async () => {
      await assert.rejects(async () => allOf(yes, authorizer, unasked)(request))
    })
  }
})

describe('anyOf', () => {
  it('is passed by whoever passes one, with its answer', async () => {
    assert.deepEqual(await anyOf(no, yes, unasked)(request), { authorized: true, reason: 'yes' })
  })

  it('says all reasons of a denial', async () => {
    const { authorized, reason } = await anyOf(no, authorizeIntentions)(request)
    assert.deepEqual([authorized, reason], [false, 'no; an intention'])
  })

  it('one that fails allows nobody, and the others are asked', async () => {
    assert.equal(await passes(anyOf(boom, nonsense, yes)), true)
    const { authorized, reason } = await anyOf(boom, nonsense)(request)
    assert.equal(authorized, false)
    assert.match(reason, /boom; .*expected { authorized, reason }/)
  })
})
