// Type tests of upstreams and resolvers. The compiler checks them; nothing runs.
import { describe, it } from 'node:test'
import { expectTypeOf } from 'expect-type'
import type {
  AddressUpstream,
  Endpoint,
  ResolveRequest,
  Resolver,
  Service,
  ServiceUpstream,
  Upstream,
} from '../../src/index.js'
import { compiled } from './compiled.js'

/** Accepts what `dial()` accepts. */
function upstream(value: Upstream): Upstream {
  return value
}

describe('types: upstreams', () => {
  it('are names, services, prepared queries, DNS names, or addresses', () => {
    upstream('api')
    upstream({ service: 'api' })
    upstream({ service: 'api', datacenter: 'dc2', namespace: 'n', partition: 'p' })
    upstream({ service: 'api', tags: ['blue'], near: '_agent', filter: 'true', onlyPassing: false })
    upstream({ query: 'nearest-api' })
    upstream({ query: 'nearest-api', near: '_agent', datacenter: 'dc2' })
    upstream({ dns: 'api.connect.consul', service: 'api' })
    upstream({ address: '10.0.0.7:8181', service: 'api' })
    upstream({ address: ['10.0.0.7:8181', '[::1]:8181'], service: 'api', datacenter: 'dc2' })
  })

  it('may be read-only and have undefined options', () => {
    const tags = ['blue'] as const
    upstream({ service: 'api', datacenter: undefined, tags, near: undefined, onlyPassing: undefined })
    expectTypeOf<{ readonly service: 'api'; readonly tags: readonly ['blue'] }>().toExtend<Upstream>()
  })

  it('are the same type for every method', () => {
    expectTypeOf<Service['dial']>().parameter(0).toEqualTypeOf<Upstream>()
    expectTypeOf<Service['resolve']>().parameter(0).toEqualTypeOf<Upstream>()
    expectTypeOf<Service['forward']>().parameter(0).toEqualTypeOf<Upstream>()
    expectTypeOf<Service['stream']>().parameter(0).toEqualTypeOf<Upstream>()
  })

  it('do not compile without a service, or with values of other types', () => {
    compiled(() => {
      // @ts-expect-error -- an address needs the expected service
      upstream({ address: '10.0.0.7:8181' })
      // @ts-expect-error -- a DNS name needs the expected service
      upstream({ dns: 'api.connect.consul' })
      // @ts-expect-error -- the service is missing
      upstream({})
      // @ts-expect-error -- the service is missing
      upstream({ datacenter: 'dc2' })
      // @ts-expect-error -- unknown key
      upstream({ service: 'api', tag: 'blue' })
      // @ts-expect-error -- a port is part of an address
      upstream({ service: 'api', port: 8181 })
      // @ts-expect-error -- an address is a string
      upstream({ address: 8181, service: 'api' })
      // @ts-expect-error -- only addresses may be a list
      upstream(['api', 'db'])
      // @ts-expect-error -- a URL is for fetch()
      upstream(new URL('https://api.service.consul'))
      // @ts-expect-error -- the upstream is missing
      upstream(undefined)
    })
    compiled((target: ServiceUpstream, addresses: AddressUpstream) => {
      // @ts-expect-error -- read-only
      target.service = 'other'
      // @ts-expect-error -- read-only
      addresses.address = '10.0.0.8:8181'
    })
  })
})

describe('types: expected identities', () => {
  it('contain only what a certificate proves', () => {
    compiled((web: Service) => [
      web.tlsClientOptions('api'),
      web.tlsClientOptions({ service: 'api', namespace: 'n', partition: 'p', datacenter: undefined }),
      // @ts-expect-error -- a certificate does not contain tags
      web.tlsClientOptions({ service: 'api', tags: ['blue'] }),
      // @ts-expect-error -- the expected service is missing
      web.tlsClientOptions(),
      // @ts-expect-error -- a query does not name the service
      web.tlsClientOptions({ query: 'api' }),
    ])
  })
})

describe('types: resolvers', () => {
  const identity = { service: 'api' }

  it('return a read-only list or a promise of it', () => {
    upstream({ name: 'static', resolve: () => [{ host: '10.0.0.7', port: 8181, identity }] })
    upstream({ name: 'later', resolve: () => Promise.resolve([]) })
    upstream({ name: 'sorted', isSorted: true, resolve: (): readonly Endpoint[] => [] })
    upstream({
      name: 'request',
      lastError: undefined,
      resolve: ({ signal, datacenter, refresh }) => {
        expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
        expectTypeOf(datacenter).toBeString()
        expectTypeOf(refresh).toBeBoolean()
        return [{ host: '10.0.0.7', port: 8181, identity: { service: 'api', datacenter }, weight: 2 }]
      },
    })
  })

  it('may be classes', () => {
    class Fixed implements Resolver {
      readonly name = 'fixed'
      lastError: Error | undefined
      resolve(request: ResolveRequest): readonly Endpoint[] {
        request.signal.throwIfAborted()
        return [{ host: '10.0.0.7', port: 8181, identity, weight: undefined }]
      }
    }
    upstream(new Fixed())
  })

  it('do not compile without a name, or with incomplete endpoints', () => {
    compiled(() => {
      // @ts-expect-error -- the identity is missing
      upstream({ name: 'x', resolve: () => [{ host: '10.0.0.7', port: 8181 }] })
      // @ts-expect-error -- an identity is an object
      upstream({ name: 'x', resolve: () => [{ host: '10.0.0.7', port: 8181, identity: 'api' }] })
      // @ts-expect-error -- an endpoint is an object
      upstream({ name: 'x', resolve: () => ['10.0.0.7:8181'] })
      // @ts-expect-error -- the name is missing
      upstream({ resolve: () => [] })
      // @ts-expect-error -- a function alone has no name
      upstream(() => [])
    })
  })
})
