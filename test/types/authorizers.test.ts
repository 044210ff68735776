// Type tests of authorizers. The compiler checks them; nothing runs.
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import {
  type AuthorizeRequest,
  type Authorizer,
  type Peer,
  allOf,
  anyOf,
  authorizeAny,
  authorizeIntentions,
  authorizeOneOf,
  authorizeService,
  service,
} from '../../src/index.js'
import { compiled } from './compiled.js'

describe('types: authorizers', () => {
  it('return a decision, a promise of a decision, or the decision of the intentions', () => {
    compiled((isOnCall: (name: string, signal: AbortSignal) => Promise<boolean>) => [
      service('api', { authorize: () => ({ authorized: true, reason: 'public' }) }),
      service('api', { authorize: ({ intentions }) => intentions() }),
      service('api', {
        authorize: async ({ peer, service: name, signal }) => ({
          authorized: await isOnCall(peer.service, signal),
          reason: `the schedule of ${name}`,
        }),
      }),
    ])
  })

  it('must return a boolean and a reason', () => {
    compiled(() => [
      // @ts-expect-error -- a boolean is not a decision
      service('api', { authorize: () => true }),
      // @ts-expect-error -- the reason is missing
      service('api', { authorize: () => ({ authorized: true }) }),
      // @ts-expect-error -- `authorized` must be a boolean
      service('api', { authorize: () => ({ authorized: 1, reason: 'why' }) }),
      // @ts-expect-error -- undefined is not a decision
      service('api', { authorize: () => undefined }),
      // @ts-expect-error -- `basis` must be a DecisionBasis
      service('api', { authorize: () => ({ authorized: true, reason: 'why', basis: 'mood' }) }),
      // @ts-expect-error -- the argument is an AuthorizeRequest, not a name
      service('api', { authorize: (name: string) => ({ authorized: true, reason: name }) }),
    ])
  })

  it('cannot change the request', () => {
    compiled((request: AuthorizeRequest, other: Peer) => {
      // @ts-expect-error -- read-only
      request.peer = other
      // @ts-expect-error -- read-only
      request.peer.service = 'web'
    })
  })

  it('are created by functions that reject other arguments', () => {
    compiled(() => [
      authorizeService({ service: 'web', namespace: 'n', partition: 'p', datacenter: 'dc2' }),
      authorizeOneOf(['web', { service: 'jobs', datacenter: 'dc2' }]),
      // @ts-expect-error -- the key is `service`
      authorizeService({ name: 'web' }),
      // @ts-expect-error -- expects a list
      authorizeOneOf('web'),
      // @ts-expect-error -- expects one list, not several arguments
      authorizeOneOf('web', 'jobs'),
      // @ts-expect-error -- creates an authorizer, is not an authorizer
      service('api', { authorize: authorizeService }),
    ])
  })

  it('combine with each other and with those of the application', () => {
    compiled((own: readonly Authorizer[]) => [
      anyOf(authorizeIntentions, authorizeService('debugger')),
      allOf(authorizeIntentions, anyOf(authorizeAny, ...own)),
      allOf(authorizeIntentions, async ({ peer, signal }) => {
        expectTypeOf(peer).toEqualTypeOf<Peer>()
        expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
        return Promise.resolve({ authorized: true, reason: 'the schedule' })
      }),
      // @ts-expect-error -- expects arguments, not a list
      allOf([authorizeIntentions, authorizeAny]),
      // @ts-expect-error -- a boolean is not a decision
      allOf(authorizeIntentions, () => true),
    ])
  })
})
