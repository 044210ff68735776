// Types of authorizers and of how they combine; the compiler is who checks them.
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import {
  type AllowedService,
  type AuthorizeRequest,
  type Authorizer,
  type Decision,
  type DecisionBasis,
  type Peer,
  allOf,
  anyOf,
  authorizeAny,
  authorizeIntentions,
  authorizeOneOf,
  authorizeService,
  authorizeTrustDomain,
  service,
} from '../../src/index.js'
import { compiled } from './compiled.js'

describe('an authorizer', () => {
  it('is asked of a verified peer, and decides at once or later', () => {
    expectTypeOf<Authorizer>().toEqualTypeOf<(request: AuthorizeRequest) => Decision | Promise<Decision>>()
    expectTypeOf<AuthorizeRequest>().toEqualTypeOf<{
      readonly peer: Peer
      readonly service: string
      readonly signal: AbortSignal
      readonly intentions: () => Decision | Promise<Decision>
    }>()
    compiled((isOnCall: (name: string, signal: AbortSignal) => Promise<boolean>) => [
      service('api', { authorize: () => ({ authorized: true, reason: 'open house' }) }),
      service('api', { authorize: ({ intentions }) => intentions() }),
      service('api', {
        authorize: async ({ peer, service: name, signal }) => ({
          authorized: await isOnCall(peer.service, signal),
          reason: `the roster of ${name} says so`,
        }),
      }),
    ])
  })

  it('gives a reason with every decision', () => {
    compiled(() => [
      // @ts-expect-error -- a yes alone is no decision
      service('api', { authorize: () => true }),
      // @ts-expect-error -- nor is one without a reason
      service('api', { authorize: () => ({ authorized: true }) }),
      // @ts-expect-error -- only true and false
      service('api', { authorize: () => ({ authorized: 1, reason: 'why' }) }),
      // @ts-expect-error -- nobody has decided
      service('api', { authorize: () => undefined }),
      // @ts-expect-error -- grounds are counted, and are these few
      service('api', { authorize: () => ({ authorized: true, reason: 'why', basis: 'mood' }) }),
      // @ts-expect-error -- it is asked about a peer, not a name
      service('api', { authorize: (name: string) => ({ authorized: true, reason: name }) }),
    ])
  })

  it('decides on one of these grounds', () => {
    expectTypeOf<DecisionBasis>().toEqualTypeOf<
      | 'intention'
      | 'permissions'
      | 'default'
      | 'agent'
      | 'stale'
      | 'authorizer'
      | 'late'
      | 'failed'
      | 'expired'
      | 'roots'
    >()
    expectTypeOf<Decision>().toEqualTypeOf<{
      readonly authorized: boolean
      readonly reason: string
      readonly basis?: DecisionBasis
    }>()
  })

  it('cannot change who asks', () => {
    compiled((request: AuthorizeRequest, other: Peer) => {
      // @ts-expect-error -- read-only
      request.peer = other
      // @ts-expect-error -- read-only
      request.peer.service = 'web'
    })
  })
})

describe('the authorizers that there are', () => {
  it('are authorizers, or make one', () => {
    expectTypeOf(authorizeIntentions).toEqualTypeOf<Authorizer>()
    expectTypeOf(authorizeAny).toEqualTypeOf<Authorizer>()
    expectTypeOf(authorizeService).toEqualTypeOf<(allowed: string | AllowedService) => Authorizer>()
    expectTypeOf(authorizeOneOf).toEqualTypeOf<
      (allowed: readonly (string | AllowedService)[]) => Authorizer
    >()
    expectTypeOf(authorizeTrustDomain).toEqualTypeOf<(trustDomain: string) => Authorizer>()
    compiled(() => [
      authorizeService({ service: 'web', namespace: 'n', partition: 'p', datacenter: 'dc2' }),
      authorizeOneOf(['web', { service: 'jobs', datacenter: 'dc2' }]),
      // @ts-expect-error -- a service has a name
      authorizeService(),
      // @ts-expect-error -- which is called service
      authorizeService({ name: 'web' }),
      // @ts-expect-error -- a text is no list
      authorizeOneOf('web'),
      // @ts-expect-error -- one list, and not several arguments
      authorizeOneOf('web', 'jobs'),
      // @ts-expect-error -- a trust domain is a text
      authorizeTrustDomain({ trustDomain: 'x.consul' }),
      // @ts-expect-error -- it makes an authorizer, and is none
      service('api', { authorize: authorizeService }),
    ])
  })

  it('combine, with those of the application too', () => {
    expectTypeOf(allOf).toEqualTypeOf<(...authorizers: readonly Authorizer[]) => Authorizer>()
    expectTypeOf(anyOf).toEqualTypeOf<(...authorizers: readonly Authorizer[]) => Authorizer>()
    compiled((own: readonly Authorizer[]) => [
      anyOf(authorizeIntentions, authorizeService('debugger')),
      allOf(authorizeIntentions, anyOf(authorizeAny, ...own)),
      allOf(authorizeIntentions, async ({ peer, signal }) => {
        expectTypeOf(peer).toEqualTypeOf<Peer>()
        expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
        return Promise.resolve({ authorized: true, reason: 'the roster says so' })
      }),
      // @ts-expect-error -- each is an argument of its own
      allOf([authorizeIntentions, authorizeAny]),
      // @ts-expect-error -- a name is no authorizer
      anyOf(authorizeIntentions, 'debugger'),
      // @ts-expect-error -- a yes alone is no decision
      allOf(authorizeIntentions, () => true),
    ])
  })
})
